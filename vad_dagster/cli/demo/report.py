"""What the demo says at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from vad_dagster.cli.console import console, new_table
from vad_dagster.home import executable, tracking_file
from vad_lib.lines import Line
from vad_lib.progress import format_seconds
from vad_lib.synthetic import DEFECT_KINDS

if TYPE_CHECKING:
    from vad_dagster.cli.demo.running import Drop


@dataclass(frozen=True)
class ModelRow:
    """One registered version, as the registry tells it; missing numbers are None."""

    model: str
    version: str
    image_auroc: float | None
    f1: float | None
    threshold: float | None
    seconds: float | None
    aliases: tuple[str, ...]


def read_models(line: Line) -> list[ModelRow]:
    """Return the newest registered version of each model of a line, oldest first; none before the first training."""
    if (file := tracking_file()) is not None and not file.exists():
        return []
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources.tracking import MLflowTracking

    tracking = MLflowTracking()
    client = tracking.connect()
    newest: dict[str, ModelRow] = {}
    for version in LineRegistry(tracking, line.name).versions():
        model = version.tags.get("detector", "")
        if model in newest:
            continue
        run = client.get_run(version.run_id).data
        newest[model] = ModelRow(
            model=model,
            version=version.number,
            image_auroc=run.metrics.get("image_auroc"),
            f1=run.metrics.get("f1"),
            threshold=run.metrics.get("threshold"),
            seconds=run.metrics.get("fit_seconds"),
            aliases=version.aliases,
        )
    return sorted(newest.values(), key=lambda row: int(row.version))


def print_report(line: Line, models: list[ModelRow], drop: Drop) -> None:
    """Print one table of models, one of the drop, and where everything is."""
    from vad_dagster.plans import plan_of

    plan = plan_of(line)
    train = plan.train_artifacts_folder(line.train_artifacts, line.base_folder)
    inference = line.folder / "results"
    table = new_table("model", ">AUROC", ">F1", ">threshold", ">seconds", "version", title="Models")
    for row in models:
        alias = f" {', '.join(row.aliases)}" if row.aliases else ""
        numbers = [_number(row.image_auroc, 3), _number(row.f1, 3), _number(row.threshold, 3), _number(row.seconds, 0)]
        table.add_row(row.model, *numbers, escape(f"{row.version}{alias}"))
    console.print()
    console.print(table)

    results = drop.table
    scored = results[results["predicted"] != ""]
    table = new_table("on the picture", ">files", ">OK", ">NG", ">refused", title="Drop, inspected by the champion")
    for label in ("good", *DEFECT_KINDS, "broken"):
        rows = results[results["label"] == label]
        if len(rows):
            counts = [len(rows), *((rows["predicted"] == word).sum() for word in ("OK", "NG", ""))]
            table.add_row(label, *(str(count) for count in counts))
    console.print()
    console.print(table)
    for refused in results[results["predicted"] == ""].to_dict("records"):
        console.print(f"refused: {refused['file']}: {refused['reason']}", markup=False)
    console.print(
        f"{len(scored)} results {format_seconds(drop.seconds)} after the last file had arrived in {drop.folder}",
        markup=False,
    )

    console.print("\nPictures and results", style="bold")
    console.print(f"  heatmaps of validation  {train / 'extra_output' / 'train' / 'images'}", markup=False)
    maps = sorted((inference / "extra_output").glob("**/images"))
    console.print(f"  heatmaps of the drop    {maps[0] if maps else inference / 'extra_output'}", markup=False)
    console.print(f"  results of the drop     {inference / 'output' / 'output.csv'}", markup=False)
    console.print(f"  summary                 {inference / 'score' / 'inference_summary.yaml'}", markup=False)
    console.print(f"  drop more images into   {line.inbox}", markup=False)
    console.print("\nOpen the UIs", style="bold")
    vad = executable("vad")
    console.print(f"  Dagster  {vad} dev --only dagster", markup=False)
    console.print(f"  MLflow   {vad} dev --only mlflow", markup=False)
    console.print("  or both at once: make dev", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
