"""Ask an endpoint that speaks OpenAI's protocol, and survive whatever it does.

Endpoints differ in what they can do about the form of a reply. ``RUNGS`` are tried from the top, once for each client,
and the first one that the endpoint takes is remembered. Whatever the rung, the reply is checked here: one that has
another form gets one turn to be repaired. Nothing in a reply is fetched, run or followed, and redirects are refused.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vad_lib.errors import InputError, VadError
from vad_lib.progress import format_seconds
from vad_lib.words.answer import LONGEST_REPLY, AnswerError, plain_text
from vad_lib.words.endpoint import Endpoint

if TYPE_CHECKING:
    import httpx2
    import openai

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]

RUNGS = ("json_schema", "json_object", "text")
"""How the form of a reply is asked for: by its schema, as any JSON, or by words only (the prompt says it anyway)."""
NOT_THIS_RUNG = (400, 415, 422, 501)
"""Status codes of endpoints that do not know a rung."""
LARGEST_REPLY = 2**20
"""Bytes of a whole response; more is not read."""
MOST_TOKENS = 10**8
"""A larger count of tokens is none; the columns of the database hold the sum of several."""
PICTURE_TOKENS = 1340
"""What a picture of 1024 x 1024 pixels costs about, where an endpoint counts nothing."""
FAILURES, REST_SECONDS = 3, 300.0
"""After so many failures in a row an endpoint is left alone for so long."""

_SAMPLING = re.compile("max_tokens|max_completion_tokens|temperature")
"""What models that think complain of: they bound their tokens by another name, and choose the temperature."""
_REPAIR = (
    "That reply cannot be used. What is wrong with it:\n{faults}\n"
    "Write the reply again: one JSON object of the form that was asked for, and nothing before or after it."
)


class EndpointError(VadError):
    """The endpoint did not reply, or replied with something else than the protocol has; the text says what happened.

    Attributes:
        status: the status code of the reply; 0 where there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class EndpointRestsError(EndpointError):
    """The endpoint failed several times and is left alone; ``seconds`` says for how long still."""

    def __init__(self, seconds: float, rest: float, last: str) -> None:
        self.seconds = seconds
        # The same text during the whole rest, so that whoever writes it down does so once.
        super().__init__(f"The endpoint failed several times and is left alone for {format_seconds(rest)}. {last}")


