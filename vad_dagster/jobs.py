"""The jobs of a line, and the tags that bound them: one training and one inspection at a time on each line."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from vad_dagster.partitions import lines
from vad_dagster.plans import plan_of
from vad_lib.errors import VadError
from vad_lib.lines import Home

TRAIN_TAG, INSPECT_TAG = "vad/train_line", "vad/inspect_line"
"""Tags whose value is the line; ``dagster.yaml`` limits runs by them."""
LATENCY = dg.AssetCheckKey(dg.AssetKey("inference_outputs"), "latency_objective")
MACHINE_TAG = "vad/machine"
"""Tag of a run that a command started: the machine that its process is on, as ``vad_lib.processes`` names it."""
INPUTS_TAG = "vad/training_inputs"
"""Tag of a run that trained: a digest of what it was made from, as ``vad_lib.training_inputs`` names it."""
LABELS_TAG = "vad/newest_label"
"""Tag of a run that trained: the number of the last label of people that it took into account."""
REASON_TAG = "vad/reason"
"""Tag of a run that no person started: why it was, in words."""
VERSION_TAG = "vad/model_version"
"""Tag of a run that trained: the label of the model version that came of it."""
MAX_RUNTIME_TAG = "dagster/max_runtime"
DEFAULT_TRAINING_SECONDS = 6 * 3600
INSPECTION_SECONDS = 3600


def training_tags(line: str) -> dict[str, str]:
    """Return the tags of a training run: its place in the queue, and the time limit of the line's plan."""
    try:
        plan = plan_of(Home.from_environment().line(line))
        seconds = round(plan.operation.training_timeout_hours * 3600)
    except VadError:
        # the run itself says what is wrong with the plan, where it can be read
        seconds = DEFAULT_TRAINING_SECONDS
    return {TRAIN_TAG: line, MAX_RUNTIME_TAG: str(seconds)}


def inspection_tags(line: str) -> dict[str, str]:
    """Return the tags of an inspection run."""
    return {INSPECT_TAG: line, MAX_RUNTIME_TAG: str(INSPECTION_SECONDS)}


def _config(
    promote_version: str = "", tags_of: Callable[[str], dict[str, str]] | None = None
) -> dg.PartitionedConfig[dg.PartitionsDefinition[str]]:
    """Return the config with which the launchpad opens; for a promotion, all that a person has to add is his name."""
    filled_in = {"ops": {"champion_model": {"config": {"promote_version": promote_version, "decided_by": ""}}}}
    return dg.PartitionedConfig(
        partitions_def=lines,
        run_config_for_partition_key_fn=lambda _: filled_in if promote_version else {},
        tags_for_partition_key_fn=tags_of,
    )


train_line = dg.define_asset_job(
    "train_line",
    selection=dg.AssetSelection.groups("data", "training", "registry"),
    description="From the ground-truth table to a registered model and, where the rule allows it, a new champion.",
    config=_config(tags_of=training_tags),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "train"},
)

compare_line = dg.define_asset_job(
    "compare_line",
    selection=dg.AssetSelection.groups("choice"),
    description="Compares detectors on the line's own images by cross-validation. The plan stays as it is.",
    config=_config(tags_of=training_tags),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "choice"},
)

extend_line = dg.define_asset_job(
    "extend_line",
    selection=dg.AssetSelection.groups("extension"),
    description="Adds confirmed normal images to the champion's memory bank, without a fit, as a new version.",
    config=_config(tags_of=training_tags),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "extension"},
)

inspect_line = dg.define_asset_job(
    "inspect_line",
    # The check of latency looks at all lines: what it says of others has no place in the run of one.
    selection=dg.AssetSelection.groups("inference") - dg.AssetSelection.checks(LATENCY),
    description="Scores images with the champion and writes the inference artifacts and the summary.",
    config=_config(tags_of=inspection_tags),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "inference"},
)

watch_line = dg.define_asset_job(
    "watch_line",
    selection=dg.AssetSelection.groups("monitoring"),
    description="Reports where the charts of drift stand that each inspected image advances, and how well the line "
    "does by what people said.",
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "monitoring"},
)

describe_line = dg.define_asset_job(
    "describe_line",
    selection=dg.AssetSelection.groups("words"),
    description="Describes the newest findings in words, where VAD_VLM_URL names a vision language model.",
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "words"},
)


gate_line = dg.define_asset_job(
    "gate_line",
    selection=dg.AssetSelection.assets("champion_model"),
    description="Decides anew whether the newest version serves, by what its validation and judged live images say.",
    config=_config(),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "registry"},
)

promote_line = dg.define_asset_job(
    "promote_line",
    selection=dg.AssetSelection.assets("champion_model"),
    description="Lets the newest version serve that does not, or another one by its number, until a person chooses "
    "again. Write your name in decided_by.",
    config=_config("challenger"),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "registry"},
)

roll_back_line = dg.define_asset_job(
    "roll_back_line",
    selection=dg.AssetSelection.assets("champion_model"),
    description="Lets the version serve again that served before, until a person chooses again. Write your name in "
    "decided_by.",
    config=_config("previous"),
    executor_def=dg.in_process_executor,
    tags={"vad/pipeline": "registry"},
)
