"""Our detectors beside anomalib's own on the same files and weights: time, as ratios, and peak memory of each side.

    python -m benchmarks.detectors [--parts coreset,fit,predict,fastflow] [--backbones NAME,NAME] [--quick]
                                   [--processor-time] [--limit SECONDS] [--data FOLDER] [--to FILE]

Each side runs in a process of its own. Parts: ``coreset`` (selection of 10 % of 100 to 800 images' patches, each
backbone), ``fit`` (200 images, whole), ``predict`` (bank of 10,000 rows, batches of 1 and 32, beside
anomalib's Engine, its bare torch module, and the backbone's forward alone), ``fastflow`` (an epoch, and scoring).
anomalib's selection is run whole where that takes at most ten minutes (``--limit``), else a number of its
steps is timed and the rest extrapolated; the table says which. Writes a markdown table, and the figures as JSON beside
it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.detectors.inputs import BACKBONES, weights_of, write_features
from benchmarks.detectors.sides import BANK_ROWS, EXACT_LIMIT, PROCESSOR_TIME, in_own_process
from benchmarks.real_data import add_data_argument


@dataclass
class Table:
    """Rows as they come, printed at once."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, ours: dict[str, Any], theirs: dict[str, Any], unit: str, note: str = "") -> None:
        """Add a comparison; both sides have ``value`` in ``unit`` (seconds) and ``peak_mib``, or ``error``."""
        problems = [f"{who}: {side['error']}" for who, side in (("ours", ours), ("other", theirs)) if "error" in side]
        ratio = theirs["value"] / ours["value"] if not problems and ours["value"] else None
        row = {
            "what": what,
            "ours": ours.get("value"),
            "other": theirs.get("value"),
            "unit": unit,
            "times_faster": ratio,
            "ours_peak_mib": ours.get("peak_mib"),
            "other_peak_mib": theirs.get("peak_mib"),
            "note": "; ".join([*problems, *([note] if note else [])]),
        }
        self.rows.append(row)
        print(self.line(row), flush=True)

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        """Return a row as markdown."""
        numbers = [f"{value:.4g}" if value is not None else "-" for value in (row["ours"], row["other"])]
        ratio = f"{row['times_faster']:.2f}" if row["times_faster"] else "-"
        memory = f"{row['ours_peak_mib'] or '-'} / {row['other_peak_mib'] or '-'}"
        return f"| {row['what']} | {numbers[0]} | {numbers[1]} | {row['unit']} | {ratio} | {memory} | {row['note']} |"

    def markdown(self, machine: str) -> str:
        """Return the whole table."""
        head = "| what | ours | other | unit | times faster | peak MiB, ours / other | note |\n"
        head += "|---|--:|--:|---|--:|---|---|"
        return f"{machine}\n\n{head}\n" + "\n".join(self.line(row) for row in self.rows) + "\n"


