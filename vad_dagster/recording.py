"""What is written to MLflow about a training and a model version, so that browsing there tells the whole story."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from vad_dagster.jobs import REASON_TAG
from vad_dagster.registry import CHAMPION, LABELS_FILE, MADE_FROM, SCORES_LIKE, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import TrackedRun, system_facts
from vad_dagster.values import ChampionOnRows
from vad_lib.artifacts import version_card
from vad_lib.forecast import Forecast
from vad_lib.lines import Line
from vad_lib.metrics import Evaluation, evaluate
from vad_lib.plan import ExperimentalPlan, TrainArguments
from vad_lib.progress import Progress, silent
from vad_lib.readiness import ValidatedDataset

if TYPE_CHECKING:
    import pandas as pd

    from vad_lib.artifacts import TrainingRecord, TrainTree
    from vad_lib.extending import Extension
    from vad_lib.thresholds import DecisionRule
    from vad_lib.trained_model import FitRecord, TrainedModel

MOST_TELLING = "heatmaps/most_telling.jpg"
REPORT = "report/report.html"
THUMBNAILS = 6


def run_tags(context: dg.AssetExecutionContext, line: str, plan: ExperimentalPlan) -> dict[str, str]:
    """Return the tags that lead from an MLflow run back to Dagster."""
    return {
        "dagster.run_id": context.run.run_id,
        "dagster.partition": line,
        "dagster.asset": "/".join(context.asset_key.path),
        "vad.plan_digest": plan.digest,
        **({"vad.reason": context.run.tags[REASON_TAG]} if REASON_TAG in context.run.tags else {}),
    }


def record_start(
    run: TrackedRun,
    line: Line,
    plan: ExperimentalPlan,
    train: TrainArguments,
    dataset: ValidatedDataset,
    weights: Mapping[str, Any],
) -> None:
    """Write what is known before the fit: plan, arguments in force, dataset, weights, machine."""
    run.file(line.plan_file, "plan")
    run.json({**plan.resolved(), "train": train.model_dump(mode="json")}, "plan/arguments_in_force.json")
    run.json(dataset.config(), "readiness_config.json")
    run.json(system_facts(), "system.json")
    values = train.model_dump(mode="json")
    parameters = values.pop("model_parameters")
    prefix = train.model_name
    run.parameters(
        {
            **values,
            **{name: value for name, value in parameters.items() if name.startswith(prefix)},
            "ok_class": dataset.ok_class,
            "threshold_method": dataset.threshold_method,
            "backbone_source": weights.get("source"),
            "backbone_sha256": weights.get("sha256"),
        }
    )
    columns = ["image_path", "label", "split", "sha256", "width", "height"]
    for rows, context in ((dataset.train_rows, "training"), (dataset.valid_rows, "validation")):
        if rows.empty:
            continue
        frame = rows[columns].astype({"width": float, "height": float})
        run.dataset(
            frame,
            name=f"{line.name}-{context}",
            digest=dataset.digest,
            source=str(dataset.data_folder),
            context=context,
        )
    if len(dataset.labels):
        run.text(dataset.labels_used().to_csv(index=False), LABELS_FILE)
    run.tags({"vad.dataset_digest": dataset.digest, "vad.labels_of_people": len(dataset.labels)})
    run.metrics(
        {
            "rows_train": len(dataset.train_rows),
            "rows_valid": len(dataset.valid_rows),
            "rows_dropped": len(dataset.dropped),
        }
    )


def record_forecast(run: TrackedRun, forecast: Forecast) -> None:
    """Write what the fit is expected to take; a fit that cannot fit leaves this behind."""
    run.metrics(forecast.numbers())
    run.json(forecast.model_dump(mode="json"), "forecast.json")
    run.tags({"vad.forecast_fits": forecast.fits, "vad.fit_method": forecast.method or "none"})


def record_fit(run: TrackedRun, fit: FitRecord) -> None:
    """Write the curves, how long it took, and what it took beside the forecast."""
    run.curve(fit.epochs)
    run.metrics({"fit_seconds": fit.info.fit_seconds, **fit.numbers, **fit.actual.numbers()})


def measure_champion(
    registry: LineRegistry,
    dataset: ValidatedDataset,
    accelerator: str,
    progress: Progress = silent,
    *,
    beside: tuple[pd.DataFrame, DecisionRule],
) -> ChampionOnRows:
    """Score the validation rows of ``dataset`` with the champion, where there is one.

    Args:
        registry: of the line.
        dataset: with the rows.
        accelerator: where to compute.
        progress: told about each image.
        beside: ``tables.ValidationScores`` of the new model, and how it decides.
    """
    from vad_lib.errors import VadError
    from vad_lib.models import InspectionModel
    from vad_lib.validation import beside_on_rows, judge_rows

    champion = registry.at(CHAMPION)
    if champion is None:
        return ChampionOnRows()
    known = ChampionOnRows(version=champion.number, label=champion.label)
    try:
        model = InspectionModel.load(registry.folder(champion), accelerator=accelerator)
        judged = judge_rows(model, dataset.valid_rows, progress=progress)
    except (VadError, OSError) as error:
        return known.model_copy(update={"problem": f"The champion {champion.label} could not be measured: {error}"})
    scores, rule = beside
    mine = scores.assign(predicted=rule.judge(scores["raw_score"]).predicted)
    evaluation = evaluate(judged["raw_score"], judged["is_anomalous"], list(judged["predicted"]))
    return known.model_copy(update={"evaluation": evaluation, "beside": beside_on_rows(mine, judged)})


@contextmanager
def evaluation_run(
    context: dg.AssetExecutionContext,
    tracking: MLflowTracking,
    registry: LineRegistry,
    trained: TrainedModel,
    plan: ExperimentalPlan,
) -> Iterator[TrackedRun]:
    """Open the training's run again; or a child of it, where that run has a version already."""
    run_id, line = trained.fit.run_id, registry.line
    if registry.has_version_of(run_id):
        name = f"{trained.fit.train.model_name}, evaluated again"
        with tracking.run(line, name=name, parent_run_id=run_id, tags=run_tags(context, line, plan)) as run:
            yield run
    else:
        with tracking.run(line, run_id=run_id) as run:
            yield run


