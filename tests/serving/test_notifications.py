"""Results that are sent on: signed, repeated until they are taken, once for each decided file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from brightness_model import write_image
from inspection_rig import Rig, dead_worker, worker_elsewhere
from serving_rig import Receiver, RigSource, Sinks, Starter, states, until
from sqlalchemy import update

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import notifications
from vad_lib.queue import new_worker, outbox
from vad_lib.queue.outbox import (
    SINK_LEASE_SECONDS,
    Notification,
    delay_before,
    due_notifications,
    lease_sinks,
    notification_counts,
    open_sinks,
    release_sinks,
)
from vad_lib.serving.notifier import Notifier
from vad_lib.serving.sinks import FILE, signature, write_result_file


def _rig(db: InspectionDatabase, source: RigSource, name: str = "bottles") -> Rig:
    return Rig(db, source.lines[name].line)


@pytest.mark.spec("N1.01")
def test_each_file_is_told_once_signed_with_its_result_or_its_reason(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    inbox = source.lines["bottles"].folder
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url, secret="between us"))
    start()
    write_image(inbox / "dark.png", 50)
    write_image(inbox / "bright.png", 150)
    (inbox / "broken.jpg").write_bytes(b"\xff\xd8\xff broken \xff\xd9")
    os.utime(inbox / "broken.jpg", (1, 1))
    until(lambda: len(receiver.got) == 3)
    time.sleep(0.3)
    told = {each["image_path"]: each for each in receiver.got}
    assert len(receiver.got) == len(told) == 3
    assert (told["dark.png"]["predicted"], told["bright.png"]["predicted"]) == ("OK", "NG")
    assert told["bright.png"]["raw_score"] == pytest.approx(150, abs=1)
    assert told["bright.png"]["model_version"] == "1"
    assert told["broken.jpg"]["state"] == "refused"
    assert told["broken.jpg"]["rule"] == "unreadable_image"
    assert told["broken.jpg"]["predicted"] is None
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        assert headers["X-VAD-Id"] == json.loads(body)["id"]
        assert headers["X-VAD-Signature"] == signature("between us", headers["X-VAD-Timestamp"], body)
        assert headers["X-VAD-Signature"] != signature("another", headers["X-VAD-Timestamp"], body)


@pytest.mark.spec("N1.03")
def test_a_duplicate_is_told_without_a_decision_and_says_of_what(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    """Whoever counts decisions counts the part once."""
    inbox = source.lines["bottles"].folder
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    start()
    write_image(inbox / "first.png", 150)
    until(lambda: db.count_predictions("bottles") == 1)
    shutil.copy(inbox / "first.png", inbox / "second.png")
    until(lambda: len(receiver.got) == 2)
    first, second = receiver.got
    assert (first["predicted"], first["duplicate_of"]) == ("NG", None)
    assert (second["state"], second["rule"], second["duplicate_of"]) == ("refused", "duplicate", "first.png")
    assert second["sha256"] == first["sha256"]
    for name in ("predicted", "p", "certainty", "raw_score", "prediction_id"):
        assert first[name] is not None
        assert second[name] is None


@pytest.mark.spec("N1.02")
def test_a_receiver_that_was_away_gets_everything_when_it_is_back_in_order(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 503
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    start()
    for i in range(10):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 10 and receiver.attempts)
    assert notification_counts(db)["waiting"] > 0
    # It is not stormed: one of ten asks whether it is back.
    assert receiver.attempts <= 3
    receiver.status = 200
    until(lambda: len(receiver.got) == 10)
    numbers = [int(str(each["id"]).rpartition("-")[2]) for each in receiver.got]
    assert numbers == sorted(numbers)
    until(lambda: notification_counts(db)["waiting"] == 0)


def test_what_stood_in_the_outbox_when_the_service_ended_is_sent_by_the_next(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 503
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    service = start()
    for i in range(5):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 5)
    service.stop()
    receiver.status = 200
    start()
    until(lambda: len(receiver.got) == 5)


@pytest.mark.spec("N1.01")
def test_what_was_sent_but_not_written_down_is_sent_again_under_the_same_id(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_lib.serving.notifier.IDLE_SECONDS", 0.05)
    failures = 1

    def forget(db: InspectionDatabase, attempts: object) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("the process is killed, or the disk is full")
        outbox.record_attempts(db, attempts)  # type: ignore[arg-type]

    monkeypatch.setattr("vad_lib.serving.notifier.record_attempts", forget)
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    start()
    write_image(source.lines["bottles"].folder / "a.png", 50)
    until(lambda: len(receiver.got) == 2 and notification_counts(db)["waiting"] == 0)
    assert receiver.got[0] == receiver.got[1]
    assert receiver.headers[0]["X-VAD-Id"] == receiver.headers[1]["X-VAD-Id"]


def test_a_notification_that_the_receiver_refuses_does_not_hold_up_the_others(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 422
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    start()
    write_image(source.lines["bottles"].folder / "0.png", 50)
    until(lambda: receiver.attempts)
    receiver.status = 200
    write_image(source.lines["bottles"].folder / "1.png", 60)
    until(lambda: "1.png" in receiver.paths())


def _drips(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        time.sleep(0.3)
        handler.wfile.write(b"X")


def _answers_with_a_huge_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(2**33))
    handler.end_headers()
    for _ in range(2**13):
        handler.wfile.write(bytes(2**20))


def _says_nothing(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


@pytest.mark.parametrize("answer", [_drips, _answers_with_a_huge_body, _says_nothing])
@pytest.mark.spec("N1.02")
def test_a_receiver_of_one_line_does_not_hold_those_of_others(
    answer: object, start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.answer = answer  # type: ignore[assignment]
    source.add("slow", sinks=Sinks(webhook_url=receiver.url, result_files=True))
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    start()
    for i in range(3):
        write_image(source.lines["slow"].folder / f"{i}.png", 50 + i)
    until(lambda: receiver.attempts)
    for i in range(3):
        begun = time.monotonic()
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i)
        until(lambda i=i: f"{i}.png" in receiver.paths())  # type: ignore[misc]
        assert time.monotonic() - begun < 4
    # The other sink of the slow line is not held either.
    until(lambda: all((source.lines["slow"].folder / f"{i}.png.vad.json").exists() for i in range(3)))


def test_what_waits_for_one_receiver_does_not_stand_before_what_waits_for_others(
    db: InspectionDatabase, source: RigSource, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what waits for a sink that is in use no longer, and nobody runs in circles for it."""
    monkeypatch.setattr(outbox, "AT_ONCE", 3)
    source.add("corks")
    source.add("caps")
    open_sinks(db, {name: ["webhook"] for name in source.lines})
    for name in ("corks", "bottles", "caps"):
        for i in range(6):
            write_image(source.lines[name].folder / f"{i}.png", 50, nonce=i)
        _rig(db, source, name).inspect()
    in_use = {name: Sinks(webhook_url=receiver.url) for name in ("bottles", "caps")} | {"corks": Sinks()}
    looks = 0

    def sinks() -> dict[str, Sinks]:
        nonlocal looks
        looks += 1
        return in_use

    notifier = Notifier(db, sinks, new_worker())
    thread = threading.Thread(target=notifier.run, daemon=True)
    thread.start()
    try:
        until(lambda: len(receiver.got) == 12, 15)
        time.sleep(0.5)
        before = looks
        time.sleep(1.0)
        assert looks - before < 10
    finally:
        notifier.stop()
        thread.join(10)
    assert {each["line"] for each in receiver.got} == {"bottles", "caps"}
    assert notification_counts(db)["waiting"] == 6


