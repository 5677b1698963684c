"""What is written to MLflow about a training and a model version, so that browsing there tells the whole story."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from vad_dagster import asset_metadata
from vad_dagster.registry import CHAMPION, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.resources.tracking import TrackedRun, dagster_url, system_facts
from vad_dagster.values import LearntThreshold, TrainedModel
from vad_lib.backbones.shipped import TAG, measured_cost
from vad_lib.forecast import Forecast
from vad_lib.lines import Line
from vad_lib.metrics import Evaluation
from vad_lib.plan import ExperimentalPlan, TrainArguments
from vad_lib.progress import format_seconds
from vad_lib.readiness import ValidatedDataset

if TYPE_CHECKING:
    from vad_lib.artifacts import TrainingRecord, TrainTree
    from vad_lib.extending import Extension

MOST_TELLING = "heatmaps/most_telling.jpg"
REPORT = "report/report.html"


def dataset_digest(dataset: ValidatedDataset) -> str:
    """Return a sha256 of what the model sees of a dataset: contents, labels and splits, in any order."""
    rows = dataset.rows[["sha256", "is_anomalous", "split"]].astype(str).sort_values(["sha256", "split"])
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()


def run_tags(context: dg.AssetExecutionContext, line: str, plan: ExperimentalPlan) -> dict[str, str]:
    """Return the tags that lead from an MLflow run back to Dagster."""
    return {
        "dagster.run_id": context.run.run_id,
        "dagster.run_url": dagster_url(f"runs/{context.run.run_id}"),
        "dagster.partition": line,
        "dagster.asset_url": dagster_url(f"assets/{'/'.join(context.asset_key.path)}?partition={line}"),
        "vad.plan_digest": plan.digest,
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
    digest = dataset_digest(dataset)
    columns = ["image_path", "label", "split", "sha256", "width", "height"]
    for rows, context in ((dataset.train_rows, "training"), (dataset.valid_rows, "validation")):
        frame = rows[columns].astype({"width": float, "height": float})
        run.dataset(
            frame, name=f"{line.name}-{context}", digest=digest, source=str(dataset.data_folder), context=context
        )
    run.tags({"vad.dataset_digest": digest})
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


def record_fit(run: TrackedRun, model: TrainedModel) -> None:
    """Write the curves, how long it took, and what it took beside the forecast."""
    run.curve(model.epochs)
    run.metrics({"fit_seconds": model.info.fit_seconds, **model.numbers})
    if model.truth is not None:
        run.metrics(model.truth.numbers())


@contextmanager
def evaluation_run(
    context: dg.AssetExecutionContext,
    tracking: MLflowTracking,
    registry: LineRegistry,
    trained: TrainedModel,
    line: str,
    plan: ExperimentalPlan,
) -> Iterator[TrackedRun]:
    """Open the training's run again; or a child of it, where that run has a version already."""
    has_version = any(version.run_id == trained.run_id for version in registry.versions())
    if has_version:
        name = f"{trained.train.model_name}, evaluated again"
        with tracking.run(line, name=name, parent_run_id=trained.run_id, tags=run_tags(context, line, plan)) as run:
            yield run
    else:
        with tracking.run(line, run_id=trained.run_id) as run:
            yield run


def record_evaluation(
    run: TrackedRun,
    tree: TrainTree,
    learnt: LearntThreshold,
    champion: Evaluation | None,
    telling: Sequence[Path],
    ms_per_image: float | None = None,
) -> None:
    """Write numbers, the threshold table and graph, heatmaps, contact sheets (one of the most telling), and report."""
    run.metrics(tree.evaluation.numbers())
    run.metrics({"threshold": learnt.threshold.value, "actual_ms_per_image": ms_per_image})
    if champion is not None:
        run.metrics({f"champion_{name}": value for name, value in champion.numbers().items()})
    run.json(learnt.threshold.model_dump(mode="json"), "threshold/threshold.json")
    run.text(learnt.table.to_csv(index=False), "threshold/threshold_test_result.csv")
    run.file(tree.report, "report")
    if tree.threshold_graph is not None:
        run.file(tree.threshold_graph, "threshold")
    for folder in ("output", "models/readiness", "log"):
        run.file(tree.folder / folder, f"train_artifacts/{folder}")
    if tree.heatmaps:
        run.file(tree.folder / "extra_output/train/images", "heatmaps")
        with tempfile.TemporaryDirectory(prefix="vad_sheet_") as scratch:
            sheet, most_telling = Path(scratch) / "contact_sheet.jpg", Path(scratch) / Path(MOST_TELLING).name
            draw_contact_sheet(list(tree.heatmaps.values())[:24], sheet, columns=3, width=420)
            draw_contact_sheet(telling, most_telling, columns=2, width=290)
            run.file(sheet, "heatmaps")
            run.file(most_telling, "heatmaps")
    run.tags({"vad.threshold_version": learnt.threshold.version})


