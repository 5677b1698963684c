"""From landing to durable result: the resident scorer, and its rate beside the bare detector in a loop.

Trains a small PatchCore (resnet18, 256 px), starts the scorer as a process of its own, and lets real files land.
Prints how long single images waited (from their renaming into the folder to the committed row), images a second when
many land at once beside the same model called in a loop on the same files, and the processor time of the idle scorer
with 20 lines.

    VAD_WEIGHTS=FOLDER python benchmarks/landing_to_result.py --data FOLDER [--images 60] [--many 200] [--json FILE]

FOLDER holds ``mvtec_bottle`` (see tests/conftest.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from PIL import Image

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.models import InspectionModel
from vad_lib.scorer import FastLane, LaneLimits, WatchedLine

SIDE = 512
IDLE_LINES = 20
ROUNDS = 4
WANTED = {"p95": 0.3, "p99": 1.0, "share": 0.85, "idle": 0.01}


class OneModel:
    """Every line is served by the same model folder."""

    def __init__(self, home: Home, model: Path, lines: int) -> None:
        self.model = model
        self.lines = {}
        for number in range(lines):
            line = home.line(f"line{number}")
            line.inbox.mkdir(parents=True, exist_ok=True)
            self.lines[line.name] = WatchedLine(line, line.inbox, "1")
        self.loaded: InspectionModel | None = None

    def watched(self) -> dict[str, WatchedLine]:
        return self.lines

    def load(self, line: str, model_version: str) -> InspectionModel:
        if self.loaded is None:
            self.loaded = InspectionModel.load(self.model)
        return self.loaded


def serve(home: Home, model: Path, lines: int) -> None:
    """Be the scorer until standard input ends."""
    logging.basicConfig(level=logging.WARNING)
    lane = FastLane(InspectionDatabase.of(home), OneModel(home, model, lines), LaneLimits(queue_images=100_000))
    lane.start()
    while lane.not_ready():
        time.sleep(0.05)
    print("ready", flush=True)
    sys.stdin.read()
    lane.stop()


def train(data: Path, folder: Path) -> None:
    """Fit and save the model."""
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.registry import create_detector
    from vad_lib.models import ModelInfo
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.thresholds import learn_calibration, learn_threshold

    arguments = TrainArguments(
        model_name="patchcore",
        img_size=(256, 256),
        model_parameters={"patchcore_backbone": "resnet18", "patchcore_coreset_sampling_ratio": 0.01},
    )
    preprocessing = Preprocessing((256, 256))
    good = sorted((data / "mvtec_bottle" / "train" / "good").glob("*.*"))[:40]
    detector = create_detector(arguments)
    detector.fit(ImageDataset(good, preprocessing, shapes=[Image.open(file).size[::-1] for file in good]))
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in good[:10]]
    import torch

    scores = detector.score(torch.stack([preprocessing.prepare(image) for image in pixels])).scores
    scores = np.asarray(scores, dtype=float)
    normal = np.zeros(len(scores), dtype=bool)
    threshold = learn_threshold(scores, normal, "Percentile", 0.8)
    calibration = learn_calibration(scores, normal, threshold)
    info = ModelInfo(model_name="patchcore", ok_class="good", n_train=len(good), backbone={}, arguments={})
    InspectionModel(detector, preprocessing, threshold, calibration, info).save(folder)


def make_images(data: Path, folder: Path, count: int, start: int = 0) -> list[Path]:
    """Write images of different contents, as a camera would: JPEG, 512 px."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = sorted((data / "mvtec_bottle" / "test").rglob("*.*"))
    files = []
    for number in range(start, start + count):
        with Image.open(originals[number % len(originals)]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE))).copy()
        pixels[:8, :8] = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = folder / f"{number:06}.jpg"
        Image.fromarray(pixels).save(file, quality=95)
        files.append(file)
    return files


class Scorer:
    """The scorer's process."""

    def __init__(self, home: Home, model: Path, lines: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(model), "--lines", str(lines)],
            env={**os.environ, "VAD_HOME": str(home.root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise SystemExit("the scorer did not start")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmRSS")) / 1024

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def counter(home: Home) -> Callable[[], int]:
    """Return what counts predictions, cheaply and often."""
    import sqlite3

    connection = sqlite3.connect(home.root / "inspection.db", isolation_level=None)
    return lambda: int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])


