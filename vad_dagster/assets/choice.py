"""Group choice: which detector suits the images of a line."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from vad_dagster.asset_metadata import preview_table
from vad_dagster.asset_parts import ML_TEAM, log_progress, step, step_tags
from vad_dagster.configuration import ComparisonConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of, rows_of_next_training
from vad_dagster.resources import MLflowTracking
from vad_lib.atomic_files import write_whole
from vad_lib.lines import Home

if TYPE_CHECKING:
    from vad_lib.choosing.report import Choice


@dg.asset(
    partitions_def=lines,
    group_name="choice",
    deps=["ground_truth"],
    kinds={"pytorch", "mlflow"},
    owners=[ML_TEAM],
    code_version="1",
    tags=step_tags("choice", "compare"),
    description="Detectors beside one another on the line's own images, each image scored by a model that did not see "
    "it: figures with intervals, paired tests, time and memory, a recommendation, and images whose label may be wrong. "
    "The plan stays as it is.",
)
def model_choice(
    context: dg.AssetExecutionContext, config: ComparisonConfig, tracking: MLflowTracking
) -> dg.MaterializeResult[None]:
    from vad_lib.choosing.comparing import compare_on_line, models_to_compare

    line, home, progress = line_of(context), Home.from_environment(), log_progress(context)
    with step(context, line):
        plan = plan_of(line)
        models = models_to_compare(plan.train, config.models)
        choice, page = compare_on_line(
            line.name,
            rows_of_next_training(line, plan, progress),
            plan.train,
            models,
            line.comparison / "parts",
            parts=config.parts,
            weights_store=home.weights_folder,
            cache_folder=home.feature_cache_folder,
            progress=progress,
        )
        write_whole(line.comparison / "index.html", page.encode())
        write_whole(line.comparison / "figures.csv", choice.table().to_csv(index=False).encode())
        url = _record(tracking, line.name, choice, line.comparison)
    return dg.MaterializeResult(
        metadata={
            "recommendation": choice.in_words(),
            "figures": preview_table(choice.table()),
            "differences": dg.MetadataValue.md(
                "\n".join(f"* {one.in_words()}" for one in choice.differences) or "none"
            ),
            "did not run": preview_table(choice.not_run()),
            "images to look at": preview_table(choice.suspicious()),
            "page": dg.MetadataValue.path(line.comparison / "index.html"),
            "MLflow run": dg.MetadataValue.url(url),
        }
    )


def _record(tracking: MLflowTracking, line: str, choice: "Choice", folder: Path) -> str:
    """Record the figures of each detector in a run of MLflow, with the page."""
    import mlflow

    with tracking.run(line, name="comparison", tags={"vad.pipeline": "choice"}) as run:
        run.describe(choice.in_words())
        for one in choice.ran:
            found = choice.figures[one.name]
            shown = {"image_auroc": found.auroc, "f1": found.f1, "recall": found.recall}
            mlflow.log_metrics({f"{one.name}/{name}": figure.value for name, figure in shown.items()})
        for file in ("index.html", "figures.csv"):
            mlflow.log_artifact(str(folder / file))
        return run.url