def draw_contact_sheet(heatmaps: Sequence[Path], file: Path, *, columns: int, width: int) -> None:
    """Draw heatmaps on one sheet."""
    from PIL import Image

    from vad_lib.heatmaps import contact_sheet, save_picture

    pictures = [Image.open(heatmap).convert("RGB") for heatmap in heatmaps]
    save_picture(contact_sheet(pictures, columns, width), file)


def version_tags(
    record: TrainingRecord, evaluation: Evaluation, plan: ExperimentalPlan, dagster_run: str
) -> dict[str, Any]:
    """Return the tags of a model version: what a person filters and compares by."""
    numbers = {name: round(value, 6) for name, value in evaluation.model_dump(exclude_none=True).items()}
    return {
        "detector": record.model_name,
        **{name: numbers[name] for name in asset_metadata.NUMBERS if name in numbers},
        "backbone": record.weights.get("name", ""),
        "backbone_source": record.weights.get("source", ""),
        "backbone_sha256": record.weights.get("sha256", ""),
        **_stand_in_tag(record.weights),
        "threshold": record.threshold.value,
        "threshold_method": record.threshold.method,
        "threshold_version": record.threshold.version,
        "dataset_digest": dataset_digest(record.dataset),
        "plan_digest": plan.digest,
        "small_dataset_allowed": plan.readiness.allow_small_dataset,
        "dagster_run": dagster_run,
    }