def valued(result: dict[str, Any], value: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Return a side's result with ``value``."""
    return result if "error" in result else {**result, "value": value(result)}


def coreset(table: Table, data: Path, backbones: Sequence[str], quick: bool, limit: float) -> None:
    """Selection alone, on features that both sides read from one file."""
    for backbone in backbones:
        for images in (10,) if quick else (100, 200, 400, 800):
            with tempfile.TemporaryDirectory(prefix="vad_bench_") as work:
                file = Path(work) / "features.npy"
                note = write_features(backbone, images, data, file)
                ours = in_own_process("coreset_ours", features=str(file), ratio=0.1)
                theirs = in_own_process("coreset_anomalib", features=str(file), ratio=0.1, limit=limit)
            if "error" not in ours and "error" not in theirs:
                note += "; " + same_selection(ours, theirs)
            seconds = [valued(side, lambda result: result["seconds"]) for side in (ours, theirs)]
            table.add(f"coreset 10 %, {backbone}, {images} images", *seconds, "s", note)


def same_selection(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Say how far the two selections agree, and whether anomalib's time is extrapolated."""
    a, b = ours["chosen"][: len(theirs["chosen"])], theirs["chosen"]
    agreed = next((place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(b))
    order = f"the same {len(b)} rows in the same order" if a == b else f"the same order for the first {agreed}"
    if a != b:
        order += f", {len(set(a) & set(b)) / len(b):.2%} of {len(b)} rows in common"
    if theirs["timed_steps"] < theirs["steps"]:
        order += f"; anomalib extrapolated from {theirs['timed_steps']} of {theirs['steps']} steps"
    return order


def fit(table: Table, data: Path, backbones: Sequence[str], quick: bool, limit: float) -> None:
    """A whole fit from files to memory bank."""
    images = 8 if quick else 200
    limit = min(limit, 60.0)
    ours = in_own_process("fit_ours", backbone="resnet18", images=images, ratio=0.1, data=str(data))
    theirs = in_own_process("fit_anomalib", backbone="resnet18", images=images, ratio=0.1, limit=limit, data=str(data))
    note = ""
    if theirs.get("timed_steps"):
        note = f"anomalib's selection extrapolated from {theirs['timed_steps']} of {theirs['steps']} steps"
    seconds = [valued(side, lambda result: result["seconds"]) for side in (ours, theirs)]
    table.add(f"fit, resnet18, {images} images", *seconds, "s", note)


def predict(table: Table, data: Path, backbones: Sequence[str], quick: bool, _limit: float) -> None:
    """Scoring, against the engine, the bare module and the backbone alone."""
    for backbone in backbones:
        for batch in (1, 32):
            count = 4 if quick and batch == 1 else 12 if backbone.startswith("wide") and batch == 1 else 32
            given = {"backbone": backbone, "batch": batch, "images": count, "data": str(data)}
            sides = {
                side: valued(in_own_process("predict", side=side, **given), lambda r: r["seconds"] / r["images"] * 1000)
                for side in ("ours_compiled", "ours", "ours_maps", "engine", "bare", "backbone")
            }
            what = f"{backbone}, batch {batch}, {BANK_ROWS} rows"
            compiled = sides["ours_compiled"]
            for other in ("engine", "bare", "backbone"):
                name = {"engine": "Engine.predict", "bare": "bare module", "backbone": "backbone forward alone"}[other]
                note = f"ours by {compiled.get('backend', '?')}{difference(compiled, sides[other])}"
                table.add(f"predict beside {name}: {what}", compiled, sides[other], "ms an image", note)
            note = "ours by torch" + difference(sides["ours"], sides["bare"])
            table.add(f"predict by torch beside bare module: {what}", sides["ours"], sides["bare"], "ms an image", note)
            note = "both with maps; ours by torch"
            table.add(
                f"predict with maps beside bare module: {what}", sides["ours_maps"], sides["bare"], "ms an image", note
            )


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Say how far two sides' scores of the same images lie apart."""
    if not ours.get("scores") or not theirs.get("scores"):
        return ""
    pairs = zip(ours["scores"], theirs["scores"], strict=True)
    return f", largest relative difference of a score {max(abs(a - b) / abs(b) for a, b in pairs):.1e}"


def fastflow(table: Table, data: Path, backbones: Sequence[str], quick: bool, _limit: float) -> None:
    """An epoch and scoring."""
    images = 8 if quick else 40
    ours, theirs = (in_own_process("fastflow", side=side, images=images, data=str(data)) for side in ("ours", "theirs"))
    epochs = [valued(side, lambda result: result["epoch_seconds"]) for side in (ours, theirs)]
    table.add(f"FastFlow, an epoch of {images} images, resnet18", *epochs, "s", "the second epoch; features are kept")
    whole, bare = (
        valued(theirs, lambda r, key=key: r[key] / r["images"] * 1000)  # type: ignore[misc]
        for key in ("seconds", "bare_seconds")
    )
    for key, backend in (("seconds", ours.get("backend", "?")), ("torch_seconds", "torch")):
        one = valued(ours, lambda r, key=key: r[key] / r["images"] * 1000)  # type: ignore[misc]
        note = f"ours by {backend}, both with maps"
        table.add("FastFlow predict beside Engine.predict, batch 1", one, whole, "ms an image", note)
        table.add("FastFlow predict beside bare module, batch 1", one, bare, "ms an image", note)


PARTS: dict[str, Callable[[Table, Path, Sequence[str], bool, float], None]] = {
    "coreset": coreset,
    "fit": fit,
    "predict": predict,
    "fastflow": fastflow,
}


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="of coreset, fit, predict, fastflow")
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="timm's names; the first one with --quick")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    add_data_argument(parser)
    parser.add_argument("--limit", type=float, default=EXACT_LIMIT, help="seconds that anomalib's selection may take")
    parser.add_argument(
        "--processor-time", action="store_true", help="seconds of the processor, where other work runs beside it"
    )
    parser.add_argument("--to", type=Path, default=None, help="default: $VAD_HOME/benchmarks/detectors.md")
    options = parser.parse_args()
    unknown = [part for part in options.parts.split(",") if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    from vad_lib.lines import vad_home

    if options.processor_time:
        os.environ[PROCESSOR_TIME] = "1"

    to = options.to or vad_home() / "benchmarks" / "detectors.md"
    to.parent.mkdir(parents=True, exist_ok=True)
    data = options.data.resolve()
    backbones = options.backbones.split(",")[: 1 if options.quick else None]
    sources = ", ".join(f"{name} with {weights_of(name, data).source} weights" for name in backbones)
    when = datetime.now(UTC)
    machine = f"{processor()}, {os.cpu_count()} cores, {when:%Y-%m-%d}; {sources}"
    machine += "; quick" * options.quick + "; processor time" * options.processor_time
    print(machine, flush=True)
    table = Table()
    for part in options.parts.split(","):
        PARTS[part](table, data, backbones, options.quick, min(options.limit, 20.0) if options.quick else options.limit)
        to.write_text(table.markdown(machine), encoding="utf-8")
        content = {"machine": machine, "rows": table.rows}
        to.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    minutes = (datetime.now(UTC) - when).total_seconds() / 60
    print(f"{minutes:.1f} min; written to {to} and {to.with_suffix('.json')}")
    return int(any(row["times_faster"] is None for row in table.rows))


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
