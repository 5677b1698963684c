"""Group words: what a vision language model says about findings. Off unless an endpoint is set."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import dagster as dg

from vad_dagster.asset_metadata import links_markdown
from vad_dagster.asset_parts import QUALITY_TEAM, log_progress, step, step_tags
from vad_dagster.configuration import DescriptionConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of
from vad_dagster.provenance import results_page
from vad_dagster.resources import MLflowTracking
from vad_lib.inspection_db import InspectionDatabase

if TYPE_CHECKING:
    from vad_lib.words.describing import Tally

ASKED_BY = "the asset finding_descriptions"


@dg.asset(
    partitions_def=lines,
    group_name="words",
    output_required=False,
    deps=["inference_outputs"],
    kinds={"openai"},
    owners=[QUALITY_TEAM],
    code_version="1",
    tags=step_tags("words", "describe"),
    description="The newest findings of the line in words, by the vision language model that VAD_VLM_URL names: what "
    "is seen, where, and whether that is what the detector decided. Predictions stay as they are.",
)
def finding_descriptions(
    context: dg.AssetExecutionContext, config: DescriptionConfig, tracking: MLflowTracking
) -> Iterator[dg.MaterializeResult[None]]:
    from vad_dagster.finding_words import ModelMaps, line_facts
    from vad_lib.inspection_db.result_lists import Wanted, find_results
    from vad_lib.queue import new_worker
    from vad_lib.words.client import Client
    from vad_lib.words.describing import Budgets, describe_waiting, request_description
    from vad_lib.words.endpoint import OFF, Endpoint

    line = line_of(context)
    with step(context, line):
        endpoint = Endpoint.of_settings()
        if endpoint is None:
            context.log.info(OFF)
            return
        db, facts = InspectionDatabase.from_environment(), line_facts(line, ModelMaps(tracking))
        endpoint.require_leave(line.name, facts.allow_images_to_leave)
        newest = find_results(db, line.name, Wanted("NG" if config.only_ng else ""), limit=config.newest)
        for row in newest.rows:
            request_description(db, line.name, row.prediction_id, asked_by=ASKED_BY)
        with closing(Client(endpoint)) as client:
            tally = describe_waiting(
                db, facts, client, new_worker(), Budgets.of_settings(), progress=log_progress(context)
            )
    yield dg.MaterializeResult(metadata=description_metadata(line.name, endpoint.url, endpoint.model, tally))


def description_metadata(line: str, url: str, model: str, tally: "Tally") -> dict[str, Any]:
    """Return what the page of the materialization shows."""
    return {
        "described": tally.done,
        "failed": tally.failed,
        "disagreements": tally.disagreements,
        **({"share structured": round(tally.structured / tally.done, 3)} if tally.done else {}),
        "tokens": tally.tokens,
        "seconds": round(tally.seconds, 1),
        "waiting": tally.waiting,
        **({"why waiting": tally.why_waiting} if tally.why_waiting else {}),
        "model": model,
        "endpoint": url,
        "links": links_markdown({"predictions": results_page(line)}),
    }
