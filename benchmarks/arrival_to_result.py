"""From arrival to durable result: the inference service and Dagster's runs, beside another checkout's service.

    VAD_WEIGHTS=FOLDER python -m benchmarks.arrival_to_result --data FOLDER [--only latency|rate|idle] [--quick]
                                                              [--other CHECKOUT]

``latency``: one image at a time, in turn, from its renaming into the watch folder to the committed row. *service* is
``vad serve``; *runs* is Dagster's daemon as it is installed, without a service; *other* is ``vad serve`` of another
checkout of this project, on a home and with a model that its own code makes. All have the same PatchCore (resnet18,
256 px).
``rate``: images a second when many arrive at once, beside the same model called in a loop on the same number of files.
``idle``: processor time of the service with 20 lines where nothing arrives.

FOLDER holds ``mvtec_bottle`` (see tests/conftest.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from PIL import Image

from benchmarks.homes import call, environment_of
from benchmarks.measured_homes import FIRST_SECONDS, MeasuredHome, RunHome, ServedHome
from benchmarks.real_data import add_data_argument
from benchmarks.service_process import ServiceProcess
from vad_lib.lines import Home

SIDE = 512
IDLE_LINES = 20
ROUNDS = 4
SERVICE_PER_RUN = 5
"""Images of a service for one image of a run: its 99th percentile needs more of them."""
BETWEEN_SECONDS = 0.3
SERVICE, OTHER, RUNS = "service", "other", "runs"
QUANTILES = {"p50": 49, "p95": 94, "p99": 98}


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


def serve_all(scratch: Path, models: dict[str, Path], other: Path | None) -> dict[str, MeasuredHome]:
    """Start the services; they are ready when an image has its result."""
    homes: dict[str, MeasuredHome] = {SERVICE: ServedHome(scratch / SERVICE, models[SERVICE])}
    if other is not None:
        homes[OTHER] = ServedHome(scratch / OTHER, models[OTHER], other)
    return homes


def latency(
    scratch: Path, data: Path, models: dict[str, Path], rounds: int, other: Path | None, *, with_runs: bool
) -> dict[str, Any]:
    """Measure all ways in turn and print the table. In each round, a run inspects one image."""
    with ExitStack() as started:
        homes = serve_all(scratch / "latency", models, other)
        if with_runs:
            homes[RUNS] = RunHome(scratch / "latency" / RUNS, models[SERVICE])
        for home in homes.values():
            started.callback(home.end)
        images = make_images(data, scratch / "singles", len(homes) * (rounds * (SERVICE_PER_RUN + 1) + 10))
        files = iter(images)
        waits: dict[str, list[float]] = {name: [] for name in homes}
        for home in homes.values():
            # The first image waits for models, tables and code servers.
            home.one_image(next(files), seconds=FIRST_SECONDS)
        for _ in range(5):
            for name in (SERVICE, OTHER):
                if name in homes:
                    homes[name].one_image(next(files))
        chance = np.random.default_rng(0)
        for number in range(rounds):
            names = [name for name in (SERVICE, OTHER) if name in homes]
            for _ in range(SERVICE_PER_RUN):
                for name in names if number % 2 else reversed(names):
                    waits[name].append(homes[name].one_image(next(files)))
                    time.sleep(BETWEEN_SECONDS)
            if RUNS in homes:
                # At any moment of the daemon's five seconds.
                time.sleep(float(chance.uniform(1.0, 6.0)))
                waits[RUNS].append(homes[RUNS].one_image(next(files)))
    result: dict[str, Any] = {name: _quantiles(waits[name]) for name in homes}
    wanted = {SERVICE: "wanted: p95 under 0.3 s, p99 under 1 s", OTHER: "wanted: the service's p95 not above this"}
    print(f"arrival to durable result, one image at a time, all ways in turn; {_machine()}")
    print(f"  {'way':<8}{'images':>7}" + "".join(f"{key:>9}" for key in QUANTILES) + "   this / service")
    for name, found in result.items():
        ratios = {key: found[key] / result[SERVICE][key] for key in QUANTILES}
        seconds = "".join(f"{found[key]:>8.3f}s" for key in QUANTILES)
        shown = ", ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items())
        print(f"  {name:<8}{found['images']:>7}{seconds}   {shown}   {wanted.get(name, '')}")
    return result


def _quantiles(waits: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(sorted(waits), n=100, method="inclusive")
    return {**{key: round(cuts[place], 4) for key, place in QUANTILES.items()}, "images": len(waits)}


def rate(scratch: Path, data: Path, models: dict[str, Path], many: int, other: Path | None) -> dict[str, Any]:
    """Let many arrive at once, in turn with the bare detector in a loop, and print all."""
    with ExitStack() as started:
        homes = serve_all(scratch / "rate", models, other)
        for home in homes.values():
            started.callback(home.end)
        files = make_images(data, scratch / "many", (1 + len(homes)) * many + 5 * len(homes))
        for home in homes.values():
            home.one_image(files.pop(), seconds=FIRST_SECONDS)
            for _ in range(4):
                home.one_image(files.pop())
        # Turn by turn, and the middle of the ratios: a machine that does other things as well changes by the minute.
        part = many // ROUNDS
        bare: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in homes}
        for turn in range(ROUNDS):
            bare.append(_bare_loop(models[SERVICE], [files.pop() for _ in range(part)], 16))
            for name in homes if turn % 2 else reversed(homes):
                rates[name].append(part / homes[name].images([files.pop() for _ in range(part)], seconds=600))
    result: dict[str, Any] = {"bare_images_per_second": round(statistics.median(bare), 2)}
    print(f"{many} images, {part} at once; {_machine()}")
    print(f"  bare detector in a loop   {result['bare_images_per_second']:>8} images/s")
    for name, found in rates.items():
        share = statistics.median(ours / theirs for ours, theirs in zip(found, bare, strict=True))
        result[name] = {"images_per_second": round(statistics.median(found), 2), "share": round(share, 3)}
        shown = f"{result[name]['images_per_second']:>8} images/s   {share:.0%} of the bare detector; wanted: 85%"
        print(f"  {name + ', sustained':<26}{shown}")
    if OTHER in rates:
        pairs = zip(rates[SERVICE], rates[OTHER], strict=True)
        result["service_to_other"] = round(statistics.median(ours / theirs for ours, theirs in pairs), 3)
        print(f"  service / other           {result['service_to_other']:>8}            wanted: at least 1")
    return result


def _bare_loop(model: Path, files: list[Path], batch: int) -> float:
    from vad_lib.models import InspectionModel

    loaded = InspectionModel.load(model)
    list(loaded.predict_files(files[:batch], batch_size=batch))
    started = time.perf_counter()
    done = sum(1 for _ in loaded.predict_files(files, batch_size=batch))
    return done / (time.perf_counter() - started)


def idle(scratch: Path, model: Path, seconds: float) -> dict[str, Any]:
    """Print the processor time of the service where nothing arrives."""
    home = Home(scratch / "idle")
    home.root.mkdir()
    service = ServiceProcess(home, model, IDLE_LINES)
    try:
        time.sleep(3)
        before, started = service.cpu_seconds(), time.perf_counter()
        time.sleep(seconds)
        share = (service.cpu_seconds() - before) / (time.perf_counter() - started)
    finally:
        service.end()
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
    parser.add_argument("--other", type=Path, help="another checkout of this project, whose service is measured too")
    parser.add_argument("--rounds", type=int, default=20, help="of 5 images of each service and one of a run")
    parser.add_argument("--services-only", action="store_true", help="no runs of Dagster")
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="a few images only")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.many, given.idle_seconds = 3, 32, 5.0
    # Whoever ends it ends what it has started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    result: dict[str, Any] = {"machine": _machine()}
    data, other = given.data.resolve(), given.other.resolve() if given.other else None
    with tempfile.TemporaryDirectory(prefix="vad-bench-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        models = {SERVICE: scratch / "model", OTHER: scratch / "model-of-other"}
        call("bottle-model", environment_of(scratch), data, models[SERVICE])
        if other is not None and given.only != "idle":
            # A model of another checkout may be written in another way.
            call("bottle-model", environment_of(scratch, checkout=other), data, models[OTHER])
        if given.only in (None, "latency"):
            result["latency"] = latency(scratch, data, models, given.rounds, other, with_runs=not given.services_only)
        if given.only in (None, "rate"):
            result["rate"] = rate(scratch, data, models, given.many, other)
        if given.only in (None, "idle"):
            result["idle"] = idle(scratch, models[SERVICE], given.idle_seconds)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
