"""Many small images at once through the fast lane, and a look at a folder with very many files that are known.

    python -m benchmarks.burst [--images 10000] [--seen 100000] [--only burst|tick] [--quick]

``burst``: none may be lost; prints the rate and the memory of the scorer, and draws docs/images/burst_memory.png.
``tick``: prints how long the landing sensor takes to look at a folder in which everything has been inspected.
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
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from vad_lib.landing import plan_landing_tick

from benchmarks.fast_lane_process import Scorer
from benchmarks.homes import call, environment_of
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.database import chunks, insert_many
from vad_lib.inspection_db.schema import CLOSED, DONE, batches, landings
from vad_lib.lines import Home

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "burst_memory.png"
SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 1800.0
WANTED_TICK_SECONDS = 1.0


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
    """Let all images land at once and wait for the last result."""
    home = Home(scratch / "home")
    home.root.mkdir()
    call("small-models", environment_of(home.root), scratch / "models")
    files = small_images(scratch / "camera", count)
    scorer = Scorer(home, scratch / "models" / "a")
    db = InspectionDatabase(f"sqlite:///{home.root / 'inspection.db'}")
    inbox = home.line("line0").inbox
    samples: list[tuple[float, float, int]] = []
    ended = threading.Event()
    started = time.perf_counter()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append((time.perf_counter() - started, scorer.memory_mb(), db.count_predictions("line0")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for file in files:
        file.rename(inbox / file.name)
    landed = time.perf_counter() - started
    while db.count_predictions("line0") < count and time.perf_counter() - started < PATIENCE_SECONDS:
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    predictions = db.predictions("line0")
    scorer.end()
    states = db.landing_counts("line0")
    # What is loaded at first comes on top of nothing; flat is what follows.
    steady = [memory for _, memory, done in samples if done > count * 0.1] or [memory for _, memory, _ in samples]
    if picture is not None:
        _draw(samples, count, picture)
    result = {
        "images": count,
        "predictions": len(predictions),
        "distinct": int(predictions["sha256"].nunique()),
        "not_decided": int(states["pending"]),
        "landed_in_seconds": round(landed, 2),
        "seconds": round(seconds, 1),
        "images_per_second": round(count / seconds, 1),
        "least_memory_mb": round(min(steady)),
        "most_memory_mb": round(max(steady)),
    }
    lost = count - result["distinct"]
    print(f"burst of {count} images of 64 px, landed within {landed:.1f} s; {_machine()}")
    twice = len(predictions) - result["distinct"]
    print(f"  results                   {result['predictions']:>12}   lost: {lost}, twice: {twice}")
    print(f"  rate                      {result['images_per_second']:>12} images/s, {seconds:.0f} s in all")
    print(
        f"  memory of the scorer      {min(steady):>6.0f} to {max(steady):.0f} MB "
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
    axes.set(xlabel="seconds since the first image landed", ylabel="memory of the scorer [MB]")
    axes.set_ylim(0, 1.2 * max(memory for _, memory, _ in samples))
    beside = axes.twinx()
    beside.plot(times, [done for _, _, done in samples], color="tab:gray", linestyle="--")
    beside.set(ylabel="images with a result", ylim=(0, count * 1.05))
    axes.set_title(f"{count} images land at once")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    print(f"  drawn: {picture}")


def tick(scratch: Path, count: int, looks: int = 5) -> dict[str, Any]:
    """Look at a folder with so many files that have all been inspected."""
    home = Home(scratch / "seen")
    line = home.line("line0")
    line.inbox.mkdir(parents=True)
    db = InspectionDatabase(f"sqlite:///{home.root / 'inspection.db'}")
    now = datetime.now(UTC)
    rows = []
    for number in range(count):
        file = line.inbox / f"{number // 1000:03}" / f"{number:06}.jpg"
        if number % 1000 == 0:
            file.parent.mkdir()
        file.write_bytes(b"x")
        facts = file.stat()
        rows.append(
            {
                **{"line": "line0", "path": f"{file.parent.name}/{file.name}", "size": facts.st_size},
                **{"mtime_ns": facts.st_mtime_ns, "state": DONE, "batch_id": "seen", "sha256": f"{number:064x}"},
                **{"begun": 0, "begun_alone": 0, "first_seen": now, "decided_at": now},
            }
        )
    with db.writing() as connection:
        insert_many(
            connection,
            batches.insert(),
            [
                {
                    **{"batch_id": "seen", "line": "line0", "folder": str(line.inbox), "state": CLOSED, "attempt": 1},
                    **{"generation": 0, "created_at": now, "requested_at": now, "closed_at": now},
                }
            ],
        )
        for part in chunks(rows, 10_000):
            insert_many(connection, landings.insert(), part)
    seconds = []
    for _ in range(looks):
        started = time.perf_counter()
        found = plan_landing_tick(db, "line0", line.inbox, run_state=lambda _: None)
        seconds.append(time.perf_counter() - started)
        assert not found.requests
    middle = sorted(seconds)[looks // 2]
    print(f"look of the landing sensor at a folder with {count} files that have been inspected; {_machine()}")
    print(
        f"  median of {looks}               {middle:>6.2f} s   (most {max(seconds):.2f} s; "
        f"wanted: under {WANTED_TICK_SECONDS:g} s)"
    )
    return {"files": count, "median_seconds": round(middle, 3), "most_seconds": round(max(seconds), 3)}


def _machine() -> str:
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seen", type=int, default=100_000)
    parser.add_argument("--only", choices=["burst", "tick"])
    parser.add_argument("--quick", action="store_true", help="a twentieth of it, and no picture")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.images, given.seen = given.images // 20, given.seen // 20
    result = {}
    with tempfile.TemporaryDirectory(prefix="vad-burst-") as scratch:
        if given.only != "tick":
            result["burst"] = burst(Path(scratch), given.images, None if given.quick else PICTURE)
        if given.only != "burst":
            result["tick"] = tick(Path(scratch), given.seen)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
