"""The rules of readiness by name, and the small pieces that every rule is made of.

The guide's requirement on the size of the region of interest (at least 15 x 15 pixels at 224 x 224) is no rule here:
it can only be checked where the region is known, and a ground-truth table of paths and labels does not tell it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from vad_lib.findings import MAX_EXAMPLES, Finding, Severity


@dataclass(frozen=True)
class Rule:
    """One rule as it is presented.

    Attributes:
        name: Stable; ``Finding.rule`` and ``DroppedRows.rule`` hold it.
        severity: Of its finding.
        description: What is checked and what happens to what is found.
        mandatory: True for the guide's mandatory requirements: they block with ``enforce_requirements: true``.
        always_blocks: True where the work cannot go on.
    """

    name: str
    severity: Severity
    description: str
    mandatory: bool = False
    always_blocks: bool = False


RULES: tuple[Rule, ...] = (
    Rule("other_formats", "warn", "Files of other formats in the data folder are listed and passed over."),
    Rule("undecodable_names", "warn", "Files whose names are not UTF-8 are listed and passed over."),
    Rule("no_training_images", "info", "There are training images, or the detector needs none."),
    Rule("masks", "info", "Pictures named as masks of other images are kept as masks, and are no images of parts."),
    Rule("mask_rows", "warn", "No row of the table names a mask of another image."),
    Rule("tables_in_subfolders", "info", "Tables are read from the data folder itself, not from its sub-folders."),
    Rule("renewed_table", "warn", "A table that `vad line add` wrote is renewed where images came or went."),
    Rule("lost_labels", "warn", "The image of every label that a person gave can still be had; others are left out."),
    Rule("images_without_row", "info", "Images in the folder that are in no row of the table are not used."),
    Rule("missing_columns", "error", "The columns that the plan names are in the table.", always_blocks=True),
    Rule("missing_values", "warn", "Rows without a path, or in training without a label, are dropped and counted."),
    Rule("spaces_around_values", "warn", "Spaces around labels and paths are not meant and are taken away."),
    Rule("path_leaves_folder", "error", "Rows whose path leaves the data folder are dropped."),
    Rule("missing_file", "warn", "Rows whose image does not exist are dropped and listed."),
    Rule("other_format_row", "warn", "Rows that name a file of another format than are read are dropped."),
    Rule("repeated_rows", "warn", "A row that is there twice is used once."),
    Rule("unreadable_image", "warn", "Images that cannot be decoded are dropped, each with its reason."),
    Rule("no_rows_left", "error", "At least one row is left to work with.", always_blocks=True),
    Rule("ok_class", "error", "The normal label is known and occurs among the labels.", always_blocks=True),
    Rule("labels_wait", "info", "Where a detector needs no images, people's labels validate it once they are enough."),
    Rule("similar_labels", "warn", "No two labels look alike, and none is what programs write into an empty cell."),
    Rule(
        "labels_against_table",
        "error",
        "What a person says about an image is what the table says: where not, it is left out of training.",
    ),
    Rule("labelled_already", "info", "An image that the table holds already is not there twice by a person's label."),
    Rule(
        "conflicting_labels", "error", "The same image is not normal in one row and anomalous in another: all dropped."
    ),
    Rule("several_kinds", "info", "Rows of one file are one image, which may have several kinds of defect."),
    Rule("mostly_anomalous", "warn", "Most images are normal."),
    Rule("only_normal_images", "info", "Without anomalous images a model is trained, but not measured."),
    Rule("other_split_values", "warn", "Split values other than train and valid count as valid."),
    Rule("anomalous_train_rows", "warn", "Anomalous rows marked train are never used to fit."),
    Rule("train_valid_leak", "error", "No image is in both train and valid, byte for byte: the valid copy is dropped."),
    Rule(
        "labels_beside_look_alikes",
        "info",
        "A normal image that a person labelled is on the side of the split on which images are that look the same.",
    ),
    Rule("near_duplicates_across_split", "warn", "Few images in valid look the same as one in train."),
    Rule("exact_duplicates", "warn", "Images that are there several times, byte for byte, are counted."),
    Rule("near_duplicates", "info", "Images that look the same as another are counted."),
    Rule("normal_rows_to_split", "error", "At least one normal row in train and one in valid.", always_blocks=True),
    Rule("normal_image_count", "error", "100 to 50,000 normal images.", mandatory=True),
    Rule("channels", "error", "All images have the same number of channels: 3, or 1.", mandatory=True),
    Rule("resolution", "error", "Every image has 32 x 32 to 1920 x 1920 pixels.", mandatory=True),
    Rule("recommended_resolution", "warn", "Every image has 224 x 224 to 1024 x 1024 pixels."),
    Rule("mixed_sizes", "warn", "All images have one size."),
    Rule("format_tells_label", "warn", "Format, depth and size of the files do not tell normal images from anomalous."),
    Rule("converted_images", "warn", "Images stored other than as 8-bit grey or RGB are converted in a defined way."),
    Rule("unique_names", "warn", "No two images share a name, in whatever folder or format."),
    Rule("images_per_anomaly", "warn", "About 10 images of each kind of anomaly are in valid."),
    Rule("pose", "warn", "Normal parts lie within 3 degrees and 1 pixel (at 224 x 224) of their usual place."),
    Rule("focus", "warn", "No normal image is much less sharp than the others."),
    Rule("environment", "warn", "Brightness and contrast of the normal images are stable."),
    Rule(
        "environment_changed", "warn", "New images have the brightness, contrast and sharpness of the training images."
    ),
    Rule(
        "threshold_method", "warn", "The threshold method suits the number of anomalous validation rows, or is changed."
    ),
    Rule("false_alarm_budget", "warn", "There are enough normal validation rows for the budget of false alarms."),
    Rule("monitor_metric", "warn", "The monitored metric suits the threshold method, or is changed."),
)
"""Every rule that readiness and input know, in the order in which they are applied."""


class Drop(NamedTuple):
    """Rows that a rule sets aside: the reason of each, by the table's index, and the finding about all of them."""

    reasons: pd.Series
    finding: Finding


def examples(rows: pd.DataFrame, **columns: pd.Series) -> tuple[dict[str, Any], ...]:
    """Return the first rows as JSON-ready dicts: row, image_path, label, and what is given beside."""
    shown = rows[[name for name in ("row", "image_path", "label") if name in rows.columns]].head(MAX_EXAMPLES)
    for name, values in columns.items():
        shown = shown.assign(**{name: values.reindex(shown.index)})
    shown = shown.astype(object).where(shown.notna(), None)  # type: ignore[call-overload]
    return tuple({str(key): value for key, value in record.items()} for record in shown.to_dict("records"))


def plural(count: int, one: str, many: str = "") -> str:
    """Write a count with its word.

    >>> plural(1, "image"), plural(3, "image")
    ('1 image', '3 images')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def some(values: pd.Series | list[str], most: int = 5) -> str:
    """Name the first few of many.

    >>> some(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    names = [f"'{value}'" for value in values]
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