def test_of_several_services_one_sends_what_is_due_until_it_ends_or_is_not_heard_of(
    db: InspectionDatabase, source: RigSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {("bottles", "webhook")}
    open_sinks(db, {"bottles": ["webhook"]})
    one, other, far = new_worker(), new_worker(), worker_elsewhere()
    assert lease_sinks(db, pair, one) == set(), "nothing is due"
    write_image(source.lines["bottles"].folder / "a.png", 50)
    _rig(db, source).inspect()
    assert lease_sinks(db, pair, dead_worker()) == pair
    assert lease_sinks(db, pair, one) == pair, "the one before is dead"
    assert lease_sinks(db, pair, other) == set()
    release_sinks(db, one)
    assert lease_sinks(db, pair, far) == pair
    assert lease_sinks(db, pair, other) == set()
    clock = InspectionDatabase.clock
    late = timedelta(seconds=SINK_LEASE_SECONDS + 1)
    monkeypatch.setattr(InspectionDatabase, "clock", lambda self, connection: clock(self, connection) + late)
    assert lease_sinks(db, pair, other) == pair


def test_what_a_run_decided_is_told_as_well(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    rig = _rig(db, source)
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url), model_version="")
    start()
    for i in range(3):
        write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
    rig.register()
    rig.work()
    until(lambda: len(receiver.got) == 3)
    assert {each["source"] for each in receiver.got} == {"batch"}


