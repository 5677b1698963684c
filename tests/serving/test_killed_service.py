"""Real processes, really killed in the middle of their work."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brightness_model import POISON, write_image
from inspection_rig import Rig
from serving_rig import Receiver, RigSource, Sinks, states, until

from vad_lib.inspection.worker import MAX_DELIVERIES
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.laws import check_database
from vad_lib.queue import expire
from vad_lib.queue.outbox import notification_counts

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join(str(folder) for folder in (HERE.parent.parent, HERE.parent / "inspection", HERE))
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(source: RigSource) -> Iterator[Spawn]:
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*more: str, lines: tuple[str, ...] = ("bottles",)) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "serve_in_process.py"), str(source.home.root), *lines, *more],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "VAD_HOME": str(source.home.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _each_image_once(db: InspectionDatabase, line: str, good: int) -> None:
    table = db.predictions(line)
    assert len(table) == good
    assert table["sha256"].is_unique
    assert set(db.incoming_files(line)["state"]) <= {"done", "refused"}
    assert check_database(db.engine) == []


@pytest.mark.spec("S1.11")
def test_a_service_that_starts_again_finishes_what_a_killed_one_had_in_hand(
    spawn: Spawn, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    log = tmp_path / "scored.log"
    first = spawn("--seconds", "0.05", "--log", str(log))
    for i in range(60):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") >= 10)
    _kill(first)
    assert db.count_predictions("bottles") < 60
    spawn("--log", str(log))
    until(lambda: db.count_predictions("bottles") == 60)
    _each_image_once(db, "bottles", 60)
    # A death costs at most what the workers had in hand; the first image of each model is a probe.
    assert len(log.read_text().splitlines()) <= 60 + 3 * 8 + 2


@pytest.mark.spec("S1.11")
def test_a_run_finishes_what_a_killed_service_had_in_hand(
    spawn: Spawn, source: RigSource, db: InspectionDatabase
) -> None:
    rig = Rig(db, source.lines["bottles"].line)
    service = spawn("--seconds", "0.05")
    for i in range(40):
        write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") >= 8 and len(db.incoming_files("bottles")) == 40)
    assert expire(db) == 0
    _kill(service)
    left = 40 - db.count_predictions("bottles")
    assert left > 0
    rig.work()
    _each_image_once(db, "bottles", 40)
    assert db.predictions("bottles")["source"].value_counts().to_dict() == {"online": 40 - left, "batch": left}
    assert rig.register() == 0


@pytest.mark.spec("Q1.06")
def test_an_image_that_kills_every_service_is_found_out_and_no_other_is_refused(
    spawn: Spawn, source: RigSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    for i in range(9):
        write_image(inbox / f"{i}.png", 40 + i, nonce=i)
    write_image(inbox / "poison.png", POISON)
    deaths = 0
    while "poison_image" not in states(db).values():
        process = spawn("--poisonous")
        until(lambda p=process: p.poll() is not None or "poison_image" in states(db).values(), 60)  # type: ignore[misc]
        if process.poll() is not None:
            deaths += 1
            assert deaths <= MAX_DELIVERIES
    until(lambda: db.count_predictions("bottles") == 9)
    (refused,) = db.refused("bottles").itertuples()
    assert (refused.path, refused.rule) == ("poison.png", "poison_image")
    assert deaths == MAX_DELIVERIES


@pytest.mark.spec("N1.01")
def test_each_result_is_told_at_least_once_and_under_one_id_though_the_service_is_killed(
    spawn: Spawn, source: RigSource, db: InspectionDatabase, receiver: Receiver
) -> None:
    source.change("bottles", sinks=Sinks(webhook_url=receiver.url))
    for start in (0, 20, 40):
        process = spawn("--seconds", "0.01", "--webhook", receiver.url)
        for i in range(start, start + 20):
            write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
        until(lambda start=start: db.count_predictions("bottles") >= start + 10)  # type: ignore[misc]
        _kill(process)
    spawn("--webhook", receiver.url)
    until(lambda: db.count_predictions("bottles") == 60 and notification_counts(db)["waiting"] == 0)
    ids = {(each["id"], each["image_path"], each["predicted"]) for each in receiver.got}
    assert len(ids) == len({number for number, _, _ in ids}) == 60
    assert len(receiver.got) < 60 + 3 * 60


def _chaos(spawn: Spawn, source: RigSource, db: InspectionDatabase, seed: int, images: int, kills: int) -> None:
    """Images of two lines arrive while services are killed and started again and runs work beside them."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    names = ("bottles", "caps")
    source.add("caps")
    rigs = {name: Rig(db, source.lines[name].line) for name in names}
    good = dict.fromkeys(names, 0)
    kill_at = sorted(chance.sample(range(images), kills))
    process = spawn("--seconds", "0.004", lines=names)
    for number in range(images):
        name = chance.choice(names)
        target = source.lines[name].folder / chance.choice(("", "a/", "a/b/")) / f"{number}.png"
        way = chance.random()
        if way < 0.05:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"broken")
        elif way < 0.4:
            write_image(target.with_name(f".{number}.part.png"), 50 + number % 100, nonce=number).rename(target)
            good[name] += 1
        else:
            write_image(target, 50 + number % 100, nonce=number)
            good[name] += 1
        if number in kill_at:
            _kill(process)
            if chance.random() < 0.5:
                rigs[name].work(chunk=4)
            process = spawn("--seconds", "0.004", lines=names)
        elif chance.random() < 0.02:
            rigs[name].work(chunk=4)

    def over() -> bool:
        tables = [db.incoming_files(name) for name in names]
        return all("pending" not in set(table["state"]) for table in tables) and (
            sum(table["path"].nunique() for table in tables) == images
        )

    until(over, 90, seen=lambda: [db.file_counts(name) for name in names])
    for name in names:
        _each_image_once(db, name, good[name])
    assert sum(len(db.refused(name)) for name in names) == images - sum(good.values())
    assert process.poll() is None


@pytest.mark.spec("V9.05")
def test_a_little_chaos_with_kills_loses_nothing_and_repeats_nothing(
    spawn: Spawn, source: RigSource, db: InspectionDatabase
) -> None:
    _chaos(spawn, source, db, seed=1, images=200, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_chaos_with_kills_loses_nothing_and_repeats_nothing(
    seed: int, spawn: Spawn, source: RigSource, db: InspectionDatabase
) -> None:
    _chaos(spawn, source, db, seed=seed, images=800, kills=6)
