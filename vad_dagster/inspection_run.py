"""What a run of the inference assets does: the champion inspects a line's queue, or a folder, and the tree is written.

Where an inference service works on the line, nothing is loaded: the run waits for what the service has in hand, and
shows what it decided meanwhile.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from vad_dagster.asset_parts import log_progress
from vad_dagster.configuration import InspectionConfig
from vad_dagster.plans import monitor_settings, plan_of, watch_folder
from vad_dagster.registry import LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import last_dataset
from vad_lib.findings import Finding
from vad_lib.inspection import InspectionResult
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Line
from vad_lib.plan import ExperimentalPlan
from vad_lib.queue import queue_facts, services_of
from vad_lib.readiness import ValidatedDataset

if TYPE_CHECKING:
    from vad_lib.artifacts.inference_tree import InferenceTree, InspectionRecord
    from vad_lib.compiled import ScoringChoice
    from vad_lib.models import InspectionModel

ENVIRONMENT_SAMPLE = 50
SERVICE_SECONDS, POLL_SECONDS = 60.0, 0.5


@dataclass(frozen=True)
class InspectionRun:
    """What came of a run.

    Attributes:
        plan: with the operator's values.
        version: the champion.
        dataset: what was inspected.
        result: of the inspection.
        findings: of readiness, about the images.
        backend: which backend scored; None where a service did.
        tree: the published artifacts.
        facts: for the record.
    """

    plan: ExperimentalPlan
    version: Version
    dataset: ValidatedDataset
    result: InspectionResult
    findings: tuple[Finding, ...]
    backend: ScoringChoice | None
    tree: InferenceTree
    facts: dict[str, Any]

    @property
    def refused(self) -> int:
        """How many images have no prediction."""
        return len(self.result.refused) + len(self.dataset.dropped)


def inspect(
    context: dg.AssetExecutionContext, line: Line, config: InspectionConfig, tracking: MLflowTracking, logs: Path
) -> InspectionRun:
    """Inspect what the run is about, and publish the artifacts.

    Args:
        context: of the asset.
        line: the inspection line.
        config: what is inspected.
        tracking: names the champion.
        logs: gathers the log of the run.
    """
    from vad_lib.artifacts import write_inference_tree

    plan = plan_of(line).with_operator_arguments("inference", config.arguments())
    registry = LineRegistry(tracking, line.name)
    version = registry.champion()
    db = InspectionDatabase.from_environment()
    maps_folder = line.folder / "maps" / context.run.run_id
    model: InspectionModel | None = None
    backend = None
    if config.queue and services_of(db).get(line.name):
        dataset, result = _leave_to_service(context, db, line, plan, version)
        findings: tuple[Finding, ...] = ()
    else:
        from vad_lib.compiled import load_for_scoring

        # Follows what was measured (`vad backend`, or the service), and never measures while images wait.
        model, backend = load_for_scoring(registry.folder(version), accelerator=plan.train.accelerator, measure=False)
        work = _inspect_queue if config.queue else _inspect_folder
        wanted = maps_folder if plan.inference.save_anomaly_maps else None
        dataset, result, findings = work(context, db, line, plan, config, version, model, wanted)
    facts = {"line": line.name, "run_id": context.run.run_id, "seconds": result.seconds}
    tree = write_inference_tree(
        plan.inference_artifacts_folder(line.inference_artifacts, line.base_folder),
        inspection_record(plan, version, model, dataset, result, facts),
        maps=((row, result.load_map(row)) for row in result.map_files) if result.map_files else None,
        log_folder=logs,
        progress=log_progress(context),
    )
    for folder in (maps_folder, logs):
        shutil.rmtree(folder, ignore_errors=True)
    return InspectionRun(plan, version, dataset, result, findings, backend, tree, facts)


def inspection_record(
    plan: ExperimentalPlan,
    version: Version,
    model: InspectionModel | None,
    dataset: ValidatedDataset,
    result: InspectionResult,
    facts: Mapping[str, Any],
) -> InspectionRecord:
    """Return what the inference artifacts are made from; without the model there are no heatmaps."""
    from vad_lib.artifacts import InspectionRecord

    return InspectionRecord(
        dataset=dataset,
        predictions=result.predictions,
        failed=result.refused,
        model_name=model.info.model_name if model else version.tags.get("detector", plan.train.model_name),
        version=version.label,
        inference_threshold=plan.inference.inference_threshold,
        review_certainty=plan.operation.review_certainty,
        heatmap_scale=model.heatmap_scale if model else None,
        facts=facts,
    )


def _leave_to_service(
    context: dg.AssetExecutionContext, db: InspectionDatabase, line: Line, plan: ExperimentalPlan, version: Version
) -> tuple[ValidatedDataset, InspectionResult]:
    from vad_lib.inspection.history import decided_online

    begun = datetime.now(UTC)
    context.log.info("An inference service works on this line: what waits is left to it.")
    deadline = time.monotonic() + SERVICE_SECONDS
    while queue_facts(db).get(line.name) and services_of(db).get(line.name) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return decided_online(
        db,
        line.name,
        since=begun,
        folder=watch_folder(line, plan),
        model_version=version.label,
        inference_threshold=plan.inference.inference_threshold,
    )


def _inspect_queue(
    context: dg.AssetExecutionContext,
    db: InspectionDatabase,
    line: Line,
    plan: ExperimentalPlan,
    config: InspectionConfig,
    version: Version,
    model: InspectionModel,
    maps_folder: Path | None,
) -> tuple[ValidatedDataset, InspectionResult, tuple[Finding, ...]]:
    from vad_lib.inspection import Served, inspect_queue, result_of_run
    from vad_lib.inspection.model import monitor_of

    threshold = plan.inference.inference_threshold
    served = Served(model, version.label, threshold, monitor_of(model, threshold, monitor_settings(plan)))
    inspect_queue(
        db,
        line,
        served,
        run_id=context.run.run_id,
        most=plan.operation.max_batch_images,
        chunk=plan.train.batch_size,
        maps_folder=maps_folder,
        progress=log_progress(context),
    )
    dataset, result = result_of_run(
        db,
        line.name,
        context.run.run_id,
        folder=watch_folder(line, plan),
        model_version=version.label,
        inference_threshold=plan.inference.inference_threshold,
        ok_class=model.info.ok_class,
        maps_folder=maps_folder,
    )
    return dataset, result, _compare_with_training(line, result)


def _inspect_folder(
    context: dg.AssetExecutionContext,
    db: InspectionDatabase,
    line: Line,
    plan: ExperimentalPlan,
    config: InspectionConfig,
    version: Version,
    model: InspectionModel,
    maps_folder: Path | None,
) -> tuple[ValidatedDataset, InspectionResult, tuple[Finding, ...]]:
    from vad_lib.ground_truth import read_input
    from vad_lib.inspection import Served, inspect_rows
    from vad_lib.readiness import prepare_inference_data

    folder = Path(config.folder).expanduser() if config.folder else plan.inference_data_folder(line.base_folder)
    dataset = prepare_inference_data(
        read_input(
            folder, plan.inference_input, pipeline="inference", ignored_suffixes=plan.operation.ignored_suffixes
        ),
        model.info.ok_class,
        arguments=plan.inference_readiness,
        train_facts=_training_facts(line),
        progress=log_progress(context),
    )
    result = inspect_rows(
        db,
        line.name,
        Served(model, version.label, plan.inference.inference_threshold),
        dataset.rows,
        run_id=context.run.run_id,
        batch_size=plan.train.batch_size,
        maps_folder=maps_folder,
        progress=log_progress(context),
    )
    return dataset, result, dataset.findings


def _compare_with_training(line: Line, result: InspectionResult) -> tuple[Finding, ...]:
    """Compare the first images with the training images; a sample will do for light and focus."""
    from vad_lib.images.checking import check_images
    from vad_lib.readiness import compare_environment

    train_facts = _training_facts(line)
    sample = result.predictions.head(ENVIRONMENT_SAMPLE)
    if train_facts is None or sample.empty:
        return ()
    facts = check_images([Path(file) for file in sample["file"]])
    return compare_environment(
        train_facts, facts.assign(row=sample["row"].to_numpy(), image_path=sample["image_path"].to_numpy())
    )


def _training_facts(line: Line) -> Any:
    """Return the facts of the normal training images; None where the line was trained elsewhere."""
    dataset = last_dataset(line)
    return dataset.normal_facts if dataset else None
