"""From landing to durable result: the inference service and Dagster's runs, side by side.

    VAD_WEIGHTS=FOLDER python -m benchmarks.landing_to_result --data FOLDER [--only latency|rate|idle] [--quick]

``latency``: one image at a time, the lanes in turn, from its renaming into the landing folder to the committed row.
*service* is the inference service; *runs* is Dagster's daemon as it is installed, without a service. Both have the
same PatchCore (resnet18, 256 px).
``rate``: images a second when many land at once, beside the same model called in a loop on the same number of files.
``idle``: processor time of the scorer with 20 lines where nothing lands.

FOLDER holds ``mvtec_bottle`` (see tests/conftest.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from PIL import Image

from benchmarks.dagster_lane import FIRST_SECONDS, DagsterLane
from benchmarks.fast_lane_process import Scorer
from benchmarks.homes import call, environment_of
from benchmarks.real_data import add_data_argument
from vad_lib.lines import Home

SIDE = 512
IDLE_LINES = 20
ROUNDS = 4
SERVICE_PER_RUN = 5
"""Images of the service for one image of a run: its 99th percentile needs more of them."""
BETWEEN_SECONDS = 0.3
WAYS = ("service", "runs")


def make_images(data: Path, folder: Path, count: int) -> list[Path]:
    """Write images of different contents, as a camera would: JPEG, 512 px."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = sorted((data / "mvtec_bottle" / "test").rglob("*.*"))
    files = []
    for number in range(count):
        with Image.open(originals[number % len(originals)]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE))).copy()
        pixels[:8, :8] = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = folder / f"{number:06}.jpg"
        Image.fromarray(pixels).save(file, quality=95)
        files.append(file)
    return files


def counter(home: Home) -> Callable[[], int]:
    """Return what counts predictions, cheaply and often."""
    connection = sqlite3.connect(home.root / "inspection.db", isolation_level=None)
    return lambda: int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])


def single_image(home: Home, count: Callable[[], int], file: Path) -> float:
    """Let an image land where the service watches; return the seconds until its result was there."""
    before = count()
    target = home.line("line0").inbox / file.name
    started = time.perf_counter()
    file.rename(target)
    while count() == before:
        time.sleep(0.002)
    return time.perf_counter() - started


def latency(scratch: Path, data: Path, model: Path, runs: int) -> dict[str, Any]:
    """Measure both ways in turn and print the table."""
    home = Home(scratch / "service")
    home.root.mkdir()
    files = iter(make_images(data, scratch / "singles", runs * (SERVICE_PER_RUN + 2) + 20))
    lane = DagsterLane(scratch / "runs", model)
    scorer = Scorer(home, model)
    count = counter(home)
    waits: dict[str, list[float]] = {name: [] for name in WAYS}
    try:
        # the first run makes the databases
        lane.one_image(next(files), seconds=FIRST_SECONDS)
        for _ in range(5):
            single_image(home, count, next(files))
        chance = np.random.default_rng(0)
        for _ in range(runs):
            for _ in range(SERVICE_PER_RUN):
                waits["service"].append(single_image(home, count, next(files)))
                time.sleep(BETWEEN_SECONDS)
            # at any moment of the daemon's five seconds
            time.sleep(float(chance.uniform(1.0, 6.0)))
            waits["runs"].append(lane.one_image(next(files)))
    finally:
        scorer.end()
        lane.end()
    result = {name: _quantiles(waits[name]) for name in WAYS}
    wanted = {"service": "wanted: p95 under 0.3 s, p99 under 1 s", "runs": ""}
    print(f"landing to durable result, one image at a time, both ways in turn; {_machine()}")
    print(f"  {'way':<8}{'images':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'runs / this, p50':>20}{'p95':>7}")
    for name in WAYS:
        p50, p95, p99 = (result[name][key] for key in ("p50", "p95", "p99"))
        ratios = [result["runs"][key] / result[name][key] for key in ("p50", "p95")]
        print(
            f"  {name:<8}{len(waits[name]):>7}{p50:>8.3f}s{p95:>8.3f}s{p99:>8.3f}s{ratios[0]:>19.1f}x{ratios[1]:>6.1f}x"
            f"   {wanted[name]}"
        )
    return result


