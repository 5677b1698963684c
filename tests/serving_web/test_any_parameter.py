"""Whatever stands in a parameter of any request, the answer says what is wrong, and never that the service failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from brightness_model import write_image
from hypothesis import given, settings
from hypothesis import strategies as st

Web = Callable[..., str]
ODD = (
    *("%ED%A0%80", "%00", "a%00b", "%FF%FE", "%F0%9F%92%A5", "%0D%0ASet-Cookie:a=b", "%2e%2e%2f", "..%5c", "%", "%zz"),
    *(str(2**63), str(-(2**63) - 1), "-0", "1e400", "nan", "inf", "-inf", "0x10", "%D9%A1", "1_0", "9" * 5000, "1.5"),
    *("x" * 9000, "", "%20", "true", "null", "[]", "%7B%7D", "'--", "%3Cscript%3E"),
)
"""As they stand in an address: lone surrogates, NUL, bytes that are no text, numbers that no database holds."""
BODIES = (
    *(b"", b"\xff", b"null", b"[]", b"{", b'{"label": NaN}', b'{"label": 1e999, "person": "Kim"}', b"[" * 60_000),
    *(b'{"label": "OK", "person": "%b"}' % text for text in (b"\\ud800", b"\\u0000", b"a\\u0000", b"x" * 129, b" ")),
    *(b'{"label": "OK", "person": "Kim", "note": "%b"}' % text for text in (b"\\udfff", b"\\u0000", b"x" * 2001)),
    *(b'{"label": "%b", "person": "Kim"}' % text for text in (b"\\ud800", b"\\u0000", b"ok")),
    *(b'{"label": %b, "person": "Kim"}' % text for text in (b"9" * 5000, b"-Infinity", b'{"a": NaN}', b"[[]]")),
)
REFUSALS = {400, 404, 405, 410, 413, 422}
ANSWERS = REFUSALS | {200, 202, 303, 307}
"""Those that lead on, lead to this service: see ``test_a_name_of_another_is_never_led_to``."""


@dataclass(frozen=True)
class Operation:
    """One request of the interface, with a right value for each parameter."""

    method: str
    path: str
    in_path: tuple[str, ...]
    in_query: tuple[str, ...]

    def ask(self, session: requests.Session, address: str, image: bytes, **odd: str) -> int:
        """Send it with values that are odd; returns the status."""
        right = {"line": "bottles", "prediction_id": "1", "sha256": "0" * 64, "description_id": "1"}
        right |= {"file_id": "1", "number": "1", **odd}
        path = self.path
        for name in self.in_path:
            path = path.replace("{" + name + "}", right[name])
        query = "&".join(f"{name}={odd[name]}" for name in self.in_query if name in odd)
        request = requests.Request(self.method, address, data=image if self.path.endswith("/images") else None)
        prepared = session.prepare_request(request)
        prepared.url = f"{address}{path}?{query}"
        with session.send(prepared, timeout=60, allow_redirects=False, stream=True) as reply:
            if self.path != "/events":  # a stream has no end
                _ = reply.content
            return reply.status_code


def _operations(described: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            places: dict[str, list[str]] = {"path": [], "query": []}
            for parameter in operation.get("parameters", ()):
                places[parameter["in"]].append(parameter["name"])
            yield Operation(method.upper(), path, tuple(places["path"]), tuple(places["query"]))


def _scored(address: str, tmp_path: Path) -> bytes:
    """Have one image scored, so that there is a prediction; returns its bytes."""
    data = write_image(tmp_path / "made.png", 60, 0).read_bytes()
    assert requests.post(f"{address}/lines/bottles/images?seconds=30", data=data, timeout=60).status_code == 200
    return data


def test_an_odd_value_in_any_parameter_is_refused_or_of_no_effect(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    address = web()
    image = _scored(address, tmp_path)
    operations = list(_operations(requests.get(f"{address}/openapi.json", timeout=20).json()))
    assert len(operations) > 12
    seen = 0
    with requests.Session() as session:
        for operation in operations:
            for name in (*operation.in_path, *operation.in_query):
                for value in ODD:
                    told = operation.ask(session, address, image, **{name: value})
                    assert told in ANSWERS, (told, operation, name, value[:50])
                    seen += 1

        @settings(max_examples=100)
        @given(st.data())
        def search(data: st.DataObject) -> None:
            operation = data.draw(st.sampled_from([each for each in operations if each.in_path or each.in_query]))
            text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: quote(text, safe=""))
            odd = {
                name: data.draw(st.one_of(st.sampled_from(ODD), text, st.integers().map(str), st.floats().map(str)))
                for name in (*operation.in_path, *operation.in_query)
                if data.draw(st.booleans())
            }
            assert operation.ask(session, address, image, **odd) in ANSWERS

        search()
    assert seen > 300


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:45]))
def test_a_label_that_cannot_be_recorded_is_refused(web: Web, tmp_path: Path, body: bytes) -> None:
    address = web()
    _scored(address, tmp_path)
    labels = f"{address}/lines/bottles/results/1/labels"
    headers = {"Content-Type": "application/json"}
    answer = requests.post(labels, data=body, headers=headers, timeout=20)
    assert answer.status_code in REFUSALS
    assert answer.json()["detail"]