@dataclass(frozen=True)
class Reply:
    """What an endpoint replied.

    Attributes:
        text: at most ``LONGEST_REPLY`` characters; of a refusal, its words.
        prompt_tokens, completion_tokens: as the endpoint counts them, or estimated where it does not.
        seconds: until the reply was there, retries included.
        refused: whether the endpoint marked it as a refusal.
        cut: whether the model was cut off at the most tokens of a reply.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    refused: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Asked(Generic[T]):
    """A reply that was read, or not.

    Attributes:
        value: None where the reply has another form after its repair, too.
        reply: what ``value`` was read from, else the first reply; tokens and seconds are those of all turns.
        problem: what is wrong with the reply where ``value`` is None.
    """

    value: T | None
    reply: Reply
    problem: str = ""


class CircuitBreaker:
    """Leaves an endpoint alone that failed several times in a row. May be shared by threads."""

    def __init__(
        self, failures: int = FAILURES, seconds: float = REST_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0
        self._last = ""

    @property
    def seconds_left(self) -> float:
        """How long the endpoint is left alone; 0: it may be asked."""
        return max(0.0, self._until - self._clock())

    def refuse_while_it_rests(self) -> None:
        """Raise where the endpoint is left alone.

        Raises:
            EndpointRestsError: it is.
        """
        if left := self.seconds_left:
            raise EndpointRestsError(left, self._seconds, self._last)

    def failed(self, reason: str) -> None:
        """Count a failure. After the rest one more failure is enough for another."""
        with self._lock:
            self._failures += 1
            self._last = reason
            if self._failures >= self._most:
                self._until = self._clock() + self._seconds

    def worked(self) -> None:
        """Forget all failures."""
        with self._lock:
            self._failures, self._until = 0, 0.0


def _tell_nobody(outcome: str, reply: Reply | None) -> None:
    pass


class Client:
    """Asks one endpoint. Keep it: it remembers what the endpoint can do and whether it is to be left alone.

    Args:
        endpoint: whom to ask.
        breaker: leaves it alone after failures.
        told: called after each request with its outcome (``replied``, ``refused``, ``failed``) and the reply.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        breaker: CircuitBreaker | None = None,
        told: Callable[[str, Reply | None], None] = _tell_nobody,
    ) -> None:
        self.endpoint = endpoint
        self.breaker = breaker or CircuitBreaker()
        self.rung: str | None = None
        """How the form of a reply is asked for; None until the endpoint has taken one."""
        self._told = told
        self._takes_max_tokens = True
        self._lock = threading.Lock()
        self._opened: openai.OpenAI | None = None

    def ask(self, messages: Messages, *, most_tokens: int | None = None) -> Reply:
        """Send messages in the form of the protocol, and return the reply as text.

        Args:
            messages: with pictures as data: URLs only.
            most_tokens: of the reply; None: those of the endpoint.

        Raises:
            EndpointRestsError: the endpoint is left alone.
            EndpointError: it does not reply, or not as the protocol has it.
        """
        return self._counted(messages, most_tokens or self.endpoint.most_tokens, {})

    def ask_for(
        self,
        messages: Messages,
        read: Callable[[str], T],
        schema: Mapping[str, Any],
        *,
        most_tokens: int | None = None,
    ) -> Asked[T]:
        """Ask for a reply of a form, and read it; one that cannot be read gets one turn to be repaired.

        Args:
            messages: as for ``ask``; they say in words what the form is.
            read: reads a reply, or raises ``AnswerError`` with what is wrong.
            schema: of the form, as JSON schema.
            most_tokens: of each reply; None: those of the endpoint.

        Raises:
            EndpointError: as for ``ask``. Where only the repair fails, the first reply is returned unread.
        """
        most_tokens = most_tokens or self.endpoint.most_tokens
        first = self._ask_by_rung(messages, schema, most_tokens)
        try:
            return Asked(read(first.text), first)
        except AnswerError as error:
            problem = str(error)
        if first.refused:
            return Asked(None, first, "The model refused to answer.")
        if first.cut:
            problem += f"\nThe reply was cut off after {most_tokens} tokens: write less."
        repair = [
            *messages,
            {"role": "assistant", "content": first.text[:4000] or "(nothing)"},
            {"role": "user", "content": _REPAIR.format(faults=problem)},
        ]
        try:
            second = self._ask_by_rung(repair, schema, most_tokens)
        except EndpointError as error:
            return Asked(None, first, f"{problem}\nIt could not be repaired: {error}")
        both = _together(first, second)
        try:
            return Asked(read(second.text), replace(both, text=second.text))
        except AnswerError as error:
            return Asked(None, both, str(error))

    def require_installed(self) -> None:
        """Raise where the client library is missing.

        Raises:
            InputError: it is; the message says what to install.
        """
        _openai()

    def models(self) -> list[str]:
        """Return the models that the endpoint lists, at most 200.

        Raises:
            EndpointError: it does not say.
        """
        with _told_plainly(self.endpoint):
            body = _json_of(self._client().models.with_raw_response.list())
        listed = body.get("data")
        if not isinstance(listed, list):
            raise EndpointError(f"{self.endpoint.url}/models does not list models.")
        return [plain_text(str(one.get("id", "")), 200) for one in listed[:200] if isinstance(one, dict)]

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _ask_by_rung(self, messages: Messages, schema: Mapping[str, Any], most_tokens: int) -> Reply:
        rungs = [self.rung] if self.rung else list(RUNGS)
        for rung in rungs:
            try:
                reply = self._counted(messages, most_tokens, _response_format(rung, schema))
            except EndpointError as error:
                if error.status in NOT_THIS_RUNG and rung != rungs[-1]:
                    continue
                # an endpoint that was changed may have unlearnt what it could do
                self.rung = None
                raise
            self.rung = rung
            return reply
        raise AssertionError("there is always a last rung")

    def _counted(self, messages: Messages, most_tokens: int, extra: Mapping[str, Any]) -> Reply:
        self.breaker.refuse_while_it_rests()
        try:
            try:
                reply = self._sent(messages, most_tokens, extra)
            except EndpointError as error:
                if not (self._takes_max_tokens and error.status == 400 and _SAMPLING.search(str(error))):
                    raise
                self._takes_max_tokens = False
                reply = self._sent(messages, most_tokens, extra)
        except EndpointError as error:
            # A rung that the endpoint does not know is no failure of it.
            if not (extra and error.status in NOT_THIS_RUNG):
                self.breaker.failed(str(error))
                self._told("failed", None)
            raise
        self.breaker.worked()
        self._told("refused" if reply.refused else "replied", reply)
        return reply

    def _sent(self, messages: Messages, most_tokens: int, extra: Mapping[str, Any]) -> Reply:
        bounds: dict[str, Any] = {"max_completion_tokens": most_tokens}
        if self._takes_max_tokens:
            bounds = {"max_tokens": most_tokens, "temperature": 0}
        started = time.monotonic()
        with _told_plainly(self.endpoint):
            answer = self._client().chat.completions.with_raw_response.create(
                model=self.endpoint.model,
                messages=list(messages),  # type: ignore[arg-type]
                **bounds,
                **extra,
            )
            return _reply_of(_json_of(answer), messages, time.monotonic() - started)

    def _client(self) -> openai.OpenAI:
        with self._lock:
            if self._opened is None:
                self._opened = _open(self.endpoint)
            return self._opened


