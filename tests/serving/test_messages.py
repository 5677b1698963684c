"""People are told what happens: what is written with the results, by which rules it is told, and what one misses."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from brightness_model import write_image
from hypothesis import given
from hypothesis import strategies as st
from serving_rig import Receiver, RigSource, Starter, until
from sqlalchemy import select, update

from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.notices import due_messages, record_notice, record_told, told_counts
from vad_lib.inspection_db.schema import notices, told
from vad_lib.notice_rules import EVENTS, NoticeRule, addresses
from vad_lib.serving import messenger
from vad_lib.serving.messenger import SHOWN, Messenger, message_text, send_message

RULE = NoticeRule.parsed("ng, drift to shift every 15")
PAIR = ("bottles", "shift")


def happen(db: InspectionDatabase, *subjects: str, event: str = "ng", line: str = "bottles") -> None:
    with db.writing() as connection:
        for subject in subjects:
            record_notice(connection, line, event, f"{subject} happened.", subject=subject)  # type: ignore[arg-type]


def take(db: InspectionDatabase, rule: NoticeRule = RULE, worker: str = "worker") -> list[str]:
    """Return what is to be told now, and record that it was."""
    found = [(message, rule) for message in due_messages(db, {PAIR: rule}, worker)]
    for message, of in found:
        record_told(db, message, "", of)
    return [notice.text.split()[0] for message, _ in found for notice in message.notices]


def later(db: InspectionDatabase, minutes: float) -> None:
    """Let time pass for the receivers."""
    with db.writing() as connection:
        for row in connection.execute(select(told)).all():
            this = update(told).where(told.c.line == row.line, told.c.receiver == row.receiver)
            moved = {name: getattr(row, name) and getattr(row, name) - timedelta(minutes=minutes) for name in
                     ("next_at", "leased_until", "failing_since")}  # fmt: skip
            connection.execute(this.values(moved))


def test_a_receiver_is_told_of_what_happens_from_now_on_once_and_then_in_digests(db: InspectionDatabase) -> None:
    happen(db, "before")
    assert take(db) == []  # a new rule floods nobody with what was
    happen(db, "a")
    assert take(db) == ["a"]
    happen(db, "b", "c", "b")
    happen(db, "else", event="gate")
    happen(db, "elsewhere", line="caps")
    assert take(db) == []
    later(db, 16)
    assert take(db) == ["b", "c"]
    later(db, 16)
    assert take(db) == []


def test_a_message_that_fails_is_sent_again_later_and_given_up_after_a_day(db: InspectionDatabase) -> None:
    take(db)
    happen(db, "a")
    for minutes in (0, 60, 60):
        later(db, minutes)
        (message,) = due_messages(db, {PAIR: RULE}, "worker")
        record_told(db, message, "it hung up", RULE)
        assert due_messages(db, {PAIR: RULE}, "worker") == []
    assert told_counts(db) == [("bottles", "shift", 0, 3, True)]
    happen(db, "b")
    later(db, 60 * 24)
    (message,) = due_messages(db, {PAIR: RULE}, "worker")
    assert [notice.text for notice in message.notices] == ["a happened.", "b happened."]
    record_told(db, message, "it hung up", RULE)
    assert told_counts(db)[0][2] == 2


def test_two_services_do_not_tell_the_same_and_one_that_died_leaves_it_to_the_other(db: InspectionDatabase) -> None:
    take(db)
    happen(db, "a")
    assert len(due_messages(db, {PAIR: RULE}, "first")) == 1
    assert due_messages(db, {PAIR: RULE}, "second") == []
    later(db, 5)  # the lease has run out
    assert take(db, worker="second") == ["a"]


@given(st.sets(st.sampled_from(EVENTS), min_size=1), st.from_regex(r"[\w.-]+", fullmatch=True), st.integers(0, 99999))
def test_a_rule_that_is_written_is_read_again(events: set[str], receiver: str, minutes: int) -> None:
    read = NoticeRule.parsed(f"{' , '.join(sorted(events))} to {receiver} every {minutes} minutes")
    assert (read.events, read.receiver, read.digest_minutes) == (events, receiver, minutes)


@pytest.mark.parametrize("text", ["", "ng", "ng to", "ng to a b", "ng, to a", "everything to a", "ng to a every x"])
def test_what_is_no_rule_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|there are"):
        NoticeRule.parsed(text)


def test_a_message_counts_what_it_does_not_show_and_names_a_page(db: InspectionDatabase) -> None:
    take(db)
    happen(db, *(f"n{number}" for number in range(20)))
    (message,) = due_messages(db, {PAIR: RULE}, "worker")
    title, body = message_text(message, "http://desk/")
    assert title == "bottles: 20 NG"
    assert body.startswith(f"The last {SHOWN} of 20:")
    assert "n19 happened." in body
    assert "n3 happened." not in body
    assert body.endswith("http://desk/lines/bottles/results")


def test_addresses_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_NOTIFY", "a=json://user:s3cret@127.0.0.1:1 b=nothing://s3cret c=json://x a=json://y")
    assert addresses()["a"] == "json://user:s3cret@127.0.0.1:1 json://y"
    for receiver in ("a", "b", "d"):
        error = send_message(receiver, "title", "body")
        assert repr(receiver) in error
        assert "s3cret" not in error
    for wrong in ("a", "a=s3cret", "=json://s3cret"):
        monkeypatch.setenv("VAD_NOTIFY", wrong)
        with pytest.raises(InputError, match="NAME=ADDRESS") as caught:
            addresses()
        assert "s3cret" not in str(caught.value)


def test_an_ng_image_reaches_a_receiver_while_another_one_hangs(
    source: RigSource, start: Starter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, db: InspectionDatabase
) -> None:
    over = threading.Event()
    address = receiver.url.replace("http://", "json://").removesuffix("/{line}")
    monkeypatch.setenv("VAD_NOTIFY", f"shift={address}/ok hangs={address}/slow?rto=60")
    monkeypatch.setattr(messenger, "IDLE_SECONDS", 0.05)
    hanging = threading.Event()

    def hang(_: object) -> None:
        hanging.set()
        over.wait(60)

    receiver.answer = hang
    rules = tuple(NoticeRule.parsed(f"ng, refused to {name} every 0") for name in ("hangs", "shift"))
    source.lines["bottles"] = replace(source.lines["bottles"], notice_rules=rules)
    try:
        start()
        until(lambda: len(told_counts(db)) == 2)
        folder = Path(source.lines["bottles"].folder)
        write_image(folder / "ok.png", 50)
        write_image(folder / "<b>bright.png", 200)
        (folder / "broken.png").write_bytes(b"\x89PNG")
        until(lambda: len([got for got in receiver.got if "title" in got]) >= 1)
        until(lambda: "broken.png was refused" in str(receiver.got), seen=lambda: receiver.got)
        told_of = str(receiver.got)
        assert "<b>bright.png is NG" in told_of
        assert "ok.png" not in told_of
        assert hanging.is_set()
    finally:
        over.set()


def test_a_line_in_trouble_is_told_after_a_minute_and_again_when_it_is_over(db: InspectionDatabase) -> None:
    reasons: dict[str, str] = {"bottles": "its watch folder is gone"}
    teller = Messenger(db, lambda: {}, lambda: reasons, "worker", lambda *_: "")

    def events() -> list[str]:
        with db.reading() as connection:
            return list(connection.execute(select(notices.c.text).order_by(notices.c.notice_id)).scalars())

    teller.note_trouble(0.0)
    teller.note_trouble(30.0)
    assert events() == []
    for now in (61.0, 62.0):
        teller.note_trouble(now)
    assert events() == ["The line cannot be served: its watch folder is gone"]
    reasons.clear()
    teller.note_trouble(90.0)
    assert events()[1:] == ["The line is served again."]
    reasons["bottles"] = "its model is being loaded"
    teller.note_trouble(100.0)
    reasons.clear()
    teller.note_trouble(130.0)
    assert len(events()) == 2
