"""The client of an endpoint, against one that does everything that endpoints do."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.words.stub_endpoint import ANSWER, Stub, Turn
from tests.words.words_rig import MakeClient
from vad_lib.errors import InputError
from vad_lib.words.answer import Answer, answer_schema
from vad_lib.words.client import Asked, CircuitBreaker, Client, EndpointError, EndpointRestsError
from vad_lib.words.endpoint import Endpoint

QUESTION = [{"role": "user", "content": "What is seen?"}]


def ask(client: Client) -> Asked[Answer]:
    return client.ask_for(QUESTION, Answer.of_reply, answer_schema())


def test_an_answer_comes_by_its_schema_with_its_cost(stub: Stub, make_client: MakeClient) -> None:
    asked = ask(make_client(key="s3cret"))
    assert asked.value == Answer.checked(ANSWER)
    assert (asked.reply.prompt_tokens, asked.reply.completion_tokens) == (100, 20)
    assert stub.formats() == ["json_schema"]
    assert stub.asked[0]["response_format"]["json_schema"]["schema"] == answer_schema()
    assert stub.headers[0]["authorization"] == "Bearer s3cret"


def test_nothing_of_another_account_is_told_to_the_endpoint(
    stub: Stub, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-another-account")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    assert ask(make_client()).value
    assert "of-another-account" not in json.dumps(stub.headers)


@pytest.mark.parametrize(
    ("takes", "formats"),
    [
        ("json_object", ["json_schema", "json_object", "json_object"]),
        ("text", ["json_schema", "json_object", "text", "text"]),
    ],
)
def test_the_ladder_is_climbed_down_once_and_the_rung_is_remembered(
    takes: str, formats: list[str], stub: Stub, make_client: MakeClient
) -> None:
    stub.script = lambda body: Turn(
        status=200 if body.get("response_format", {"type": "text"})["type"] == takes else 400
    )
    client = make_client()
    assert ask(client).value
    assert ask(client).value
    assert stub.formats() == formats
    assert client.rung == takes


def test_a_model_that_bounds_its_tokens_by_another_name_is_asked_so(stub: Stub, make_client: MakeClient) -> None:
    complaint = json.dumps(
        {"error": {"message": "'max_tokens' is not supported, use 'max_completion_tokens'."}}
    ).encode()
    stub.script = lambda body: Turn(status=400, body=complaint) if "max_tokens" in body else Turn()
    client = make_client()
    assert ask(client).value
    assert ask(client).value
    assert ["max_tokens" in body for body in stub.asked] == [True, False, False]
    assert "temperature" not in stub.asked[1]
    assert client.rung == "json_schema"


def test_an_endpoint_that_refuses_every_rung_is_told_with_its_words(stub: Stub, make_client: MakeClient) -> None:
    stub.script = lambda body: Turn(status=400)
    client = make_client()
    with pytest.raises(EndpointError, match="status 400: status 400"):
        ask(client)
    assert client.rung is None


@pytest.mark.parametrize(
    "text",
    ["Sure:\n```json\n" + json.dumps(ANSWER) + "\n```\nHope it helps.", json.dumps(ANSWER | {"anomaly": "YES"})],
)
def test_prose_around_the_answer_needs_no_repair(text: str, stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn(text)]
    assert ask(make_client()).value == Answer.checked(ANSWER)
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps(ANSWER)[:-30], "no whole JSON object|Field required"),
        (json.dumps({"anomaly": "perhaps"}), "anomaly: Input should be"),
        ("I see a scratch.", "no whole JSON object"),
    ],
)
def test_a_reply_of_another_form_gets_one_turn_to_be_repaired(
    text: str, told: str, stub: Stub, make_client: MakeClient
) -> None:
    stub.turns = [Turn(text)]
    asked = ask(make_client())
    assert asked.value == Answer.checked(ANSWER)
    assert (asked.reply.prompt_tokens, asked.reply.completion_tokens) == (200, 40)
    *_, reply, repair = stub.asked[1]["messages"]
    assert reply == {"role": "assistant", "content": text}
    assert re.search(told, repair["content"])


def test_what_cannot_be_repaired_is_kept_as_text(stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn("I see a scratch."), Turn("As I said: a scratch."), Turn("never asked for")]
    asked = ask(make_client())
    assert asked.value is None
    assert asked.reply.text == "I see a scratch."
    assert len(stub.asked) == 2


def test_a_refusal_is_kept_and_not_argued_with(stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn(refusal="I cannot help with pictures of people.")]
    asked = ask(make_client())
    assert (asked.value, asked.problem) == (None, "The model refused to answer.")
    assert asked.reply.text == "I cannot help with pictures of people."
    assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(status: int, stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn(status=status), Turn(status=status)]
    assert ask(make_client()).value
    assert len(stub.asked) == 3


def test_an_endpoint_that_names_a_time_is_asked_after_it(stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn(status=429, headers={"Retry-After": "0.3"})]
    started = time.monotonic()
    assert ask(make_client()).value
    assert time.monotonic() - started >= 0.3


FAULTS: dict[str, tuple[Turn, str, int]] = {
    "slow": (Turn(delay=0.5), r"did not reply within 0\.15 s \(VAD_VLM_SECONDS\)", 3),
    "error": (Turn(status=500), "status 500", 3),
    "hang-up": (Turn(hang_up=True), "cannot be reached, or hung up", 3),
    "10 MB": (Turn("x" * 10_000_000), "status 413: The reply is not read: it is larger than 1024 KiB", 1),
    "packed": (
        Turn(body=gzip.compress(bytes(5_000_000)), headers={"Content-Encoding": "gzip"}),
        "not read: it is packed",
        1,
    ),
    "no JSON": (Turn(body=b"<html>hello</html>"), "something else than the protocol has", 1),
    "a list": (Turn(body=b"[1]"), "it is no JSON object", 1),
    "no choices": (Turn(body=b'{"choices": []}'), "it holds no choices", 1),
    "nothing": (Turn(" "), "the model wrote nothing", 1),
    "deep": (Turn(body=b'{"a":' * 100_000), "something else than the protocol has", 1),
    "secret wrong": (Turn(status=401), "status 401", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_an_endpoint_does_is_told_in_words_and_bounded(
    fault: str, stub: Stub, make_client: MakeClient
) -> None:
    turn, said, requests = FAULTS[fault]
    stub.script = lambda body: turn
    with pytest.raises(EndpointError, match=said):
        make_client(seconds=0.15 if fault == "slow" else 2.0).ask(QUESTION)
    assert len(stub.asked) == requests


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_nothing_is_sent_there(status: int, stub: Stub, make_client: MakeClient) -> None:
    stub.script = lambda body: Turn(status=status, headers={"Location": stub.url.replace("/v1", "/elsewhere")})
    with pytest.raises(EndpointError, match="sends the request elsewhere, which is refused"):
        make_client().ask(QUESTION)
    assert stub.seen == ["POST /v1/chat/completions"]


@pytest.mark.parametrize("headers", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"], ids=["headers", "body"])
def test_a_reply_that_drips_is_ended_by_the_clock(headers: bytes, make_client: MakeClient) -> None:
    """Each byte comes in time, and the whole never does."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        taken, _ = listener.accept()
        with taken, suppress(OSError):
            taken.recv(65536)
            taken.sendall(headers)
            for byte in b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 4000:
                taken.sendall(bytes([byte]))
                if over.wait(0.05):
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(EndpointError, match="did not reply within"):
            make_client(url=f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.2, retries=0).ask(QUESTION)
        assert thread.is_alive()  # it would have gone on for minutes
    finally:
        over.set()
        thread.join(10)
        listener.close()


