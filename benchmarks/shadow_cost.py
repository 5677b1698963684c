"""What shadowing costs the latency of results: with and without a version that scores beside the champion.

    VAD_WEIGHTS=FOLDER python -m benchmarks.shadow_cost --data FOLDER [--images 60]

One line, one image at a time, from its renaming into the watch folder to the end of its decision, in one process. Both
versions are the same PatchCore (resnet18, 256 px). Rounds without and with a shadow take turns, and in each the shadow
has all images before it, so that it is at work when an image arrives. FOLDER holds ``mvtec_bottle``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np

from benchmarks.arrival_to_result import make_images
from benchmarks.homes import call, environment_of
from benchmarks.real_data import add_data_argument
from benchmarks.service_process import OneModel
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.shadow import shadow_counts
from vad_lib.lines import Home
from vad_lib.serving import InferenceService, ServiceLimits, ShadowedBy

LINE = "line0"
SHARES = (0.0, 0.2, 1.0)
ROUND = 10


def measure(scratch: Path, data: Path, count: int) -> None:
    """Print p50 and p95 for each share."""
    call("bottle-model", environment_of(scratch / "made"), data, scratch / "model")
    home = Home(scratch / "home")
    source = OneModel(home, scratch / "model", 1)
    db = InspectionDatabase.of(home)
    limits = ServiceLimits(follow_seconds=0.2, shadow_seconds=1.0)
    service = InferenceService(db, source, limits)
    service.start()
    while service.not_ready():
        time.sleep(0.05)
    files = iter(make_images(data, scratch / "images", 150 + count * len(SHARES)))
    inbox = source.lines[LINE].folder
    chance = np.random.default_rng(0)

    def one() -> float:
        file = next(files)
        before = db.count_predictions(LINE)
        started = time.perf_counter()
        file.rename(inbox / file.name)
        while db.count_predictions(LINE) == before:
            time.sleep(0.002)
        return time.perf_counter() - started

    for _ in range(150):  # what the shadow has to do
        one()
    waits: dict[float, list[float]] = {share: [] for share in SHARES}
    for number in range(count // ROUND):
        for share in SHARES:
            # another version each time, to which all images are new
            shadow = ShadowedBy(f"{share} {number}", datetime(2026, 1, 1, tzinfo=UTC), share) if share else None
            source.lines = {LINE: replace(source.lines[LINE], shadow=shadow)}
            time.sleep(2.0)
            for _ in range(ROUND):
                time.sleep(float(chance.uniform(0.2, 0.5)))
                waits[share].append(one())
    rounds = {share: [(LINE, f"{share} {number}") for number in range(count // ROUND)] for share in SHARES}
    for share, seconds in waits.items():
        cuts = statistics.quantiles(seconds, n=20, method="inclusive")
        scored = sum(shadow_counts(db, rounds[share]).values())
        told = f"p50 {1000 * cuts[9]:.0f} ms, p95 {1000 * cuts[18]:.0f} ms"
        print(f"share {share:.1f}: n {len(seconds)}, {told}; {scored} images were scored beside the champion")
    service.stop()


def main() -> None:
    """Read the command line and measure in a folder that goes afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--images", type=int, default=60, help="for each share")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), given.data, given.images)


if __name__ == "__main__":
    main()
