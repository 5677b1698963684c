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
from inspection_rig import Rig
from PIL import Image

from vad_lib.inspection.worker import MAX_DELIVERIES
from vad_lib.inspection_db.laws import check_database

HERE = Path(__file__).parent
pytestmark = pytest.mark.parametrize(
    "inspection_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


def _start(rig: Rig, run_id: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "inspect_in_process.py"), str(rig.line.folder.parent.parent), run_id, *more],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)])},
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, int] = json.loads(output)
    return found


def _wait_for_predictions(rig: Rig, count: int) -> None:
    deadline = time.monotonic() + 60
    while rig.db.count_predictions("bottles") < count:
        assert time.monotonic() < deadline, f"only {rig.db.count_predictions('bottles')} of {count} came about"
        time.sleep(0.01)


@pytest.mark.spec("Q1.05")
def test_a_killed_run_is_finished_by_the_next_which_repeats_at_most_one_chunk(rig: Rig, tmp_path: Path) -> None:
    for i in range(30):
        write_image(rig.inbox / f"{i}.png", 40 + 4 * i, nonce=i)
    rig.register()
    log = tmp_path / "scored.log"
    process = _start(rig, "first", "--seconds", "0.03", "--log", str(log))
    _wait_for_predictions(rig, 5)
    process.kill()
    process.wait()
    before = rig.db.count_predictions("bottles")
    assert before < 30
    # The next does not wait until the leases of the dead one run out.
    started = time.monotonic()
    assert _finish(_start(rig, "second", "--log", str(log))) == {"decided": 30 - before, "scored": 30 - before}
    assert time.monotonic() - started < 60
    assert rig.db.predictions("bottles")["sha256"].is_unique
    assert len(log.read_text().splitlines()) <= 30 + 4
    assert set(rig.states().values()) == {"done"}
    assert check_database(rig.db.engine) == []


def test_two_processes_share_one_queue_and_score_each_image_once(rig: Rig, tmp_path: Path) -> None:
    for i in range(24):
        write_image(rig.inbox / f"{i}.png", 40 + 4 * i, nonce=i)
    (rig.inbox / "broken.png").write_bytes(b"broken")
    rig.register()
    shutil.copy(rig.inbox / "0.png", rig.inbox / "copy of 0.png")
    rig.register()
    log = tmp_path / "scored.log"
    both = [_start(rig, name, "--seconds", "0.02", "--log", str(log)) for name in ("one", "other")]
    results = [_finish(process) for process in both]
    assert sum(result["decided"] for result in results) == 26
    assert sum(result["scored"] for result in results) == 24
    assert len(log.read_text().splitlines()) == 24
    assert sorted(rig.states().values()) == ["done"] * 24 + ["duplicate", "unreadable_image"]
    assert check_database(rig.db.engine) == []


@pytest.mark.spec("Q1.06")
def test_an_image_that_kills_its_worker_is_found_out_and_quarantined(rig: Rig) -> None:
    for i in range(9):
        write_image(rig.inbox / f"{i}.png", 40 + i, nonce=i)
    write_image(rig.inbox / "4 poison.png", POISON)
    rig.register()
    deaths = 0
    while (process := _start(rig, f"run {deaths}", "--poisonous")).wait(timeout=60) != 0:
        assert process.returncode == -signal.SIGKILL
        deaths += 1
        assert deaths <= MAX_DELIVERIES
    # Once in company, then alone; the others were done before it was tried again.
    assert deaths == MAX_DELIVERIES
    assert rig.db.count_predictions("bottles") == 9
    (refused,) = rig.db.refused("bottles").itertuples()
    assert (refused.path, refused.rule) == ("4 poison.png", "poison_image")
    assert f"{MAX_DELIVERIES} workers took it and did not finish it" in refused.reason
    assert Path(refused.quarantine_file).read_bytes() == (rig.inbox / "4 poison.png").read_bytes()


@pytest.mark.spec("V9.05", "Q1.05")
def test_500_files_with_5_percent_bad_ones_and_deaths_in_between(rig: Rig) -> None:
    """Every good one has exactly one prediction, every bad one a reason."""
    good = {f"{i:03}.png" for i in range(470)} | {'it\'s "größe" 图.png'}
    for number, name in enumerate(sorted(good)):
        write_image(rig.inbox / name, 60 + number % 100, nonce=number)
    rig.register()
    bad = _write_bad_ones(rig.inbox)
    rig.register()
    chance = random.Random(7)
    for number in range(60):
        process = _start(rig, f"run {number}", "--seconds", "0.005")
        if chance.random() < 0.7:
            time.sleep(chance.uniform(0.5, 2.0))
            process.kill()
        if process.wait(timeout=120) == 0:
            break
    assert number > 0, "nothing was killed"
    predicted = rig.db.predictions("bottles")
    files = rig.db.incoming_files("bottles")
    assert predicted["sha256"].is_unique
    done = files.query("state == 'done'")
    # Of two files with one content either may be leased first; the other is the duplicate.
    if "zz duplicate.png" in set(done["path"]):
        good = good - {"000.png"} | {"zz duplicate.png"}
        bad = {"000.png" if name == "zz duplicate.png" else name: rule for name, rule in bad.items()}
    assert set(done["path"]) == good
    assert set(done["sha256"]) == set(predicted["sha256"])
    refused = files.query("state == 'refused'")
    assert dict(zip(refused["path"], refused["rule"], strict=True)) == bad
    assert refused["reason"].str.len().min() > 5
    assert rig.db.file_counts("bottles")["pending"] == 0
    assert check_database(rig.db.engine) == []


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
