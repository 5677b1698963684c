"""Results that are sent on: signed, repeated until they are taken, once for each landed file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from brightness_model import BrightnessModel, write_image
from scorer_plant import Channels, PlantSource, Starter, until
from sqlalchemy import update
from vad_lib.inspection_db.checking import check_database
from vad_lib.landing import plan_landing_tick
from vad_lib.scorer.signals import FILE, Signal, delay_before, signal_counts, signature, write_result_file
from vad_lib.scorer.tables import signals

from vad_lib.inspection import inspect_batch
from vad_lib.inspection_db import InspectionDatabase


class Receiver:
    """A web server that answers as it is told and remembers what it was told."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.attempts = 0
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.attempts += 1
                status = receiver.status
                if status == 200:
                    receiver.got.append(json.loads(body))
                    receiver.headers.append(dict(self.headers))
                    receiver.bodies.append(body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{{line}}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def paths(self) -> list[str]:
        return sorted(str(each["image_path"]) for each in self.got)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_each_landed_file_is_told_once_signed_with_its_result_or_its_reason(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    inbox = source.lines["bottles"].folder
    source.change("bottles", channels=Channels(webhook_url=receiver.url, secret="between us"))
    start()
    write_image(inbox / "dark.png", 50)
    write_image(inbox / "bright.png", 150)
    (inbox / "broken.jpg").write_bytes(b"\xff\xd8\xff broken \xff\xd9")
    until(lambda: len(receiver.got) == 3)
    time.sleep(0.3)
    told = {each["image_path"]: each for each in receiver.got}
    assert len(receiver.got) == len(told) == 3
    assert (told["dark.png"]["predicted"], told["bright.png"]["predicted"]) == ("OK", "NG")
    assert told["bright.png"]["raw_score"] == pytest.approx(150, abs=1)
    assert told["bright.png"]["model_version"] == "1"
    assert told["broken.jpg"]["state"] == "refused"
    assert told["broken.jpg"]["rule"] == "unreadable_image"
    for headers, body in zip(receiver.headers, receiver.bodies, strict=True):
        assert headers["X-VAD-Signature"] == signature("between us", headers["X-VAD-Timestamp"], body)
        assert headers["X-VAD-Signature"] != signature("another", headers["X-VAD-Timestamp"], body)


def test_a_receiver_that_was_away_gets_everything_when_it_is_back_in_order(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 503
    source.change("bottles", channels=Channels(webhook_url=receiver.url))
    start()
    for i in range(10):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 10 and receiver.attempts)
    assert signal_counts(db)["waiting"] > 0
    # It is not stormed: one of ten asks whether it is back.
    assert receiver.attempts <= 3
    receiver.status = 200
    until(lambda: len(receiver.got) == 10)
    numbers = [int(str(each["id"]).rpartition("-")[2]) for each in receiver.got]
    assert numbers == sorted(numbers)
    until(lambda: signal_counts(db)["waiting"] == 0)


def test_what_stood_in_the_outbox_when_the_scorer_ended_is_sent_by_the_next(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 503
    source.change("bottles", channels=Channels(webhook_url=receiver.url))
    lane = start()
    for i in range(5):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 5 and lane.queue.images == 0)
    lane.stop()
    receiver.status = 200
    start()
    until(lambda: len(receiver.got) == 5)


def test_a_signal_that_the_receiver_refuses_does_not_hold_up_the_others(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    receiver.status = 422
    source.change("bottles", channels=Channels(webhook_url=receiver.url))
    start()
    write_image(source.lines["bottles"].folder / "0.png", 50)
    until(lambda: receiver.attempts)
    receiver.status = 200
    write_image(source.lines["bottles"].folder / "1.png", 60)
    until(lambda: "1.png" in receiver.paths(), 3)


def test_what_the_bulk_lane_decided_is_told_as_well(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    inbox = source.lines["bottles"].folder
    source.change("bottles", channels=Channels(webhook_url=receiver.url), model_version="")
    start()
    for i in range(3):
        write_image(inbox / f"{i}.png", 50 + i, nonce=i)
    tick = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60)
    inspect_batch(
        db,
        BrightnessModel(),
        model_version="1",
        line=source.home.line("bottles"),
        batch_id=tick.requests[0].batch_id,
    )
    until(lambda: len(receiver.got) == 3)
    assert {each["lane"] for each in receiver.got} == {"run"}


def test_results_from_before_the_channel_was_opened_are_not_sent(
    start: Starter, source: PlantSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    inbox = source.lines["bottles"].folder
    start()
    write_image(inbox / "before.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    source.change("bottles", channels=Channels(webhook_url=receiver.url))
    time.sleep(0.5)
    write_image(inbox / "after.png", 60)
    until(lambda: receiver.got)
    time.sleep(0.3)
    assert receiver.paths() == ["after.png"]


def test_a_result_file_lies_beside_the_image_and_is_not_taken_for_one(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    source.change("bottles", channels=Channels(result_files=True))
    start()
    write_image(inbox / "deep" / "a.png", 150)
    result = inbox / "deep" / "a.png.vad.json"
    until(result.is_file)
    assert json.loads(result.read_text())["predicted"] == "NG"
    tick = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60)
    assert (tick.requests, tick.refused) == ((), 0)
    assert sorted(Path(inbox / "deep").iterdir()) == [inbox / "deep" / "a.png", result]


def test_a_late_attempt_does_not_replace_the_result_of_a_newer_version_of_the_file(
    start: Starter, source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_lib.scorer.signals.FIRST_DELAY", 300.0)
    inbox = source.lines["bottles"].folder
    source.change("bottles", channels=Channels(result_files=True))
    lane = start()
    result = inbox / "a.png.vad.json"
    result.mkdir()
    write_image(inbox / "a.png", 50)
    until(lambda: lane.sender.failed == 1)
    result.rmdir()
    write_image(inbox / ".new.png", 150).rename(inbox / "a.png")
    until(result.is_file)
    with db.writing() as connection:
        connection.execute(update(signals).where(signals.c.state == "waiting").values(next_try_at=datetime.now(UTC)))
    lane.sender.wake()
    until(lambda: signal_counts(db)["waiting"] == 0)
    assert json.loads(result.read_text())["predicted"] == "NG"


def test_a_file_refused_by_its_name_is_kept_aside_and_told_though_no_image_lands(
    start: Starter, source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_lib.scorer.watching.SCAN_SECONDS", 0.1)
    line = source.lines["bottles"].line
    source.change("bottles", channels=Channels(result_files=True))
    lane = start()
    (line.inbox / "scan.bmp").write_bytes(b"BM")
    tick = plan_landing_tick(db, "bottles", line.inbox, run_state=lambda _: None, now=time.time() + 60)
    assert (tick.requests, tick.refused) == ((), 1)
    result = line.inbox / "scan.bmp.vad.json"
    until(result.is_file)
    assert json.loads(result.read_text())["rule"] == "not_an_image"
    (kept,) = db.kept_aside("bottles").itertuples()
    assert Path(kept.kept_file).read_bytes() == b"BM"
    until(lambda: signal_counts(db)["waiting"] == 0 and lane.queue.images == 0)
    assert check_database(db.engine) == []
    assert len(db.batches("bottles")) == 1


def test_what_a_kill_left_of_a_result_file_is_cleared_away_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"state": "done", "predicted": "OK"}
    signal = Signal(1, FILE, "bottles", 0, datetime.now(UTC), tmp_path / "a.png", content)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr("os.replace", killed)
        kill.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_result_file(signal)
    assert len(list(tmp_path.iterdir())) == 1
    assert write_result_file(signal).state == "sent"
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("attempt", [1, 2, 5, 9, 50])
def test_waits_between_attempts_grow_up_to_five_minutes(attempt: int) -> None:
    for _ in range(20):
        assert min(2.0 ** (attempt - 1), 300) / 2 <= delay_before(attempt) <= min(2.0 ** (attempt - 1), 300)
