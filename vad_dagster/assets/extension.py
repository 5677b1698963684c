"""Group extension: a champion that knows more normal images, without a fit."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import tempfile
from pathlib import Path

import dagster as dg

from vad_dagster import recording
from vad_dagster.asset_metadata import evaluation_numbers, side_by_side
from vad_dagster.asset_parts import (
    CODE_VERSION,
    QUALITY_TEAM,
    links_markdown,
    log_progress,
    plan_metadata,
    preview_table,
    step,
    step_tags,
)
from vad_dagster.configuration import ExtensionConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of
from vad_dagster.registry import MODEL_FOLDER, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.errors import InputError
from vad_lib.readiness import ValidatedDataset


@dg.asset(
    partitions_def=lines,
    group_name="extension",
    pool="training",
    deps=["champion_model"],
    kinds={"mlflow", "pytorch"},
    owners=[QUALITY_TEAM],
    code_version=CODE_VERSION,
    tags=step_tags("extension", "extend"),
    description="The champion with a memory bank that knows more images, which a person has found normal. Nothing is "
    "fitted again; before and after are measured on the same validation rows, and the result is a version of its own.",
)
def extended_model(
    context: dg.AssetExecutionContext,
    config: ExtensionConfig,
    validated_dataset: ValidatedDataset,
    tracking: MLflowTracking,
) -> dg.MaterializeResult[None]:
    from vad_lib.extending import extend_model, find_images
    from vad_lib.models import InspectionModel

    line = line_of(context)
    with step(context, line), tempfile.TemporaryDirectory(prefix="vad_extend_") as work:
        person = config.decided_by.strip()
        if not person:
            raise InputError("Write your name in decided_by: a version carries who said that the images are normal.")
        plan = plan_of(line)
        registry = LineRegistry(tracking, line.name)
        champion = registry.champion()
        model = InspectionModel.load(registry.folder(champion), accelerator=plan.train.accelerator)
        files = find_images([Path(path) for path in config.images])
        learnt_from_table = champion.tags.get("dataset_digest") == recording.dataset_digest(validated_dataset)
        extension = extend_model(
            model,
            files,
            validated_dataset,
            extended_from=champion.label,
            learnt_from_table=learnt_from_table,
            progress=log_progress(context),
        )
        folder = Path(work) / MODEL_FOLDER
        extension.model.save(folder)
        with tracking.run(
            line.name,
            name=f"{champion.label} and {len(extension.images.files)} images",
            parent_run_id=champion.run_id,
            tags=recording.run_tags(context, line.name, plan),
        ) as run:
            recording.record_extension(run, extension)
            story = recording.extension_story(extension, champion, person)
            run.describe(story)
            version = registry.register(
                folder,
                run_id=run.run_id,
                tags=recording.extension_tags(extension, champion, validated_dataset, person, context.run.run_id),
                description=story,
                example_image=extension.images.files[0],
            )
        notices = list(extension.notices)
        if not learnt_from_table:
            notices.append("The line's data are others than the champion was trained on: both are measured on today's.")
        if config.promote:
            version = registry.promote(version, by=f"person: {person}")
    return dg.MaterializeResult(
        metadata={
            "model version": version.label,
            "extended from": champion.label,
            "serves": config.promote,
            "images added": len(extension.images.files),
            "images known before": len(extension.images.known),
            "images refused": len(extension.images.refused),
            "rows before": extension.rows_before,
            "rows added": extension.rows_added,
            "beside the champion": side_by_side(extension.after, champion, extension.before, ""),
            "with the threshold kept": dg.MetadataValue.json(extension.kept.model_dump(exclude_none=True)),
            "threshold before": extension.threshold_before.value,
            "threshold": extension.model.threshold.value,
            "scores of the added images": preview_table(extension.scores, 50),
            "notices": dg.MetadataValue.md("\n".join(f"- {notice}" for notice in notices)),
            "links": links_markdown({"model version": tracking.version_url(registry.name, version.number)}),
            **evaluation_numbers(extension.after),
            **plan_metadata(plan),
        },
    )