def register_training(
    run: TrackedRun,
    registry: LineRegistry,
    record: TrainingRecord,
    tree: TrainTree,
    champion: Evaluation | None,
    plan: ExperimentalPlan,
    dagster_run: str,
) -> tuple[Version, bool]:
    """Write the evaluation into the open run, and register the model as the line's next version.

    Returns:
        The version, and whether it is a new one: where the last version was made from the same, it is returned, and no
        twin of it is made.
    """
    record_evaluation(run, record, tree, champion)
    if (last := registry.last()) is not None and last.tags.get(MADE_FROM) == record.made_from:
        run.tags({"vad.same_as": last.label})
        return last, False
    description = version_card.training_description(
        record,
        plan.digest,
        {
            "Training report": run.artifact_page(REPORT),
            "threshold table": run.artifact_page("threshold/threshold_test_result.csv"),
            "run in MLflow": run.page,
        },
        f"Run in Dagster: `{dagster_run}`. `vad model show {record.line}` names its page and those of predictions.",
    )
    run.describe(description)
    version = registry.register(
        record.model_folder,
        run_id=run.run_id,
        tags={**version_card.training_tags(record), MADE_FROM: record.made_from, SCORES_LIKE: record.scores_like},
        description=description,
        example_image=next(map(Path, record.dataset.valid_rows["file"]), None),
    )
    return version, True


def record_evaluation(run: TrackedRun, record: TrainingRecord, tree: TrainTree, champion: Evaluation | None) -> None:
    """Write numbers, the threshold table and graph, heatmaps, contact sheets (one of the most telling), and report."""
    threshold = record.learnt.threshold
    speed = next((one.actual for one in record.comparisons if one.what == "ms per image"), None)
    run.metrics({**record.evaluation.numbers(), "threshold": threshold.value, "actual_ms_per_image": speed})
    if champion is not None:
        run.metrics({f"champion_{name}": value for name, value in champion.numbers().items()})
    run.json(threshold.model_dump(mode="json"), "threshold/threshold.json")
    run.text(record.learnt.table.to_csv(index=False), "threshold/threshold_test_result.csv")
    run.file(tree.report, "report")
    if tree.threshold_graph is not None:
        run.file(tree.threshold_graph, "threshold")
    for folder in ("output", "models/readiness", "log"):
        run.file(tree.folder / folder, f"train_artifacts/{folder}")
    if tree.heatmaps:
        run.file(tree.folder / "extra_output/train/images", "heatmaps")
        with tempfile.TemporaryDirectory(prefix="vad_sheet_") as scratch:
            sheet, most_telling = Path(scratch) / "contact_sheet.jpg", Path(scratch) / Path(MOST_TELLING).name
            draw_contact_sheet(tree.most_telling(24), sheet, columns=3, width=420)
            draw_contact_sheet(tree.most_telling(THUMBNAILS), most_telling, columns=2, width=290)
            run.file(sheet, "heatmaps")
            run.file(most_telling, "heatmaps")
    run.tags({"vad.threshold_version": threshold.version})


def register_extension(
    run: TrackedRun,
    registry: LineRegistry,
    extension: Extension,
    model_folder: Path,
    champion: Version,
    dataset: ValidatedDataset,
    person: str,
) -> Version:
    """Write what an extension did into the open run, and register the extended model as a version of its own."""
    run.tags({"vad.dataset_digest": dataset.digest})
    run.metrics(extension.after.numbers())
    for name, evaluation in (("before", extension.before), ("kept_threshold", extension.kept)):
        run.metrics({f"{name}_{number}": value for number, value in evaluation.numbers().items()})
    run.metrics({"rows_added": extension.rows_added, "threshold": extension.model.threshold.value})
    run.json(extension.to_json(), "extension.json")
    description = version_card.extension_description(extension, champion.label, person)
    run.describe(description)
    tags = version_card.extension_tags(extension, champion.tags, person)
    return registry.register(
        model_folder,
        run_id=run.run_id,
        tags={**tags, "extended_from": champion.label},
        description=description,
        example_image=extension.images.files[0],
    )


def draw_contact_sheet(heatmaps: Sequence[Path], file: Path, *, columns: int, width: int) -> None:
    """Draw heatmaps on one sheet."""
    from PIL import Image

    from vad_lib.heatmaps import contact_sheet, save_picture

    pictures = [Image.open(heatmap).convert("RGB") for heatmap in heatmaps]
    save_picture(contact_sheet(pictures, columns, width), file)