def _quantiles(waits: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(sorted(waits), n=100, method="inclusive")
    return {"p50": round(cuts[49], 4), "p95": round(cuts[94], 4), "p99": round(cuts[98], 4), "images": len(waits)}


def rate(scratch: Path, data: Path, model: Path, many: int) -> dict[str, Any]:
    """Let many land at once, in turn with the bare detector in a loop, and print both."""
    home = Home(scratch / "rate")
    home.root.mkdir()
    files = make_images(data, scratch / "many", 2 * many + 5)
    # Large enough to take up all of them: what is measured is the rate, not what is shed.
    scorer = Scorer(home, model, queue=100_000)
    count = counter(home)
    for file in files[:5]:
        single_image(home, count, file)
    first, second = files[5 : 5 + many], files[5 + many :]
    # Turn by turn, and the middle of the ratios: a machine that does other things as well changes by the minute.
    part = many // ROUNDS
    bare, rates = [], []
    for turn in range(ROUNDS):
        bare.append(_bare_loop(model, first[turn * part : (turn + 1) * part], 16))
        rates.append(_many_images(home, count, second[turn * part : (turn + 1) * part]))
    share = statistics.median(ours / theirs for ours, theirs in zip(rates, bare, strict=True))
    memory = scorer.memory_mb()
    scorer.end()
    result = {
        "bare_images_per_second": round(statistics.median(bare), 2),
        "fast_lane_images_per_second": round(statistics.median(rates), 2),
        "share": round(share, 3),
        "memory_mb": round(memory),
    }
    print(f"{many} images at once; {_machine()}")
    print(f"  bare detector in a loop   {result['bare_images_per_second']:>8} images/s")
    print(f"  fast lane, sustained      {result['fast_lane_images_per_second']:>8} images/s   {share:.0%}; wanted: 85%")
    print(f"  memory of the scorer      {memory:>8.0f} MB")
    return result


def _many_images(home: Home, count: Callable[[], int], files: list[Path]) -> float:
    before, inbox = count(), home.line("line0").inbox
    started = time.perf_counter()
    for file in files:
        file.rename(inbox / file.name)
    while count() < before + len(files):
        time.sleep(0.02)
    return len(files) / (time.perf_counter() - started)


def _bare_loop(model: Path, files: list[Path], batch: int) -> float:
    from vad_lib.models import InspectionModel

    loaded = InspectionModel.load(model)
    list(loaded.predict_files(files[:batch], batch_size=batch))
    started = time.perf_counter()
    done = sum(1 for _ in loaded.predict_files(files, batch_size=batch))
    return done / (time.perf_counter() - started)


def idle(scratch: Path, model: Path, seconds: float) -> dict[str, Any]:
    """Print the processor time of the scorer where nothing lands."""
    home = Home(scratch / "idle")
    home.root.mkdir()
    scorer = Scorer(home, model, IDLE_LINES)
    time.sleep(3)
    before, started = scorer.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    share = (scorer.cpu_seconds() - before) / (time.perf_counter() - started)
    scorer.end()
    print(f"idle, {IDLE_LINES} lines; {_machine()}")
    print(f"  processor time            {share:>8.2%} of a core   wanted: under 1%")
    return {"share_of_a_core": round(share, 4)}


def _machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--only", choices=["latency", "rate", "idle"])
    parser.add_argument("--runs", type=int, default=20, help="images that runs inspect")
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="a few images only")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.runs, given.many, given.idle_seconds = 3, 32, 5.0
    result: dict[str, Any] = {"machine": _machine()}
    with tempfile.TemporaryDirectory(prefix="vad-bench-", ignore_cleanup_errors=True) as folder:
        scratch, model = Path(folder), Path(folder) / "model"
        call("bottle-model", environment_of(scratch), given.data.resolve(), model)
        if given.only in (None, "latency"):
            result["latency"] = latency(scratch, given.data, model, given.runs)
        if given.only in (None, "rate"):
            result["rate"] = rate(scratch, given.data, model, given.many)
        if given.only in (None, "idle"):
            result["idle"] = idle(scratch, model, given.idle_seconds)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