def _open(endpoint: Endpoint) -> openai.OpenAI:
    make = _openai().OpenAI
    import httpx2

    bounds = httpx2.Timeout(endpoint.seconds, connect=endpoint.connect_seconds)
    made: openai.OpenAI = make(
        base_url=endpoint.url,
        api_key=endpoint.key or "none",
        timeout=bounds,
        max_retries=endpoint.retries,
        http_client=httpx2.Client(
            transport=_bounded_transport(endpoint),
            timeout=bounds,
            follow_redirects=False,
            trust_env=False,
        ),
    )
    # The client takes them from the environment; they are of another account than this endpoint's.
    made.organization = made.project = None
    return made


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "The client of the endpoint is not installed: install the extra vlm (pip install 'vad[vlm]')."
        ) from error
    return openai


def _bounded_transport(endpoint: Endpoint) -> httpx2.BaseTransport:
    """Return a transport that reads a response as a whole, up to a size and a moment, and nothing that unpacks."""
    import httpx2

    class Bounded(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            with _Deadline(endpoint.seconds) as deadline:
                request.extensions = {**request.extensions, "trace": deadline.follow}
                try:
                    return self._whole(request)
                except httpx2.TransportError as error:
                    if not deadline.passed:
                        raise
                    raise httpx2.ReadTimeout("the reply does not end", request=request) from error

        def _whole(self, request: httpx2.Request) -> httpx2.Response:
            request.headers["Accept-Encoding"] = "identity"
            response = super().handle_request(request)
            body = b""
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    return _instead(request, "it is packed")
                for piece in response.stream:  # type: ignore[union-attr]
                    body += piece
                    if len(body) > LARGEST_REPLY:
                        return _instead(request, f"it is larger than {LARGEST_REPLY // 1024} KiB")
            finally:
                response.close()
            # What an endpoint says is stored and shown: an echo of the secret must not be in it.
            body = endpoint.without_key(body)
            return httpx2.Response(response.status_code, headers=response.headers, content=body, request=request)

    def _instead(request: httpx2.Request, why: str) -> httpx2.Response:
        # a status that is not tried again, as the same would come again
        error = {"error": {"message": f"The reply is not read: {why}."}}
        return httpx2.Response(413, json=error, request=request)

    proxy = None if endpoint.is_local else _proxy_of(endpoint)
    # Each request opens a connection of its own: that one is known, and is shut down where it takes too long.
    return Bounded(proxy=proxy, retries=0, limits=httpx2.Limits(max_keepalive_connections=0))


class _Deadline:
    """Shuts the connection of a request down after some seconds, whichever byte of headers or body is waited for.

    The time-outs of the client are of single reads: a reply that trickles in byte by byte never meets them.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._connection: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def follow(self, event: str, info: Mapping[str, Any]) -> None:
        """Learn which connection it is: the client calls this at each step."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._connection = info["return_value"].get_extra_info("socket")
            if self.passed:
                self._end()

    def _end(self) -> None:
        self.passed = True
        if self._connection is not None:
            with suppress(OSError):
                # not the method of a TLS socket, which takes it apart under the thread that reads from it
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)