def _stand_in_tag(weights: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag that a version bears whose backbone stands in for the one its plan names; else nothing."""
    asked, got = weights.get("asked_for", ""), weights.get("name", "")
    if weights.get("source") != "shipped" or not asked or asked == got:
        return {}
    return {TAG: f"{got} instead of {asked}. {measured_cost()}"}


def version_story(
    record: TrainingRecord,
    evaluation: Evaluation,
    plan: ExperimentalPlan,
    *,
    line: str,
    dagster_run: str,
    run: TrackedRun,
) -> str:
    """Return the description of a model version as markdown: data, numbers, threshold, weights, plan, links."""
    dataset, weights = record.dataset, record.weights
    numbers = evaluation.model_dump(exclude_none=True)
    told = [
        f"| {called} | {numbers[name]:.4f} |"
        for name, called in asset_metadata.NUMBERS.items()
        if isinstance(numbers.get(name), float)
    ]
    valid = dataset.valid_rows["is_anomalous"].astype(bool)
    seconds = record.facts.get("seconds")
    asked, got = weights.get("asked_for", ""), weights.get("name", "")
    stand_in = f" **in place of {asked}, which was not there**" if asked and asked != got else ""
    changes = "".join(f"\n- {c.argument}: {c.old!r} became {c.new!r}, because {c.reason}" for c in dataset.changes)
    return "\n".join(
        [
            f"**{record.model_name}** for line **{line}**"
            + (f", fitted in {format_seconds(float(seconds))}" if seconds else "")
            + ".",
            "",
            "### Data",
            f"{len(dataset.train_rows)} normal images to fit; {int((~valid).sum())} normal and {int(valid.sum())} "
            f"anomalous to validate; {len(dataset.dropped)} left out. Normal label: `{dataset.ok_class}`. "
            f"Folder: `{dataset.data_folder}`. Digest: `{dataset_digest(dataset)[:16]}`.",
            *(["", "Changed automatically:" + changes] if changes else []),
            "",
            "### On the validation rows",
            asset_metadata.in_words(evaluation),
            "",
            "| | |",
            "|---|---|",
            *told,
            "",
            f"[Training report]({run.artifact_page(REPORT)}) with its heatmaps, "
            f"[threshold table]({run.artifact_page('threshold/threshold_test_result.csv')}).",
            "",
            "### Threshold",
            f"NG from a raw score of {record.threshold.value:.6g} on, by {record.threshold.method} "
            f"(version `{record.threshold.version}`). {record.threshold.note}",
            "",
            "### Weights",
            f"Backbone {got} from {weights.get('source', 'unknown')}{stand_in}, "
            f"sha256 `{str(weights.get('sha256', ''))[:16]}`."
            if got
            else "The detector has no backbone.",
            "",
            "### Where it comes from",
            f"Plan `{plan.digest[:16]}`. [Run in Dagster]({dagster_url(f'runs/{dagster_run}')}), "
            f"[run in MLflow]({run.url}).",
        ]
    )


def record_extension(run: TrackedRun, extension: Extension) -> None:
    """Write what an extension did, and the performance before and after it."""
    run.metrics(extension.after.numbers())
    for name, evaluation in (("before", extension.before), ("kept_threshold", extension.kept)):
        run.metrics({f"{name}_{number}": value for number, value in evaluation.numbers().items()})
    run.metrics({"rows_added": extension.rows_added, "threshold": extension.model.threshold.value})
    run.json(extension.to_json(), "extension.json")


def extension_tags(
    extension: Extension, champion: Version, dataset: ValidatedDataset, person: str, dagster_run: str
) -> dict[str, Any]:
    """Return the tags of an extended version: those of the champion, and what has changed."""
    threshold = extension.model.threshold
    numbers = {name: round(value, 6) for name, value in extension.after.model_dump(exclude_none=True).items()}
    of_its_own = ("promoted_by", "promoted_at", "promotion", "promotion_reason")
    return {
        **{name: value for name, value in champion.tags.items() if name not in of_its_own},
        **{name: numbers[name] for name in asset_metadata.NUMBERS if name in numbers},
        "threshold": threshold.value,
        "threshold_method": threshold.method,
        "threshold_version": threshold.version,
        "measured_on_dataset": dataset_digest(dataset),
        "extended_from": champion.label,
        "extended_by": person,
        "images_added": len(extension.images.files),
        "rows_added": extension.rows_added,
        "dagster_run": dagster_run,
    }


def extension_story(extension: Extension, champion: Version, person: str) -> str:
    """Return the description of an extended version as markdown."""
    before = extension.before.model_dump(exclude_none=True)
    kept, after = extension.kept.model_dump(exclude_none=True), extension.after.model_dump(exclude_none=True)
    rows = [
        f"| {called} | {_shown(before.get(name))} | {_shown(kept.get(name))} | {_shown(after.get(name))} |"
        for name, called in asset_metadata.NUMBERS.items()
        if name in before or name in after
    ]
    return "\n".join(
        [
            f"**{champion.label}** and {len(extension.images.files)} more normal images, as {person} says: "
            f"{extension.rows_added} rows were added to the {extension.rows_before} of the memory bank, for "
            f"{extension.patches_farther} patches that it did not cover. Nothing was fitted again.",
            "",
            "### On the validation rows",
            "| | before | with the old threshold | after |",
            "|---|---|---|---|",
            *rows,
            "",
            *(f"- {notice}" for notice in extension.notices),
        ]
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def champion_on_same_rows(
    registry: LineRegistry, dataset: ValidatedDataset, accelerator: str, progress: Any
) -> tuple[Version | None, Evaluation | None, str]:
    """Return who serves, and its performance on these validation rows; with a note where it could not be measured."""
    from vad_lib.errors import VadError
    from vad_lib.models import InspectionModel
    from vad_lib.validation import evaluate_on_rows

    champion = registry.at(CHAMPION)
    if champion is None:
        return None, None, ""
    try:
        model = InspectionModel.load(registry.folder(champion), accelerator=accelerator)
        return champion, evaluate_on_rows(model, dataset.valid_rows, progress=progress), ""
    except (VadError, OSError) as error:
        return champion, None, f"The champion {champion.label} could not be measured: {error}"
