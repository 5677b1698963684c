"""How a fit of PatchCore grows with the number of training images: time and peak memory, 1,000 to 50,000 images.

Each size is fitted in a process of its own; its peak memory is the kernel's high-water mark, interpreter, torch and
backbone included. The images are real ones, repeated with jitter: cut at a random place, brighter or darker by up to
10 %, so that no two are equal. They are small (64 pixels by default), because extraction at 256 pixels would take
hours at 50,000 images; the output says so. The time of the extraction is told apart from that of the selection.

    python -m benchmarks.training_scale --data FOLDER [--quick] [--method streaming|auto] [--size 64]

FOLDER holds ``mvtec_bottle``, ``magnetic_tile`` and ``weights``. Without ``--quick`` the plot is written to
docs/images/training_scale.png. Ends with status 1 where a fit takes more than its budget of memory, or where the time
an image costs more than doubles from the smallest size to the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peak_memory import peak_bytes
from benchmarks.real_data import add_data_argument

REPOSITORY = Path(__file__).resolve().parent.parent
PLOT = REPOSITORY / "docs" / "images" / "training_scale.png"
SIZES = (1_000, 5_000, 20_000, 50_000)
QUICK_SIZES = (100, 300, 900)
GIB = 2**30
SEED = 42


def main() -> int:
    """Fit each size in a process of its own, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=None, help="numbers of images")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--method", choices=["streaming", "auto", "exact"], default="streaming")
    parser.add_argument("--ratio", type=float, default=0.1, help="coreset ratio")
    parser.add_argument("--cap", type=int, default=100_000, help="most rows of the bank")
    parser.add_argument("--budget", type=float, default=8.0, help="GiB that the whole process may take")
    parser.add_argument("--quick", action="store_true", help="a few hundred images and a small bank: a minute or two")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file as well")
    parser.add_argument("--fit", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        print(json.dumps(fit(options)))
        return 0
    if options.quick:
        options.cap = min(options.cap, 3_000)
    sizes = sorted(options.sizes or (QUICK_SIZES if options.quick else SIZES))
    print(
        f"resnet18 (layer2, layer3), {options.size} x {options.size} pixels (small, so that the largest set takes "
        f"minutes and not hours),\ncoreset {options.ratio:.1%} up to {options.cap:,} rows, {options.method}, "
        f"seed {SEED}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        flush=True,
    )
    results = []
    with tempfile.TemporaryDirectory(prefix="vad_scale_") as work:
        files = make_images(options.data, Path(work), max(sizes), options.size)
        for count in sizes:
            listed = Path(work) / f"{count}.txt"
            listed.write_text("\n".join(str(file) for file in files[:count]), encoding="utf-8")
            result = fit_apart(listed)
            results.append(result)
            whole, extraction, selection = (result[f"{name}seconds"] for name in ("", "extraction_", "selection_"))
            print(
                f"  {count:>7,} images  {result['rows']:>7,} rows of {result['patches']:>10,} patches  {whole:8.1f} s "
                f"(extraction {extraction:8.1f}, selection {selection:8.1f}; {1000 * whole / count:6.1f} ms an image)"
                f"  peak {result['peak_gib']:.2f} GiB",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if not options.quick:
        draw(results, options)
    growth = (results[-1]["seconds"] / results[-1]["images"]) / (results[0]["seconds"] / results[0]["images"])
    peak = max(result["peak_gib"] for result in results)
    print(f"  time an image, largest set / smallest: {growth:.2f}; most memory {peak:.2f} GiB of {options.budget:.1f}")
    return int(peak > options.budget or growth > 2)


def make_images(data: Path, folder: Path, count: int, side: int) -> list[Path]:
    """Write ``count`` jittered cuts of the real images as PNG and return the files."""
    from PIL import Image

    sources = []
    for name in ("mvtec_bottle", "magnetic_tile"):
        for file in sorted((data / name / "train" / "good").iterdir()):
            image = Image.open(file).convert("RGB")
            sources.append(np.asarray(image.resize((side * 5 // 4, side * 5 // 4)), np.float32))
    draw_from = np.random.default_rng(SEED)
    began = time.monotonic()
    files = []
    for number in range(count):
        source = sources[number % len(sources)]
        top, left = draw_from.integers(0, side // 4 + 1, 2)
        cut = source[top : top + side, left : left + side] * draw_from.uniform(0.9, 1.1)
        file = folder / f"{number:06d}.png"
        Image.fromarray(cut.clip(0, 255).astype(np.uint8)).save(file, compress_level=1)
        files.append(file)
    spent = time.monotonic() - began
    print(f"  {count:,} images made from {len(sources):,} real ones in {spent:.0f} s", flush=True)
    return files


def fit_apart(listed: Path) -> dict[str, float]:
    """Run ``fit`` in a fresh process with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.training_scale", *sys.argv[1:], "--fit", str(listed)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def fit(options: argparse.Namespace) -> dict[str, object]:
    """Fit on the listed files and return the figures."""
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.preprocessing import Preprocessing

    files = [Path(line) for line in options.fit.read_text(encoding="utf-8").splitlines()]
    side = options.size
    images = ImageDataset(files, Preprocessing((side, side)), shapes=[(side, side)] * len(files))
    detector = PatchCore(
        resolve_backbone_weights("resnet18", options.data / "weights"),
        coreset_sampling_ratio=options.ratio,
        seed=SEED,
        batch_size=8,
        memory_bank=options.method,
        memory_budget_gib=options.budget - 1,  # interpreter, torch and backbone take the rest
        bank_cap_rows=min(options.cap, 3_000) if options.quick else options.cap,
    )
    began = time.monotonic()
    detector.fit(images)
    seconds = time.monotonic() - began
    record, numbers = detector.bank_record, detector.report.numbers
    return {
        "images": len(files),
        "method": record["method"],
        "patches": record["patches"],
        "rows": record["rows"],
        "seconds": seconds,
        "extraction_seconds": numbers["extraction_seconds"],
        "selection_seconds": numbers["selection_seconds"],
        "expected_gib": record["expected_bytes"] / GIB,
        "exact_gib": record["exact_bytes"] / GIB,
        "covering_radius": record["covering_radius"],
        "peak_gib": peak_bytes() / GIB,
    }


def draw(results: list[dict[str, float]], options: argparse.Namespace) -> None:
    """Write the plot: time on the left, memory on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    images = [result["images"] for result in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(images, [result["seconds"] / 60 for result in results], "o-", label="whole fit")
    left.plot(images, [result["extraction_seconds"] / 60 for result in results], "s--", label="extraction of features")
    left.set(xlabel="training images", ylabel="minutes", title=f"PatchCore, {options.size} x {options.size} pixels")
    left.legend()
    right.plot(images, [result["peak_gib"] for result in results], "o-", label=f"peak memory, {options.method}")
    right.plot(images, [result["exact_gib"] for result in results], "s--", label="what the exact selection would take")
    right.axhline(options.budget, color="grey", linewidth=1, label="budget")
    right.set(xlabel="training images", ylabel="GiB", title=f"{os.cpu_count()} cores")
    right.legend()
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(PLOT, dpi=110)
    print(f"  plot: {PLOT.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    raise SystemExit(main())
