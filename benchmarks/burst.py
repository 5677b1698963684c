"""Many small images at once through the inference service, and a look at a folder of very many known files.

    python -m benchmarks.burst [--images 10000] [--seen 100000] [--only burst|look] [--quick]

``burst``: none may be lost; prints the rate and the memory of the service, and draws docs/images/burst_memory.png.
``look``: prints how long a look at a watch folder takes, as service and sensor do, in which everything was inspected.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import update

from benchmarks.homes import call, environment_of
from benchmarks.service_process import ServiceProcess
from vad_lib.ingest import Arrival, FolderWatch, scan_folder
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.database import chunks
from vad_lib.inspection_db.schema import DONE, incoming_files
from vad_lib.lines import Home
from vad_lib.queue import known_versions, register

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "burst_memory.png"
SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 1800.0
WANTED_LOOK_SECONDS = 1.0


def small_images(folder: Path, count: int) -> list[Path]:
    """Write so many JPEG files of 64 px and different contents."""
    folder.mkdir(parents=True)
    base = np.random.default_rng(0).integers(60, 120, (64, 64, 3), dtype=np.uint8)
    files = []
    for number in range(count):
        pixels = base.copy()
        pixels[:8, :8] = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="JPEG", quality=92)
        files.append(folder / f"{number:06}.jpg")
        files[-1].write_bytes(stream.getvalue())
    return files


def burst(scratch: Path, count: int, picture: Path | None) -> dict[str, Any]:
    """Let all images arrive at once and wait for the last result."""
    home = Home(scratch / "home")
    home.root.mkdir()
    call("small-models", environment_of(home.root), scratch / "models")
    files = small_images(scratch / "camera", count)
    service = ServiceProcess(home, scratch / "models" / "a")
    db = InspectionDatabase(f"sqlite:///{home.root / 'inspection.db'}")
    watch_folder = home.line("line0").inbox
    samples: list[tuple[float, float, int]] = []
    ended = threading.Event()
    started = time.perf_counter()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append((time.perf_counter() - started, service.memory_mb(), db.count_predictions("line0")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for file in files:
        file.rename(watch_folder / file.name)
    arrived = time.perf_counter() - started
    while db.count_predictions("line0") < count and time.perf_counter() - started < PATIENCE_SECONDS:
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    predictions = db.predictions("line0")
    service.end()
    states = db.file_counts("line0")
    # What is loaded at first comes on top of nothing; flat is what follows.
    steady = [memory for _, memory, done in samples if done > count * 0.1] or [memory for _, memory, _ in samples]
    if picture is not None:
        _draw(samples, count, picture)
    result = {
        "images": count,
        "predictions": len(predictions),
        "distinct": int(predictions["sha256"].nunique()),
        "not_decided": int(states["pending"]),
        "arrived_in_seconds": round(arrived, 2),
        "seconds": round(seconds, 1),
        "images_per_second": round(count / seconds, 1),
        "least_memory_mb": round(min(steady)),
        "most_memory_mb": round(max(steady)),
    }
    lost = count - result["distinct"]
    print(f"burst of {count} images of 64 px, arrived within {arrived:.1f} s; {_machine()}")
    twice = len(predictions) - result["distinct"]
    print(f"  results                   {result['predictions']:>12}   lost: {lost}, twice: {twice}")
    print(f"  rate                      {result['images_per_second']:>12} images/s, {seconds:.0f} s in all")
    print(
        f"  memory of the service      {min(steady):>6.0f} to {max(steady):.0f} MB "
        f"after the first tenth ({(max(steady) / min(steady) - 1):.1%} between least and most)"
    )
    if lost or len(predictions) != count:
        raise SystemExit("images were lost or scored twice")
    return result


def _draw(samples: list[tuple[float, float, int]], count: int, picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    times = [moment for moment, _, _ in samples]
    axes.plot(times, [memory for _, memory, _ in samples], color="tab:blue")
    axes.set(xlabel="seconds since the first image arrived", ylabel="memory of the service [MB]")
    axes.set_ylim(0, 1.2 * max(memory for _, memory, _ in samples))
    beside = axes.twinx()
    beside.plot(times, [done for _, _, done in samples], color="tab:gray", linestyle="--")
    beside.set(ylabel="images with a result", ylim=(0, count * 1.05))
    axes.set_title(f"{count} images arrive at once")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    print(f"  drawn: {picture}")


def look(scratch: Path, count: int, looks: int = 5) -> dict[str, Any]:
    """Look at a folder with so many files that have all been inspected."""
    home = Home(scratch / "seen")
    line = home.line("line0")
    line.inbox.mkdir(parents=True)
    db = InspectionDatabase(f"sqlite:///{home.root / 'inspection.db'}")
    for number in range(count):
        file = line.inbox / f"{number // 1000:03}" / f"{number:06}.jpg"
        if number % 1000 == 0:
            file.parent.mkdir()
        file.write_bytes(b"x")
    versions = [seen.version for seen in scan_folder(line.inbox).files]
    for part in chunks(versions, 10_000):
        register(db, line.name, line.inbox, [Arrival(version, 0.0) for version in part])
    with db.writing() as connection:
        decided = {"state": DONE, "sha256": "0" * 64, "decided_at": datetime.now(UTC)}
        connection.execute(update(incoming_files).values(decided))
    seconds = []
    for _ in range(looks):
        # As in a process that has just started: nothing of it is remembered.
        watch = FolderWatch(line.name, line.inbox, 2.0, partial(known_versions, db, line.name))
        started = time.perf_counter()
        watch.scan()
        seconds.append(time.perf_counter() - started)
        assert watch.files == count
        assert not watch.waiting
    started = time.perf_counter()
    watch.scan()
    again = time.perf_counter() - started
    middle = sorted(seconds)[looks // 2]
    print(f"look at a watch folder with {count} files that have been inspected; {_machine()}")
    print(
        f"  first, median of {looks}        {middle:>6.2f} s   (most {max(seconds):.2f} s; "
        f"wanted: under {WANTED_LOOK_SECONDS:g} s)"
    )
    print(f"  again                     {again:>6.2f} s")
    return {
        "files": count,
        "median_seconds": round(middle, 3),
        "most_seconds": round(max(seconds), 3),
        "again_seconds": round(again, 3),
    }


def _machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seen", type=int, default=100_000)
    parser.add_argument("--only", choices=["burst", "look"])
    parser.add_argument("--quick", action="store_true", help="a twentieth of it, and no picture")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.images, given.seen = given.images // 20, given.seen // 20
    result = {}
    with tempfile.TemporaryDirectory(prefix="vad-burst-") as scratch:
        if given.only != "look":
            result["burst"] = burst(Path(scratch), given.images, None if given.quick else PICTURE)
        if given.only != "burst":
            result["look"] = look(Path(scratch), given.seen)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
