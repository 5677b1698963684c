"""Real processes, really killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brightness_model import POISON, write_image
from inspection_plant import Plant
from PIL import Image

from vad_lib.inspection_db.checking import check_database
from vad_lib.landing import RunState

HERE = Path(__file__).parent


def _start(plant: Plant, batch_id: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "inspect_in_process.py"), str(plant.line.folder.parent.parent), batch_id, *more],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])},
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, int] = json.loads(output)
    return found


def _check_database(plant: Plant) -> None:
    assert check_database(plant.db.engine) == []


def _wait_for_predictions(plant: Plant, count: int) -> None:
    deadline = time.monotonic() + 60
    while plant.db.count_predictions("bottles") < count:
        assert time.monotonic() < deadline, "the process does not get on"
        time.sleep(0.01)


def test_a_killed_inspection_is_finished_by_the_next_which_repeats_at_most_one_chunk(
    plant: Plant, tmp_path: Path
) -> None:
    for i in range(30):
        write_image(plant.inbox / f"{i}.png", 40 + 4 * i, nonce=i)
    batch = plant.land_batch()
    log = tmp_path / "scored.log"
    process = _start(plant, batch, "--seconds", "0.03", "--log", str(log))
    _wait_for_predictions(plant, 5)
    process.kill()
    process.wait()
    before = plant.db.count_predictions("bottles")
    assert before < 30
    # The next does not wait for the claims of the dead one.
    started = time.monotonic()
    assert _finish(_start(plant, batch, "--log", str(log))) == {
        "predicted": 30,
        "scored": 30 - before,
        "refused": 0,
        "left": 0,
    }
    assert time.monotonic() - started < 60
    assert plant.db.predictions("bottles")["sha256"].is_unique
    assert len(log.read_text().splitlines()) <= 30 + 4
    _check_database(plant)


def test_two_processes_on_one_batch_share_it_and_both_give_the_whole_result(plant: Plant, tmp_path: Path) -> None:
    for i in range(24):
        write_image(plant.inbox / f"{i}.png", 40 + 4 * i, nonce=i)
    shutil.copy(plant.inbox / "0.png", plant.inbox / "copy of 0.png")
    (plant.inbox / "broken.png").write_bytes(b"broken")
    batch = plant.land_batch()
    log = tmp_path / "scored.log"
    both = [_start(plant, batch, "--seconds", "0.02", "--log", str(log)) for _ in range(2)]
    results = [_finish(process) for process in both]
    assert [result["predicted"] for result in results] == [24, 24]
    assert [result["refused"] for result in results] == [2, 2]
    assert sum(result["scored"] for result in results) == 24
    assert len(log.read_text().splitlines()) == 24
    assert plant.db.count_predictions("bottles") == 24
    _check_database(plant)


def test_an_image_that_kills_its_inspection_is_found_out_and_kept_aside(plant: Plant) -> None:
    for i in range(9):
        write_image(plant.inbox / f"{i}.png", 40 + i, nonce=i)
    write_image(plant.inbox / "4 poison.png", POISON)
    batch = plant.land_batch()
    deaths = 0
    while (process := _start(plant, batch, "--poisonous")).wait(timeout=60) != 0:
        assert process.returncode == -signal.SIGKILL
        deaths += 1
        assert deaths < 6
    # Once in company, three times alone; the others were done before it was tried again.
    assert deaths == 4
    assert plant.db.count_predictions("bottles") == 9
    (kept,) = plant.db.kept_aside("bottles").itertuples()
    assert (kept.path, kept.rule) == ("4 poison.png", "ends_its_inspection")
    assert "3 inspections ended while they had only this file in hand" in kept.reason
    assert Path(kept.kept_file).is_file()


@pytest.mark.spec("V9.05")
@pytest.mark.parametrize(
    "inspection_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_500_files_with_5_percent_bad_ones_and_deaths_in_between(plant: Plant) -> None:
    """Every good one has exactly one prediction, every bad one a reason."""
    good = {f"{i:03}.png" for i in range(470)} | {'it\'s "größe" 图.png'}
    for number, name in enumerate(sorted(good)):
        write_image(plant.inbox / name, 60 + number % 100, nonce=number)
    bad = _write_bad_ones(plant.inbox)
    chance = random.Random(7)
    runs: dict[str, RunState] = {}
    for _ in range(60):
        # a batch whose runs were killed three times with images in hand is halved: two requests then
        tick = plant.tick(state_of=runs.get, max_batch=128, max_active=1)
        if not tick.requests:
            break
        for request in tick.requests:
            process = _start(plant, request.batch_id, "--seconds", "0.001")
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0.5, 2.0))
                process.kill()
            runs[request.run_key] = RunState("succeeded" if process.wait(timeout=120) == 0 else "failed")
    predicted = plant.db.predictions("bottles")
    landed = plant.db.landings("bottles")
    assert predicted["sha256"].is_unique
    done = landed.query("state == 'done'")
    assert set(done["path"]) == good
    assert set(done["sha256"]) == set(predicted["sha256"])
    refused = landed.query("state == 'refused'")
    assert dict(zip(refused["path"], refused["rule"], strict=True)) == bad
    assert refused["reason"].str.len().min() > 5
    assert plant.db.landing_counts("bottles")["pending"] == 0
    _check_database(plant)


def _write_bad_ones(inbox: Path) -> dict[str, str]:
    whole = write_image(inbox / "whole.png", 60, size=64).read_bytes()
    (inbox / "whole.png").unlink()
    bad = {}
    for i in range(5):
        (inbox / f"cut {i}.png").write_bytes(whole[: 40 + i])
        (inbox / f"empty {i}.png").write_bytes(b"")
        (inbox / f"text {i}.png").write_text(f"text {i}")
        (inbox / f"note {i}.txt").write_text("note")
        bad.update({f"{kind} {i}.png": "unreadable_image" for kind in ("cut", "empty", "text")})
        bad[f"note {i}.txt"] = "not_an_image"
    header = whole[:16] + (40_000).to_bytes(4, "big") * 2 + whole[24:]
    (inbox / "huge.png").write_bytes(header)
    Image.new("F", (8, 8)).save(inbox / "float.tiff")
    (inbox / "float.tiff").rename(inbox / "float.png")
    (inbox / "out.png").symlink_to("/etc/hostname")
    shutil.copy(inbox / "000.png", inbox / "zz duplicate.png")
    (inbox / "folder.png").symlink_to(inbox)
    return bad | {
        "huge.png": "unreadable_image",
        "float.png": "unreadable_image",
        "out.png": "leaves_folder",
        "zz duplicate.png": "duplicate",
        "folder.png": "linked_folder",
    }
