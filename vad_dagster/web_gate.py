"""What stands before web pages, so that no other page in the person's browser can act on them.

Dagster's own web server takes mutations by GET, from any origin and under any host name: an ``<img>`` on any page could
start runs or wipe assets. ``WebGate`` lets through what a person does in the server's own pages, and programs on this
machine. The inference service stands behind one too. ``python -m vad_dagster.web_gate`` takes the options of
``dagster-webserver`` and starts it behind the gate.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")
FORWARDED_USER, FORWARDED_GROUPS = "x-forwarded-user", "x-forwarded-groups"
"""What a trusted proxy says about who asks."""
logger = logging.getLogger("uvicorn.error")
"""The log of the server that it runs in."""

JUDGED_BY = {"host", "origin", "authorization", "content-type", "sec-fetch-site", FORWARDED_USER, FORWARDED_GROUPS}
"""Of a header that comes twice, what is protected might take the one that was not judged."""
GRAPHQL_TYPES = ("application/json", "application/graphql")


class WebGate:
    """An ASGI application before another one.

    Args:
        application: what is protected.
        hosts: names under which it may be asked, without a port, beside those of this machine.
        tokens: the passwords of which every request must bear one, by HTTP's Basic (any user name) or Bearer; without
            any, none is asked for.
        token_name: the variable that holds it.
        open_paths: what is told without the token.
    """

    def __init__(
        self,
        application: Application,
        hosts: Collection[str] = (),
        tokens: Collection[str] = (),
        *,
        token_name: str = "VAD_UI_TOKEN",
        open_paths: Collection[str] = (),
    ) -> None:
        self._application = application
        self._token_name = token_name
        self._open_paths = frozenset(open_paths)
        self._hosts = {*THIS_MACHINE, *(host.strip().lower() for host in hosts if host.strip())}
        self._tokens = [token for token in tokens if token]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        named = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(named)
        if sum(name in JUDGED_BY for name, _ in named) > len(JUDGED_BY & headers.keys()):
            status, reason = 400, f"Each of these headers may come only once: {', '.join(sorted(JUDGED_BY))}."
        else:
            status, reason = self.judge(scope, headers)
        if status == 200:
            await self._application(scope, receive, send)
            return
        logger.warning("refused %s: %s", scope["path"], reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            told: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain; charset=utf-8")]
            if status == 401:
                told.append((b"www-authenticate", b'Basic realm="vad", charset="UTF-8"'))
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def judge(self, scope: Scope, headers: MutableMapping[str, str]) -> tuple[int, str]:
        """Return 200 where a request may pass, else the status to answer with and the reason in a sentence."""
        host = headers.get("host", "").lower()
        if _without_port(host) not in self._hosts:
            return 421, "This server does not answer under that host name. VAD_ALLOWED_HOSTS names further ones."
        if scope["path"] not in self._open_paths and not self.is_let_in(headers.get("authorization", "")):
            return 401, f"This server asks for the password that {self._token_name} holds."
        origin = headers.get("origin")
        if origin is not None and _place_of(origin) != host:
            return 403, f"A page of {origin} sent this to {host}: requests from pages of other sites are refused."
        method, is_graphql = scope.get("method", "GET"), scope["path"].rstrip("/").endswith("/graphql")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # a link or a bookmark opens a page; anything else that another site causes may be an attack
            in_window = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            opens_page = method in ("GET", "HEAD") and in_window
            if scope["type"] == "websocket" or is_graphql or not opens_page:
                return 403, "Requests from pages of other sites are refused."
        if is_graphql and scope["type"] == "http":
            if "query" in parse_qs(scope.get("query_string", b"").decode("latin-1")):
                return 405, "GraphQL is taken by POST only, and never from the address."
            sent = headers.get("content-type", "").partition(";")[0].strip().lower()
            if method == "POST" and sent not in GRAPHQL_TYPES:
                return 415, f"GraphQL is taken as {' or '.join(GRAPHQL_TYPES)} only."
        return 200, ""

    def is_let_in(self, authorization: str) -> bool:
        """Return whether a request bears a token, where one is asked for."""
        _, given = credentials(authorization)
        return not self._tokens or any(is_token(given, token) for token in self._tokens)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isascii() and port.isdigit() else host


def _place_of(origin: str) -> str:
    """Return host and port of an origin, such as '127.0.0.1:3000'; nothing where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def credentials(authorization: str) -> tuple[str, bytes]:
    """Return the user name (Basic's; else empty) and the password that a request bears; both empty where it has none.

    >>> credentials("Bearer secret")
    ('', b'secret')
    """
    kind, _, value = authorization.partition(" ")
    given = value.strip().encode("latin-1")
    if kind.lower() == "bearer":
        return "", given
    if kind.lower() == "basic":
        try:
            user, _, password = base64.b64decode(given, validate=True).partition(b":")
        except binascii.Error:
            return "", b""
        return user.decode("utf-8", "replace"), password
    return "", b""


def is_token(given: bytes, token: str) -> bool:
    """Compare in a time that does not tell how much of it is right; an empty token is nobody's."""
    return bool(token) and hmac.compare_digest(given, token.encode())


def main() -> None:
    """Start Dagster's web server behind the gate, with the options of ``dagster-webserver``."""
    import uvicorn
    from dagster_webserver.cli import main as dagster_webserver

    from vad_lib.settings import keep_private, settings

    keep_private()
    now, run = settings(), uvicorn.run

    def run_behind_gate(application: Application, **options: Any) -> None:
        run(WebGate(application, now.allowed_hosts.split(","), [now.ui_token.get_secret_value()]), **options)

    # Dagster has no door for a middleware; but its command hands its application to uvicorn by this function.
    uvicorn.run = run_behind_gate  # type: ignore[assignment]
    dagster_webserver()


if __name__ == "__main__":
    main()