def _proxy_of(endpoint: Endpoint) -> str | None:
    """Return the proxy that this machine's settings name for an address; one on this machine is never asked by one."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(endpoint.url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@contextmanager
def _told_plainly(endpoint: Endpoint) -> Iterator[None]:
    """Turn errors of the client into ``EndpointError``, in words for a person who runs the endpoint."""
    openai = _openai()
    url = endpoint.url
    try:
        yield
    except openai.APITimeoutError as error:
        raise EndpointError(f"{url} did not reply within {endpoint.seconds:g} s (VAD_VLM_SECONDS).") from error
    except openai.APIConnectionError as error:
        raise EndpointError(f"{url} cannot be reached, or hung up: {_reason(error)}.") from error
    except openai.APIStatusError as error:
        status = error.status_code
        said = f"{url} replied with the status {status}: {plain_text(_told_by(error), 300)}"
        if 300 <= status < 400:
            said = f"{url} sends the request elsewhere, which is refused. Name the right address in VAD_VLM_URL."
        raise EndpointError(said, status) from error
    except (openai.OpenAIError, ValueError, TypeError, RecursionError) as error:
        raise EndpointError(f"{url} replied with something else than the protocol has: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return plain_text(str(error.__cause__ or error), 200).rstrip(".") or type(error).__name__


def _told_by(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(body or error.message)


def _json_of(answer: Any) -> dict[str, Any]:
    body = json.loads(answer.content)
    if not isinstance(body, dict):
        raise ValueError("it is no JSON object")
    return body


def _reply_of(body: Mapping[str, Any], messages: Messages, seconds: float) -> Reply:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("it holds no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ValueError("it holds no message")
    refusal = message.get("refusal")
    refused = isinstance(refusal, str) and bool(refusal.strip())
    text = refusal if refused else _text_of(message.get("content"))
    if not text:
        raise ValueError(_instead_of_text(message))
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        plain_text(str(text), LONGEST_REPLY, lines=True),
        _count(usage.get("prompt_tokens"), estimated_tokens(messages)),
        _count(usage.get("completion_tokens"), len(str(text)) // 4 + 1),
        seconds,
        refused,
        choices[0].get("finish_reason") == "length",
    )


def _text_of(content: Any) -> str:
    """Return what was written, in whole or in parts; '' where that is nothing but spaces."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    text = "".join(one for one in texts if isinstance(one, str))
    return text if text.strip() else ""


def _instead_of_text(message: Mapping[str, Any]) -> str:
    """Say what a message holds in the place of an answer. Thoughts are drafts, and never the answer."""
    if message.get("tool_calls") or message.get("function_call"):
        return "the model asked for a tool, and there is none: it wrote no answer"
    if message.get("reasoning") or message.get("reasoning_content"):
        return "the model only thought and wrote no answer: it may need more tokens, or its thinking switched off"
    return "the model wrote nothing"


def _count(value: Any, estimate: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TOKENS else estimate


def estimated_tokens(messages: Messages) -> int:
    """Return about how many tokens messages are: a quarter of their characters, and a whole large picture for each.

    >>> estimated_tokens([{"role": "user", "content": "What is new? " * 10}])
    33
    """
    tokens = 0
    for message in messages:
        content = message.get("content", "")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            tokens += PICTURE_TOKENS if part.get("type") == "image_url" else len(part.get("text", "")) // 4 + 1
    return tokens


def _response_format(rung: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if rung == "text":
        return {}
    if rung == "json_object":
        return {"response_format": {"type": "json_object"}}
    asked = {"name": "answer", "strict": True, "schema": dict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": asked}}


def _together(first: Reply, second: Reply) -> Reply:
    return replace(
        first,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        seconds=first.seconds + second.seconds,
    )
