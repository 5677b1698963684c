"""Descriptions, corrections and dialogues on the pages of the inference service, asked over a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import requests
from serving_rig import RigSource, until
from test_descriptions import Mapping, send

from tests.browser import page
from tests.words.stub_endpoint import ANSWER, Stub, Turn
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.words.describing import newest_description

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["page"]

Web = Callable[..., str]
PLAN = "user_parameters:\n  - train_pipeline:\n    - step: train\n"


@dataclass
class Site:
    """A service with an NG image, its endpoint and its database."""

    address: str
    source: RigSource
    stub: Stub
    db: InspectionDatabase
    number: int
    token: str = ""

    @property
    def here(self) -> str:
        return f"{self.address}/lines/bottles/results/{self.number}"

    def get(self, address: str = "", **how: Any) -> str:
        answer = requests.get(address or self.here, timeout=20, **how)
        assert answer.status_code == 200, answer.text
        return answer.text

    def post(self, path: str, body: dict[str, Any], **how: Any) -> requests.Response:
        return requests.post(f"{self.address}/lines/bottles/{path}", json=body, timeout=20, **how)

    def of_it(self, what: str, body: dict[str, Any]) -> requests.Response:
        return self.post(f"results/{self.number}/{what}", body)

    def described(self) -> str:
        """Ask for a description and return the part of the page once it is there."""
        assert self.of_it("descriptions", {"person": "Kim"}).status_code == 202
        until(lambda: 'data-waiting="0"' in self.get(f"{self.here}/description"))
        return self.get(f"{self.here}/description")

    def answered(self, text: str) -> str:
        """Ask a question and return the part of the page once the answer is there."""
        assert self.of_it("questions", {"text": text, "person": "Kim"}).status_code == 202
        until(lambda: 'data-waiting="0"' in self.get(f"{self.here}/dialogue"))
        return self.get(f"{self.here}/dialogue")


@pytest.fixture
def site(
    web: Web, source: RigSource, stub: Stub, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Site]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("vad_dagster.service.describer.IDLE_SECONDS", 0.05)

    def begin(url: str = stub.url, plan: str = PLAN) -> Site:
        if url:
            monkeypatch.setenv("VAD_VLM_URL", url)
            monkeypatch.setenv("VAD_VLM_MODEL", "stub")
        source.make = lambda line, version: Mapping()
        source.lines["bottles"].line.plan_file.write_text(plan)
        address = web()
        return Site(address, source, stub, db, send(address, source, "a.png", 150))

    return begin


@pytest.mark.spec("P7.10")
def test_a_person_asks_for_a_description_and_the_page_waits_and_shows_it(site: Callable[..., Site]) -> None:
    made = site()
    assert "data-describe" in made.get()
    made.stub.turns = [Turn(delay=0.3)]
    asked = made.of_it("descriptions", {"person": "Kim"})
    assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
    page = made.get()
    assert "on its way; it was asked for by Kim" in page
    until(lambda: 'data-waiting="0"' in made.get(f"{made.here}/description"))
    page = made.get()
    for text in (ANSWER["summary"], "scratch", "A thin line.", "Look at it in slanting light.", "stub at http://127"):
        assert text in page
    assert "The picture stayed on this machine." in page
    assert "For review" not in page
    row = requests.get(f"{made.here}/descriptions", timeout=20).json()
    assert (row["state"], row["asked_by"], row["agrees"]) == ("done", "Kim", True)
    assert json.loads(made.get(f"{made.here}/row"))["descriptions"][0]["summary"] == ANSWER["summary"]
    again = made.of_it("descriptions", {})
    assert again.json() == {"id": row["description_id"], "state": "done"}, "asking twice is asking once"


def test_without_an_endpoint_the_page_says_what_to_set(site: Callable[..., Site]) -> None:
    made = site(url="")
    page = made.get()
    assert "VAD_VLM_URL" in page
    assert "VAD_VLM_MODEL" in page
    assert "data-describe" not in page.partition("<script>")[0]
    for what, body in (("descriptions", {}), ("questions", {"text": "Why?"})):
        refused = made.of_it(what, body)
        assert refused.status_code == 503
        assert "VAD_VLM_URL" in refused.json()["detail"]


def test_what_a_model_writes_is_shown_as_text_and_never_linked(site: Callable[..., Site]) -> None:
    made = site()
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> http://evil.example/a [b](javascript:c)"
    region = ANSWER["regions"][0] | {"kind": "<b>", "description": "</table><a href='//evil.example'>here</a>"}
    made.stub.script = lambda body: Turn(json.dumps(ANSWER | {"summary": evil, "regions": [region]}))
    shown = [made.described()]
    made.stub.script = lambda body: Turn(evil)
    shown.append(made.answered("What is <i>it</i>?"))
    for part in shown:
        for tag in ("<script>", "<img", "<a ", "<i>"):
            assert tag not in part
        assert "&lt;script&gt;" in part
    search = made.get(f"{made.address}/lines/bottles/descriptions?text=evil.example")
    assert "&lt;script&gt;" in search
    assert "<img" not in search
    assert 'href="http' not in search


@pytest.mark.parametrize("width", [390, 1400])
def test_words_without_an_end_keep_within_the_page(site: Callable[..., Site], page: Page, width: int) -> None:
    made = site()
    long = {"kind": "k" * 60, "place": "p" * 100, "description": "W" * 200}
    answer = ANSWER | {"summary": "S" * 300, "regions": [ANSWER["regions"][0] | long]}
    made.stub.script = lambda body: Turn(json.dumps(answer))
    made.described()
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(made.here)
    page.get_by_text("W" * 200).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_reply_without_form_is_shown_as_its_text(site: Callable[..., Site]) -> None:
    made = site()
    made.stub.script = lambda body: Turn("I see <nothing>.")
    part = made.described()
    assert "has not the form of an answer" in part
    assert "I see &lt;nothing&gt;." in part


def test_an_obedient_model_changes_no_decision_and_is_marked_for_review(site: Callable[..., Site]) -> None:
    made = site()
    fine = ANSWER | {"anomaly": "no", "agrees_with_detector": True, "summary": "All is fine.", "regions": []}
    made.stub.script = lambda body: Turn(json.dumps(fine))
    before = made.db.predictions("bottles").to_dict("records")
    part = made.described()
    assert "For review:" in part
    assert '<span class="NG">NG</span> stands' in part
    assert '<h1><span class="NG">NG</span>' in made.get()
    assert made.db.predictions("bottles").to_dict("records") == before
    results = made.get(f"{made.address}/lines/bottles/results?view=table")
    assert '<span class="review">for review</span>' in results
    search = f"{made.address}/lines/bottles/descriptions"
    for query, found in (("disagreements=true", 1), ("text=FINE all", 1), ("text=scratch", 0), ("", 1)):
        assert f"{found} found" in made.get(f"{search}?{query}")


def test_a_failure_is_told_with_the_next_step(site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vad_lib.words.describing.MOST_ATTEMPTS", 1)
    monkeypatch.setattr("vad_lib.words.dialogue.MOST_ATTEMPTS", 1)
    made = site()
    made.stub.script = lambda body: Turn(status=404)
    part = made.described()
    assert "There is no description." in part
    assert "status 404" in part
    assert "vad describe check bottles" in part
    assert 'data-describe="again"' in part
    part = made.answered("Why?")
    assert "There is no answer." in part
    assert "status 404" in part
    made.stub.script = lambda body: Turn()
    assert made.of_it("descriptions", {"again": True}).json()["state"] == "waiting"
    until(lambda: ANSWER["summary"] in made.get())


@pytest.mark.spec("P4.06")
def test_a_person_asks_about_a_part_and_reads_the_answers(site: Callable[..., Site]) -> None:
    made = site()
    assert "Nothing has been asked yet." in made.get()
    made.stub.turns = [Turn("Yes: a bright spot\nat the top right."), Turn("About 4711 mm.")]
    part = made.answered("Is there an anomaly? <b>")
    assert "Is there an anomaly? &lt;b&gt;" in part
    assert "a bright spot\nat the top right." in part
    part = made.answered("How large?")
    assert '<mark title="not from the data">4711</mark>' in part
    assert "are not from the data" in part
    assert [message["role"] for message in made.stub.asked[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert "a bright spot" in made.get(), "the page has the dialogue when it is opened again"
    assert 'vad_questions{line="bottles",state="done"} 2.0' in made.get(f"{made.address}/metrics")


def test_a_person_asks_about_the_day_and_figures_are_from_the_database(site: Callable[..., Site]) -> None:
    made = site()
    made.stub.turns = [Turn("1 part was NG, which is 100 %; 4711 were OK.")]
    asked = made.post("questions", {"text": "What was new this shift?", "person": "Kim", "hours": 8})
    assert asked.status_code == 202
    part = f"{made.address}/lines/bottles/dialogue"
    until(lambda: 'data-waiting="0"' in made.get(part))
    text = made.get(part)
    assert "about the 8 hours before" in text
    assert text.count('<mark title="not from the data">') == 1
    assert '<mark title="not from the data">4711</mark>' in text
    data = json.loads(made.get(f"{made.address}/lines/bottles/day?hours=8"))
    assert data["images"]["NG"] == 1
    assert "Nothing has been asked yet." in made.get(f"{made.here}/dialogue")
    assert "What was new this shift?" in made.get(f"{made.address}/lines/bottles/results")


def test_a_person_corrects_a_description(site: Callable[..., Site]) -> None:
    made = site()
    made.described()
    row = newest_description(made.db, made.number)
    assert row is not None
    address = f"descriptions/{row.description_id}/corrections"
    body = {"answer": {"summary": "It is <dust>."}, "person": "Lee", "note": "wiped"}
    assert made.post(address, body).status_code == 201
    part = made.get(f"{made.here}/description")
    assert "It is &lt;dust&gt;." in part
    assert "As corrected by Lee" in part
    assert "For review" not in part
    assert made.post(address, body | {"answer": {"anomaly": "no", "agrees_with_detector": False}}).status_code == 201
    assert "Lee says otherwise" in " ".join(made.get(f"{made.here}/description").split())
    for wrong in (
        {"answer": {"summary": "a" * 301}, "person": "Lee"},
        {"answer": {"decision": "OK"}, "person": "Lee"},
        {"answer": {}, "person": " "},
        {"answer": {}},
    ):
        assert made.post(address, wrong).status_code == 422
    assert made.post("descriptions/99/corrections", body).status_code == 404


def test_images_go_on_while_the_endpoint_hangs(site: Callable[..., Site]) -> None:
    made = site()
    made.stub.script = lambda body: Turn(delay=3.0)
    made.of_it("questions", {"text": "Why?"})
    made.of_it("descriptions", {})
    until(lambda: made.stub.asked)
    for brightness in range(151, 155):
        send(made.address, made.source, f"{brightness}.png", brightness)
    assert "The answer is on its way." in made.get()


def test_pictures_of_a_line_leave_this_machine_only_with_its_plans_leave(site: Callable[..., Site]) -> None:
    made = site(url="http://10.1.2.3/v1")
    assert "the picture leaves this machine" in made.get()
    for what, body in (("descriptions", {}), ("questions", {"text": "Why?"})):
        refused = made.of_it(what, body)
        assert refused.status_code == 409
        assert "allow_images_to_leave" in refused.json()["detail"]
    assert made.post("questions", {"text": "What is new?"}).status_code == 409


def test_only_json_of_the_pages_themselves_is_taken_and_only_questions(site: Callable[..., Site]) -> None:
    made = site()
    for body in ({}, {"text": ""}, {"text": " "}, {"text": "a" * 1001}, {"text": "a\0"}):
        assert made.of_it("questions", body).status_code == 422
    for hours in (0, 49, "x"):
        assert made.post("questions", {"text": "Why?", "hours": hours}).status_code == 422
    for path in (f"results/{made.number}/descriptions", f"results/{made.number}/questions", "questions"):
        address = f"{made.address}/lines/bottles/{path}"
        form = {"Content-Type": "text/plain"}
        assert requests.post(address, data='{"text": "Why?"}', headers=form, timeout=20).status_code == 422
        elsewhere = {"Origin": "https://evil.example"}
        assert requests.post(address, json={"text": "Why?"}, headers=elsewhere, timeout=20).status_code == 403
    assert made.stub.asked == []
    assert newest_description(made.db, made.number) is None


ODD_TEXTS = (b"\\ud800", b"\\u0000", b"a\\u0000b", b"\\u202e", b"x" * 3000, b" ", b"{{7*7}}", b"%s%n")


def test_odd_bodies_are_refused_or_stored_as_text(site: Callable[..., Site]) -> None:
    made = site()
    made.described()
    row = newest_description(made.db, made.number)
    assert row is not None
    bodies = {
        f"results/{made.number}/questions": (b'{"text": "%b"}', b'{"text": "Why?", "person": "%b"}'),
        f"results/{made.number}/descriptions": (b'{"person": "%b"}', b'{"again": "%b"}'),
        f"descriptions/{row.description_id}/corrections": (
            *(b'{"answer": {"summary": "%b"}, "person": "Kim"}', b'{"answer": {}, "person": "Kim", "note": "%b"}'),
            *(b'{"answer": {"%b": 1}, "person": "Kim"}', b'{"answer": {"regions": [{"kind": "%b"}]}, "person": "Kim"}'),
            b'{"answer": {"regions": ' + b"[" * 500 + b'"%b"' + b"]" * 500 + b'}, "person": "Kim"}',
        ),
    }
    for path, patterns in bodies.items():
        for body in [pattern % text for pattern in patterns for text in ODD_TEXTS]:
            address = f"{made.address}/lines/bottles/{path}"
            answer = requests.post(address, data=body, headers={"Content-Type": "application/json"}, timeout=20)
            assert answer.status_code in (201, 202, 400, 422), (answer.status_code, body[:60])
    assert made.get()


def test_words_need_the_token_too(
    web: Web, source: RigSource, stub: Stub, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    address = f"{web(token='secret')}/lines/bottles"
    for path in ("dialogue", "descriptions", "day", "results/1/description", "results/1/dialogue"):
        assert requests.get(f"{address}/{path}", timeout=20).status_code == 401
    assert requests.get(f"{address}/day", auth=("kim", "secret"), timeout=20).status_code == 200
    assert requests.post(f"{address}/questions", json={"text": "Why?"}, timeout=20).status_code == 401