def _message(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": None} | message}]}).encode()


def test_an_answer_in_parts_is_put_together(stub: Stub, make_client: MakeClient) -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "image_url"}, 7, {"type": "text", "text": "dust."}]
    stub.turns = [Turn(body=_message(content=parts))]
    assert make_client().ask(QUESTION).text == "It is dust."


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"tool_calls": [{"id": "1", "function": {"name": "look"}}]}, "asked for a tool, and there is none"),
        ({"reasoning_content": "A scratch? Let me draft: it is dust."}, "only thought and wrote no answer"),
        ({"reasoning": "A scratch?", "content": "  "}, "only thought and wrote no answer"),
        ({"content": []}, "the model wrote nothing"),
    ],
)
def test_what_comes_in_the_place_of_an_answer_is_told_and_no_draft_is_taken(
    message: dict[str, Any], said: str, stub: Stub, make_client: MakeClient
) -> None:
    stub.script = lambda body: Turn(body=_message(**message))
    with pytest.raises(EndpointError, match=said) as caught:
        make_client().ask(QUESTION)
    assert "draft" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_an_echo_of_the_secret_is_not_handed_on(status: int, stub: Stub, make_client: MakeClient) -> None:
    said = json.dumps({"error": {"message": "wrong key: s3cret-of-ours"}}).encode()
    stub.script = lambda body: Turn("Your key is s3cret-of-ours.", status=status, body=said if status > 200 else None)
    try:
        told = make_client(key="s3cret-of-ours", retries=0).ask(QUESTION).text
    except EndpointError as error:
        told = str(error)
    assert "key" in told
    assert "s3cret" not in told
    assert stub.headers[0]["authorization"] == "Bearer s3cret-of-ours"


@pytest.mark.parametrize("key", ["schl\u00fcssel", "a\0b", "a\tb"])
def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InputError, match="VAD_VLM_API_KEY") as refused:
        Endpoint("http://127.0.0.1:1/v1", "m", key)
    assert key not in str(refused.value)