def single_images(home: Home, files: list[Path]) -> list[float]:
    """Let one image land at a time; return the seconds until each result was there."""
    count = counter(home)
    inbox = home.line("line0").inbox
    waits = []
    for file in files:
        before = count()
        target = inbox / file.name
        started = time.perf_counter()
        file.rename(target)
        while count() == before:
            time.sleep(0.002)
        waits.append(time.perf_counter() - started)
        time.sleep(0.3)
    return waits


def many_images(home: Home, files: list[Path]) -> float:
    """Let all land at once; return images a second until the last result was there."""
    count = counter(home)
    before, inbox = count(), home.line("line0").inbox
    started = time.perf_counter()
    for file in files:
        file.rename(inbox / file.name)
    while count() < before + len(files):
        time.sleep(0.02)
    return len(files) / (time.perf_counter() - started)


def bare_loop(model: Path, files: list[Path], batch: int) -> float:
    """Return images a second of the detector called in a loop in this process."""
    loaded = InspectionModel.load(model)
    list(loaded.predict_files(files[:batch], batch_size=batch))
    started = time.perf_counter()
    done = sum(1 for _ in loaded.predict_files(files, batch_size=batch))
    return done / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Home.from_environment(), given.serve, given.lines)
        return
    with tempfile.TemporaryDirectory(prefix="vad-bench-") as scratch:
        result = measure(given, Path(scratch))
        if given.json:
            given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


def measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Do all of it and print the table."""
    home, model = Home(scratch / "home"), scratch / "model"
    home.root.mkdir()
    train(given.data, model)
    files = make_images(given.data, scratch / "camera", given.images + 2 * given.many + 5)
    scorer = Scorer(home, model, 1)
    single_images(home, files[:5])
    waits = sorted(single_images(home, files[5 : 5 + given.images]))
    rest = files[5 + given.images :]
    first, second = rest[: given.many], rest[given.many :]
    # Turn by turn, and the middle of the ratios: a machine that does other things as well changes by the minute.
    load, part = os.getloadavg()[0], given.many // ROUNDS
    bare, rates = [], []
    for turn in range(ROUNDS):
        bare.append(bare_loop(model, first[turn * part : (turn + 1) * part], 16))
        rates.append(many_images(home, second[turn * part : (turn + 1) * part]))
    share = statistics.median(ours / theirs for ours, theirs in zip(rates, bare, strict=True))
    memory = scorer.memory_mb()
    scorer.end()
    idle_home = Home(scratch / "idle")
    idle_home.root.mkdir()
    scorer = Scorer(idle_home, model, IDLE_LINES)
    time.sleep(3)
    before, started = scorer.cpu_seconds(), time.perf_counter()
    time.sleep(given.idle_seconds)
    idle = (scorer.cpu_seconds() - before) / (time.perf_counter() - started)
    scorer.end()
    quantile = statistics.quantiles(waits, n=100, method="inclusive")
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}",
        "p50_seconds": round(quantile[49], 4),
        "p95_seconds": round(quantile[94], 4),
        "p99_seconds": round(quantile[98], 4),
        "bare_images_per_second": round(statistics.median(bare), 2),
        "fast_lane_images_per_second": round(statistics.median(rates), 2),
        "share": round(share, 3),
        "idle_share_of_a_core": round(idle, 4),
        "memory_mb": round(memory),
    }
    print(f"{given.images} single images, then {given.many} at once; {result['machine']}")
    rows = [
        ("landing to result, p50", f"{quantile[49] * 1000:.0f} ms", ""),
        ("landing to result, p95", f"{quantile[94] * 1000:.0f} ms", f"wanted: under {WANTED['p95'] * 1000:.0f} ms"),
        ("landing to result, p99", f"{quantile[98] * 1000:.0f} ms", f"wanted: under {WANTED['p99'] * 1000:.0f} ms"),
        ("bare detector in a loop", f"{statistics.median(bare):.1f} images/s", ""),
        (
            "fast lane, sustained",
            f"{statistics.median(rates):.1f} images/s",
            f"{result['share']:.0%}; wanted: {WANTED['share']:.0%}",
        ),
        (f"idle, {IDLE_LINES} lines", f"{idle:.2%} of a core", f"wanted: under {WANTED['idle']:.0%}"),
        ("memory of the scorer", f"{memory:.0f} MB", ""),
    ]
    for name, value, wanted in rows:
        print(f"  {name:<26}{value:>18}   {wanted}")
    return result


if __name__ == "__main__":
    main()
