"""Group extension: a champion that knows more normal images, without a fit."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from vad_dagster.asset_metadata import extension_metadata, links_markdown, plan_metadata
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress, step, step_tags
from vad_dagster.configuration import ExtensionConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of, refuse_where_never
from vad_dagster.recording import register_extension, run_tags
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import ChampionOnRows
from vad_lib.errors import InputError
from vad_lib.readiness import ValidatedDataset
from vad_lib.validation import MODEL_FOLDER

OTHER_DATA = "The line's data are others than the champion was trained on: both are measured on today's."


@dg.asset(
    partitions_def=lines,
    group_name="extension",
    pool="training",
    output_required=False,
    deps=["champion_model"],
    kinds={"mlflow", "pytorch"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("extension", "extend"),
    description="The champion with a memory bank that knows more images, which a person has found normal. Nothing is "
    "fitted again; before and after are measured on the same validation rows, and the result is a version of its own.",
)
def extended_model(
    context: dg.AssetExecutionContext,
    config: ExtensionConfig,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> Iterator[dg.MaterializeResult[None]]:
    from vad_lib.extending import extend_model, find_images
    from vad_lib.models import InspectionModel

    if not config.images and not config.decided_by:
        context.log.info("No images are given, as where all assets are materialized at once: the champion stays.")
        return
    line, person = line_of(context), config.decided_by.strip()
    with step(context, line), tempfile.TemporaryDirectory(prefix="vad_extend_") as work:
        if not person:
            raise InputError("Write your name in decided_by: a version carries who said that the images are normal.")
        plan = refuse_where_never(line) if config.promote else plan_of(line)
        registry = LineRegistry(tracking, line.name)
        champion = registry.champion()
        learnt_from_table = champion.tags.get("dataset_digest") == validated_dataset.digest
        extension = extend_model(
            InspectionModel.load(registry.folder(champion), accelerator=plan.train.accelerator),
            find_images([Path(path) for path in config.images]),
            validated_dataset,
            extended_from=champion.label,
            learnt_from_table=learnt_from_table,
            progress=log_progress(context),
        )
        extension.model.save(folder := Path(work) / MODEL_FOLDER)
        name, tags = f"{champion.label} and {len(extension.images.files)} images", run_tags(context, line.name, plan)
        with tracking.run(line.name, name=name, parent_run_id=champion.run_id, tags=tags) as run:
            version = register_extension(run, registry, extension, folder, champion, validated_dataset, person)
        version = registry.promote(version, by=f"person: {person}") if config.promote else version
    measured = ChampionOnRows(version=champion.number, label=champion.label, evaluation=extension.before)
    notices = [*extension.notices, *([] if learnt_from_table else [OTHER_DATA])]
    yield dg.MaterializeResult(
        metadata={
            "model version": version.label,
            "extended from": champion.label,
            "serves": config.promote,
            **extension_metadata(extension, measured, notices),
            "links": links_markdown({"model version": tracking.version_url(registry.name, version.number)}),
            **plan_metadata(plan),
        },
    )