def test_results_from_before_the_sink_was_opened_are_not_sent(
    start: Starter, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    inbox = source.lines["bottles"].folder
    start()
    write_image(inbox / "before.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    time.sleep(0.5)
    write_image(inbox / "after.png", 60)
    until(lambda: receiver.got)
    time.sleep(0.3)
    assert receiver.paths() == ["after.png"]


def test_a_result_file_lies_beside_the_image_and_is_not_taken_for_one(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    source.change("bottles", sinks=Sinks(result_files=True))
    start()
    write_image(inbox / "deep" / "a.png", 150)
    result = inbox / "deep" / "a.png.vad.json"
    until(result.is_file)
    assert json.loads(result.read_text())["predicted"] == "NG"
    assert _rig(db, source).register() == 0
    assert sorted(Path(inbox / "deep").iterdir()) == [inbox / "deep" / "a.png", result]


@pytest.mark.spec("N1.04")
def test_a_late_attempt_does_not_replace_the_result_of_a_newer_version_of_the_file(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_DELAY", 300.0)
    inbox = source.lines["bottles"].folder
    source.change("bottles", sinks=Sinks(result_files=True))
    service = start()
    result = inbox / "a.png.vad.json"
    result.mkdir()
    write_image(inbox / "a.png", 50)
    until(lambda: service.notifier.failed == 1)
    result.rmdir()
    write_image(inbox / ".new.png", 150).rename(inbox / "a.png")
    until(result.is_file)
    with db.writing() as connection:
        waiting = update(notifications).where(notifications.c.state == "waiting")
        connection.execute(waiting.values(next_try_at=datetime.now(UTC)))
    service.notifier.wake()
    until(lambda: notification_counts(db)["waiting"] == 0)
    assert json.loads(result.read_text())["predicted"] == "NG"


def test_a_file_refused_by_its_name_is_quarantined_and_told(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    line = source.lines["bottles"].line
    source.change("bottles", sinks=Sinks(result_files=True))
    (line.inbox / "scan.gif").write_bytes(b"BM")
    os.utime(line.inbox / "scan.gif", (1, 1))
    start()
    result = line.inbox / "scan.gif.vad.json"
    until(result.is_file)
    assert json.loads(result.read_text())["rule"] == "not_an_image"
    until(lambda: db.refused("bottles")["quarantine_file"].notna().all())
    (refused,) = db.refused("bottles").itertuples()
    assert Path(refused.quarantine_file).read_bytes() == b"BM"
    until(lambda: notification_counts(db)["waiting"] == 0)
    assert states(db) == {"scan.gif": "not_an_image"}
    assert check_database(db.engine) == []


def test_what_fails_for_a_day_is_given_up_and_said(
    db: InspectionDatabase, source: RigSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_sinks(db, {"bottles": [FILE]})
    rig = _rig(db, source)
    write_image(rig.inbox / "a.png", 50)
    rig.inspect()
    (due,) = due_notifications(db, [("bottles", FILE)])
    outbox.record_attempts(db, [(due, outbox.Attempt("failed", "x" * 900))])
    assert due_notifications(db, [("bottles", FILE)]) == []  # not before its time
    assert notification_counts(db) == {"waiting": 1, "given_up": 0}
    monkeypatch.setattr(outbox, "GIVE_UP_AFTER", -outbox.GIVE_UP_AFTER)
    outbox.record_attempts(db, [(due, outbox.Attempt("failed", "x" * 900))])
    assert notification_counts(db) == {"waiting": 0, "given_up": 1}
    assert len(db.table(notifications.select())["error"].iloc[0]) == 500


def test_what_a_kill_left_of_a_result_file_is_cleared_away_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"state": "done", "predicted": "OK"}
    notification = Notification(1, FILE, "bottles", 0, datetime.now(UTC), tmp_path / "a.png", content)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr("os.replace", killed)
        kill.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_result_file(notification)
    assert len(list(tmp_path.iterdir())) == 1
    assert write_result_file(notification).state == "sent"
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("attempt", [1, 2, 5, 9, 50])
def test_waits_between_attempts_grow_up_to_five_minutes(attempt: int) -> None:
    for _ in range(20):
        assert min(2.0 ** (attempt - 1), 300) / 2 <= delay_before(attempt) <= min(2.0 ** (attempt - 1), 300)


def test_the_end_of_a_service_does_not_wait_for_a_receiver_that_never_comes_to_an_end(tmp_path: Path) -> None:
    """In a process of its own: threads that are waited for at its end would be seen there only."""
    code = f"""
import threading, time
from pathlib import Path
from brightness_model import write_image
from inspection_rig import Rig
from serving_rig import Receiver, RigSource, Sinks, until
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.queue import new_worker
from vad_lib.queue.outbox import open_sinks
from vad_lib.serving.notifier import Notifier
import test_notifications
receiver = Receiver()
receiver.answer = lambda handler: [test_notifications._drips(handler) for _ in range(9)]
source = RigSource(Home(Path({str(tmp_path)!r})))
source.add("slow")
db = InspectionDatabase({f"sqlite:///{tmp_path}/a.db"!r})
open_sinks(db, {{"slow": ["webhook"]}})
rig = Rig(db, source.lines["slow"].line)
write_image(rig.inbox / "a.png", 50)
rig.inspect()
notifier = Notifier(db, lambda: {{"slow": Sinks(webhook_url=receiver.url)}}, new_worker())
threading.Thread(target=notifier.run, daemon=True).start()
until(lambda: receiver.attempts)
notifier.stop()
print("stopped", flush=True)
"""
    here = Path(__file__).parent
    paths = [here.parent.parent, here.parent / "inspection", here]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n")