def test_a_count_of_tokens_that_no_column_holds_is_none(stub: Stub, make_client: MakeClient) -> None:
    stub.script = lambda body: Turn("a scratch", usage={"prompt_tokens": 2**31 - 1, "completion_tokens": -1})
    asked = ask(make_client())
    assert 0 < asked.reply.prompt_tokens < 10_000
    assert 0 < asked.reply.completion_tokens < 100


def test_tokens_are_estimated_where_the_endpoint_counts_none(stub: Stub, make_client: MakeClient) -> None:
    stub.script = lambda body: Turn("a scratch", usage=None)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    reply = make_client().ask([{"role": "user", "content": [picture, {"type": "text", "text": "x" * 400}]}])
    assert reply.prompt_tokens == 1340 + 101
    assert reply.completion_tokens == 3


def test_after_three_failures_an_endpoint_is_left_alone_until_one_request_may_try_it(
    stub: Stub, make_client: MakeClient
) -> None:
    now = [0.0]
    client = make_client(CircuitBreaker(clock=lambda: now[0]), retries=0)
    stub.script = lambda body: Turn(status=500)
    for _ in range(3):
        with pytest.raises(EndpointError, match="status 500"):
            client.ask(QUESTION)
    with pytest.raises(EndpointRestsError, match=r"left alone for 5 min 0 s\. .* status 500"):
        client.ask(QUESTION)
    assert len(stub.asked) == 3
    now[0] = 301.0
    with pytest.raises(EndpointError, match="status 500"):
        client.ask(QUESTION)
    with pytest.raises(EndpointRestsError):
        client.ask(QUESTION)
    now[0] = 602.0
    stub.script = lambda body: Turn()
    client.ask(QUESTION)
    assert client.breaker.seconds_left == 0.0


def test_who_counts_is_told_of_each_request(stub: Stub, make_client: MakeClient) -> None:
    told: list[tuple[str, int]] = []
    client = make_client(told=lambda outcome, reply: told.append((outcome, reply.prompt_tokens if reply else 0)))
    stub.turns = [Turn(), Turn(refusal="no"), Turn(status=401)]
    client.ask(QUESTION)
    client.ask(QUESTION)
    with pytest.raises(EndpointError):
        client.ask(QUESTION)
    assert told == [("replied", 100), ("refused", 100), ("failed", 0)]


def test_the_models_of_an_endpoint_are_listed(stub: Stub, make_client: MakeClient) -> None:
    stub.models = ("a", "b\x1b[2J")
    assert make_client().models() == ["a", "b[2J"]


@pytest.mark.spec("P6.06")
@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://0.0.0.0:8000/v1", False),
        ("http://10.0.0.7/v1", False),
        ("http://2130706433/v1", False),
        ("http://127.1/v1", False),
        ("http://[::ffff:10.0.0.1]/v1", False),
        ("http://127.0.0.1\n.example.org/v1", False),
        ("https://models.example.org/v1", False),
    ],
)
def test_pictures_leave_the_machine_only_with_the_leave_of_the_plan(url: str, is_local: bool) -> None:
    endpoint = Endpoint(url, "m")
    assert endpoint.is_local is is_local
    endpoint.require_leave("bottles", True)
    if is_local:
        endpoint.require_leave("bottles", False)
    else:
        with pytest.raises(InputError, match="allow_images_to_leave: true"):
            endpoint.require_leave("bottles", False)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/v1", "host:8000", "http://", "http://a:b@host/v1", "http://[::1"),
        *("http://127.0.0.1@host/v1", "http://127.0.0.1:99999/v1", "http://127.0.0.1:x/v1", "http://127.0.0.1:0/v1"),
        *("https://host/v1?key=s3cret", "http://127.0.0.1#@host/v1"),
    ],
)
def test_what_is_no_address_of_the_web_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InputError, match="VAD_VLM_URL must be an address"):
        Endpoint(url, "m")


def test_the_settings_name_the_endpoint_and_the_secret_comes_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Endpoint.of_settings() is None
    with pytest.raises(InputError, match="set VAD_VLM_URL"):
        Endpoint.required()
    values: dict[str, Any] = {"VAD_VLM_URL": "http://127.0.0.1:1/v1/", "VAD_VLM_MODEL": "m", "VAD_VLM_SECONDS": "5"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VAD_VLM_API_KEY", "from the environment")
    assert Endpoint.required() == Endpoint("http://127.0.0.1:1/v1", "m", "from the environment", 5.0)
    monkeypatch.setenv("VAD_VLM_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(InputError, match="cannot be read"):
        Endpoint.required()
    (tmp_path / "key").write_text(" hunter2 \nsecond line")
    found = Endpoint.required()
    assert found.key == "hunter2"
    assert "hunter2" not in repr(found)
