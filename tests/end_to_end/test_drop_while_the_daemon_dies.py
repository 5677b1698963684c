"""500 files land, some of them bad, and the daemon is killed in the middle: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_processes import Place, wait_for

from benchmarks.homes import write_plan
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.synthetic import make_demo_drop, make_demo_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FILES, BAD = 500, 25


@pytest.mark.spec("V9.05")
def test_every_good_file_has_one_prediction_and_every_bad_one_a_reason(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_demo_line(data, train_normal=100, valid_normal=10, valid_of_each_kind=2, side=64)
    plan = write_plan(
        data / "experimental_plan.yaml", side=64, sampling_ratio=0.05, settle_seconds=1.0, max_batch_images=100
    )
    place.vad("line", "add", "bricks", "--plan", plan)
    place.vad("train", "bricks")
    line = Home(place.home).line("bricks")
    db = InspectionDatabase.of(Home(place.home))

    drop = tmp_path / "drop"
    make_demo_drop(drop, 5, normal=FILES - BAD - 40, defective=40, broken=0, side=64)
    odd_names = _rename_oddly(drop)
    bad = _make_bad_files(drop, tmp_path)
    duplicate = drop / "duplicate.png"
    shutil.copy(min(drop.glob("brick_*.png")), duplicate)
    names = {file.name for file in drop.iterdir()}
    assert len(names) == FILES + 1

    with place.daemon() as first:
        # as a network share delivers: some at once, in no order
        for file in sorted(drop.iterdir()):
            shutil.copy2(file, line.inbox / file.name, follow_symlinks=False)
        wait_for(lambda: db.count_predictions("bricks") >= 50, 240, "prediction")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    counts = db.file_counts("bricks")
    assert counts["pending"] > 0 or sum(counts.values()) < len(names), "the kill came before the end"

    with place.daemon():
        wait_for(lambda: _decided(db) == len(names), 420, "decision about every file")

    files = db.incoming_files("bricks").set_index("path")
    predictions = db.predictions("bricks")
    assert set(files.index) == names
    refused = files[files["state"] == "refused"]
    assert set(refused.index) - {duplicate.name} == bad
    assert (refused["reason"].str.len() > 5).all()
    good = files[files["state"] == "done"]
    per_content = Counter(predictions["sha256"])
    assert set(per_content.values()) == {1}
    assert set(good["sha256"]) == set(per_content)
    assert set(odd_names) <= set(good.index)
    assert len(per_content) == FILES - BAD


def _decided(db: InspectionDatabase) -> int:
    counts = db.file_counts("bricks")
    return counts["done"] + counts["refused"]


def _rename_oddly(drop: Path) -> list[str]:
    names = ['it\'s "quoted" – größe 測試.png', "white  space .PNG", "-rf.png", "a;b&c$(d).png"]
    for file, name in zip(sorted(drop.glob("brick_*.png")), names, strict=False):
        file.rename(drop / name)
    return names


def _make_bad_files(drop: Path, elsewhere: Path) -> set[str]:
    """Write 25 files that cannot be inspected, of all kinds."""
    good = max(drop.glob("brick_*.png")).read_bytes()
    outside = elsewhere / "outside.png"
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(outside)
    made = []
    for number in range(BAD):
        kind = number % 6
        file = drop / f"bad_{number:02d}_{kind}.png"
        if kind == 0:
            file.write_bytes(good[: 200 + 40 * number])
        elif kind == 1:
            file.touch()
        elif kind == 2:
            file.write_text(f"this is no image, number {number}\n" * 20)
        elif kind == 3:
            file.write_bytes(_huge_png(number))
        elif kind == 4:
            file.symlink_to(outside)
        else:
            file = file.with_suffix(".gif")
            Image.fromarray(np.full((64, 64), number, np.uint8)).save(file)
        made.append(file.name)
    return set(made)


def _huge_png(number: int) -> bytes:
    """Return a PNG of some bytes that says it has 40000 x 40000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 40000, 40000 + number, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
