"""What a registered model version says about itself: its tags, and its description as markdown.

Nothing here knows where versions are kept. Links to other pages are given by the caller, as text and address; as the
description stays for years, they lead on from the page that shows it, and name no machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vad_lib.encoders.fallback import TAG, measured_cost
from vad_lib.metrics import HEADLINES, Evaluation
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from vad_lib.artifacts.training_record import TrainingRecord
    from vad_lib.extending import Extension
    from vad_lib.thresholds import Threshold

FILTERED_BY = ("image_auroc", "f1", "fn", "fp", "tp", "tn")
"""Numbers of an evaluation that are tags: people filter by them, and intervals are made from the counts."""
LABELS = "labels_of_people"
"""Tag: how many labels of people the training was given. Which ones is an artifact of its run."""


def evaluations_table(columns: Mapping[str, Evaluation]) -> str:
    """Return evaluations side by side as a markdown table; numbers that none of them has are left out.

    >>> from vad_lib.metrics import evaluate
    >>> print(evaluations_table({"new": evaluate([1, 2], [False, True], ["OK", "NG"])}).splitlines()[3])
    | F1 | 1.0000 |
    """
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, called in HEADLINES.items():
        values = [evaluation.defined().get(name) for evaluation in columns.values()]
        if any(value is not None for value in values):
            lines.append(f"| {called} | {' | '.join(map(_number, values))} |")
    return "\n".join(lines)


def training_tags(record: TrainingRecord) -> dict[str, Any]:
    """Return the tags of a version that was trained: what a person filters by. The description holds the rest."""
    weights = record.weights
    asked, got = weights.get("asked_for", ""), weights.get("name", "")
    return {
        "detector": record.model_name,
        "backbone": got,
        **({TAG: f"{got} instead of {asked}. {measured_cost()}"} if weights.get("is_fallback") else {}),
        "dataset_digest": record.dataset.digest,
        **({LABELS: len(record.dataset.labels)} if len(record.dataset.labels) else {}),
        **_tags_of_numbers(record.evaluation, record.learnt.threshold),
    }


def extension_tags(extension: Extension, champion: Mapping[str, str], person: str) -> dict[str, Any]:
    """Return the tags of an extended version: those of the champion, and what has changed."""
    of_its_own = ("made_from", "promoted_by")
    return {
        **{name: value for name, value in champion.items() if name not in of_its_own},
        **_tags_of_numbers(extension.after, extension.model.threshold),
        "extended_by": person,
        "images_added": len(extension.images.files),
        "rows_added": extension.rows_added,
    }


def training_description(record: TrainingRecord, plan_digest: str, links: Mapping[str, str], origin: str) -> str:
    """Return the description of a version that was trained: data, numbers, threshold, weights, origin."""
    dataset, weights, threshold = record.dataset, record.weights, record.learnt.threshold
    valid = dataset.valid_rows["is_anomalous"].astype(bool)
    seconds = record.facts.get("seconds")
    asked, got = weights.get("asked_for", ""), weights.get("name", "")
    replaced = f" **in place of {asked}, which was not there**" if asked and asked != got else ""
    small = dataset.arguments.get("readiness", {}).get("allow_small_dataset", False)
    pages = ", ".join(f"[{name}]({address})" for name, address in links.items())
    changes = "".join(f"\n- {c.argument}: {c.old!r} became {c.new!r}, because {c.reason}" for c in dataset.changes)
    return "\n".join(
        [
            f"**{record.model_name}** for line **{record.line}**"
            + (f", fitted in {format_seconds(float(seconds))}" if seconds else "")
            + ".",
            "",
            "### Data",
            f"{len(dataset.train_rows)} normal images to fit; {int((~valid).sum())} normal and {int(valid.sum())} "
            f"anomalous to validate; {len(dataset.dropped)} left out. Normal label: `{dataset.ok_class}`. "
            f"Folder: `{dataset.data_folder}`. Digest: `{dataset.digest[:16]}`.",
            *([people] if (people := dataset.people_in_words()) else []),
            *(["Fewer normal images than required were accepted (allow_small_dataset)."] if small else []),
            *(["", "Changed automatically:" + changes] if changes else []),
            "",
            "### On the validation rows",
            record.evaluation.in_words(),
            "",
            *([evaluations_table({"this model": record.evaluation}), ""] if record.evaluation.n else []),
            "### Threshold",
            f"NG from a raw score of {threshold.value:.6g} on, by {threshold.method} (version "
            f"`{threshold.version}`). {threshold.note}",
            "",
            "### Weights",
            f"Backbone {got} from {weights.get('source', 'unknown')}{replaced}, "
            f"sha256 `{str(weights.get('sha256', ''))[:16]}`."
            if got
            else "The detector has no backbone.",
            "",
            "### Where it comes from",
            f"Plan `{plan_digest[:16]}`. {pages}. {origin}",
        ]
    )


def extension_description(extension: Extension, champion: str, person: str) -> str:
    """Return the description of an extended version."""
    columns = {"before": extension.before, "with the old threshold": extension.kept, "after": extension.after}
    return "\n".join(
        [
            f"**{champion}** and {len(extension.images.files)} more normal images, as {person} says: "
            f"{extension.rows_added} rows were added to the {extension.rows_before} of the memory bank, for "
            f"{extension.patches_farther} patches that it did not cover. Nothing was fitted again.",
            "",
            "### On the validation rows",
            evaluations_table(columns),
            "",
            *(f"- {notice}" for notice in extension.notices),
        ]
    )


def _tags_of_numbers(evaluation: Evaluation, threshold: Threshold) -> dict[str, Any]:
    numbers = evaluation.headlines()
    return {
        **{name: round(numbers[name], 6) for name in FILTERED_BY if name in numbers},
        "threshold": threshold.value,
        "threshold_method": threshold.method,
    }


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
