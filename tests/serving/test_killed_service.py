"""Real processes, really killed in the middle of a batch."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brightness_model import POISON, BrightnessModel, write_image
from scorer_plant import PlantSource, until
from sqlalchemy.exc import OperationalError
from vad_lib.inspection.claims import new_owner
from vad_lib.inspection_db.checking import check_database
from vad_lib.landing import Limits, RunState, plan_landing_tick
from vad_lib.landing.scanning import FileKey
from vad_lib.scorer import FastLane, LaneLimits, fast_lane, hand_over_abandoned
from vad_lib.scorer.taking_up import Candidate, TakenBatch, adopt_abandoned, take_up

from vad_lib.inspection import inspect_batch
from vad_lib.inspection_db import InspectionDatabase

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join(str(folder) for folder in (HERE.parent.parent, HERE.parent / "inspection", HERE))
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(source: PlantSource) -> Iterator[Spawn]:
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*more: str, lines: tuple[str, ...] = ("bottles",)) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "scorer_in_process.py"), str(source.home.root), *lines, *more],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "VAD_HOME": str(source.home.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        processes.append(process)
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
    assert set(db.landings(line)["state"]) <= {"done", "refused"}
    assert check_database(db.engine) == []


def test_a_scorer_that_starts_again_finishes_what_a_killed_one_had_in_hand(
    spawn: Spawn, source: PlantSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    log = tmp_path / "scored.log"
    first = spawn("--seconds", "0.05", "--log", str(log))
    for i in range(60):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") >= 10)
    _kill(first)
    before = db.count_predictions("bottles")
    assert before < 60
    spawn("--log", str(log))
    until(lambda: db.count_predictions("bottles") == 60)
    _each_image_once(db, "bottles", 60)
    # A death costs at most what two workers had in hand.
    assert len(log.read_text().splitlines()) <= 60 + 2 * 8


def test_the_bulk_lane_finishes_what_a_killed_scorer_had_in_hand(
    spawn: Spawn, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    scorer = spawn("--seconds", "0.05")
    for i in range(40):
        write_image(inbox / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") >= 8 and len(db.landings("bottles")) == 40)
    assert hand_over_abandoned(db) == 0
    _kill(scorer)
    left = 40 - db.count_predictions("bottles")
    assert left > 0
    # What the landing sensor does.
    assert hand_over_abandoned(db) > 0
    tick = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60)
    assert tick.requests
    for request in tick.requests:
        inspect_batch(
            db, BrightnessModel(), model_version="1", line=source.home.line("bottles"), batch_id=request.batch_id
        )
    _each_image_once(db, "bottles", 40)
    lanes = db.predictions("bottles")["lane"].value_counts().to_dict()
    assert lanes == {"fast": 40 - left, "run": left}
    later = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: RunState("succeeded"), now=time.time() + 120)
    assert later.requests == ()


def test_a_scorer_that_starts_while_the_disk_is_full_takes_over_as_soon_as_there_is_room(
    source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, pid, _, nonce = new_owner().split(":")
    dead = f"{place}:{pid}:1:{nonce}"
    folder = source.lines["bottles"].folder
    for i in range(6):
        file = write_image(folder / f"{i}.png", 50 + i, nonce=i)
        key = FileKey(file.name, file.stat().st_size, file.stat().st_mtime_ns)
        take_up(db, "bottles", folder, [Candidate(key, time.time())], dead)
    tries = 0

    def adopt_until_the_disk_is_full(db: InspectionDatabase, owner: str) -> Iterator[TakenBatch]:
        nonlocal tries
        tries += 1
        room = {1: 0, 2: 2}.get(tries, 6)
        yield from itertools.islice(adopt_abandoned(db, owner), room)
        if room < 6:
            raise OperationalError("UPDATE", None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(fast_lane, "adopt_abandoned", adopt_until_the_disk_is_full)
    lane = FastLane(db, source, LaneLimits(follow_seconds=0.1))
    lane.start()
    try:
        until(lambda: db.count_predictions("bottles") == 6)
        assert tries == 3
        assert lane.alive()
    finally:
        lane.stop()
    _each_image_once(db, "bottles", 6)


def test_what_a_killed_scorer_had_in_hand_becomes_one_batch_a_line(source: PlantSource, db: InspectionDatabase) -> None:
    source.add("caps")
    place, pid, _, nonce = new_owner().split(":")
    dead = f"{place}:{pid}:1:{nonce}"
    for name in ("bottles", "caps"):
        folder = source.lines[name].folder
        for i in range(6):
            file = write_image(folder / f"{i}.png", 50 + i, nonce=i)
            key = FileKey(file.name, file.stat().st_size, file.stat().st_mtime_ns)
            take_up(db, name, folder, [Candidate(key, time.time())], dead)
    assert hand_over_abandoned(db) == 12
    assert hand_over_abandoned(db) == 0
    for name in ("bottles", "caps"):
        assert sorted(db.batches(name)["state"]) == ["closed"] * 5 + ["open"]
        # Nobody has asked for its run, so there is none to wait for.
        tick = plan_landing_tick(
            db, name, source.lines[name].folder, run_state=lambda _: None, limits=Limits(repeat_seconds=60.0)
        )
        (request,) = tick.requests
        assert request.count == 6
        result = inspect_batch(
            db, BrightnessModel(), model_version="1", line=source.home.line(name), batch_id=request.batch_id
        )
        assert result.scored == 6
        _each_image_once(db, name, 6)


@pytest.mark.slow
def test_an_image_that_kills_every_scorer_is_found_out_and_kept_aside(
    spawn: Spawn, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    for i in range(9):
        write_image(inbox / f"{i}.png", 40 + i, nonce=i)
    write_image(inbox / "poison.png", POISON)
    for _ in range(8):
        process = spawn("--poisonous")
        deadline = time.monotonic() + 20
        while process.poll() is None and not len(db.kept_aside("bottles")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if process.poll() is None:
            break
    until(lambda: db.count_predictions("bottles") == 9)
    (kept,) = db.kept_aside("bottles").itertuples()
    assert (kept.path, kept.rule) == ("poison.png", "ends_its_inspection")


def _storm(spawn: Spawn, source: PlantSource, db: InspectionDatabase, seed: int, images: int, kills: int) -> None:
    """Images of two lines land while the scorer is killed and started again and a bulk lane runs beside it."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    names = ("bottles", "caps")
    source.add("caps")
    good = dict.fromkeys(names, 0)
    kill_at = sorted(chance.sample(range(images), kills))
    process = spawn("--seconds", "0.004", lines=names)
    ended: set[str] = set()

    def bulk() -> None:
        hand_over_abandoned(db)
        for name in names:
            tick = plan_landing_tick(
                db,
                name,
                source.lines[name].folder,
                run_state=lambda key: RunState("succeeded") if key in ended else None,
                max_batch=20,
            )
            for request in tick.requests:
                inspect_batch(
                    db, BrightnessModel(), model_version="1", line=source.home.line(name), batch_id=request.batch_id
                )
                ended.add(request.run_key)

    for number in range(images):
        name = chance.choice(names)
        target = source.lines[name].folder / chance.choice(("", "a/", "a/b/")) / f"{number}.png"
        way = chance.random()
        if way < 0.05:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"broken")
        elif way < 0.4:
            partial = write_image(target.with_name(f".{number}.part.png"), 50 + number % 100, nonce=number)
            partial.rename(target)
            good[name] += 1
        else:
            write_image(target, 50 + number % 100, nonce=number)
            good[name] += 1
        if number in kill_at:
            _kill(process)
            if chance.random() < 0.5:
                bulk()
            process = spawn("--seconds", "0.004", lines=names)
        elif chance.random() < 0.02:
            bulk()

    def over() -> bool:
        bulk()
        tables = [db.landings(name) for name in names]
        return all("pending" not in set(table["state"]) for table in tables) and (
            sum(table["path"].nunique() for table in tables) == images
        )

    until(over, 60)
    for name in names:
        _each_image_once(db, name, good[name])
    refused = sum(len(db.kept_aside(name)) for name in names)
    assert refused == images - sum(good.values())


@pytest.mark.spec("V9.05")
def test_a_small_storm_with_kills_loses_nothing_and_repeats_nothing(
    spawn: Spawn, source: PlantSource, db: InspectionDatabase
) -> None:
    _storm(spawn, source, db, seed=1, images=200, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_a_storm_with_kills_loses_nothing_and_repeats_nothing(
    seed: int, spawn: Spawn, source: PlantSource, db: InspectionDatabase
) -> None:
    _storm(spawn, source, db, seed=seed, images=800, kills=6)
