"""Which rows fit the model and which are held back.

Normal rows are split, all anomalous rows are validation: a one-class model fits on normal images only. The split that
is made here follows the content of the images, not their order or names: each image is ranked by the SHA-256 of the
seed and its own checksum. So the same images and seed give the same split wherever the rows stand, equal bytes never
come apart, and a set that grows keeps most of its split, which keeps models comparable.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pandas as pd

from vad_lib.findings import Finding
from vad_lib.images.duplicates import MOST_COMPARED, near_between
from vad_lib.readiness.rules import Drop, examples, plural, some


def split_by_rate(table: pd.DataFrame, rate: float, seed: int) -> pd.Series:
    """Return 'train' or 'valid' for each row.

    Args:
        table: With is_anomalous and sha256.
        rate: Share of the normal rows for valid, 0 < rate < 1; rounded half up, at least one row, and never all
            distinct images.
        seed: The argument experiment_seed.
    """
    split = pd.Series("valid", index=table.index, dtype=object)
    normal = table[~table["is_anomalous"].astype(bool)]
    wanted = max(1, math.floor(len(normal) * rate + 0.5))
    copies = normal["sha256"].value_counts()
    ranked = sorted(copies.index, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())
    held_back: set[str] = set()
    rows = 0
    for sha256 in ranked[:-1]:
        if rows >= wanted:
            break
        held_back.add(sha256)
        rows += int(copies[sha256])
    split[normal.index[~normal["sha256"].isin(held_back)]] = "train"
    return split


def split_by_column(table: pd.DataFrame) -> pd.Series:
    """Return 'train', 'valid' or 'excluded' for each row, from given_split; letter case does not count.

    Whatever is not 'train' is 'valid'. Anomalous rows marked train are 'excluded'.
    """
    train = table["given_split"].map(lambda value: isinstance(value, str) and value.lower() == "train").astype(bool)
    split = pd.Series("valid", index=table.index, dtype=object)
    split[train] = "train"
    split[train & table["is_anomalous"].astype(bool)] = "excluded"
    return split


def other_split_values(table: pd.DataFrame, column: str) -> Finding | None:
    """Split values other than train and valid count as valid."""
    values = table["given_split"].fillna("(empty)")
    other = values[~values.str.lower().isin(["train", "valid"])]
    if other.empty:
        return None
    counts = ", ".join(f"'{value}' ({count})" for value, count in other.value_counts().head(10).items())
    return Finding(
        rule="other_split_values",
        severity="warn",
        message=f"Column '{column}' has values other than train and valid: {counts}. These rows are used as valid.",
        advice="Write train or valid.",
        count=len(other),
        examples=examples(table.loc[other.index], value=other),
    )


def anomalous_train_rows(table: pd.DataFrame) -> Finding | None:
    """Anomalous rows marked train are never used to fit."""
    found = table[table["split"] == "excluded"]
    if found.empty:
        return None
    return Finding(
        rule="anomalous_train_rows",
        severity="warn",
        message=f"Marked train, and used neither to fit nor to validate: {plural(len(found), 'anomalous row')}, "
        f"{some(list(found['image_path']))}.",
        advice="Mark them valid: they then help to find the threshold.",
        count=len(found),
        examples=examples(found),
    )


def train_valid_leak(table: pd.DataFrame) -> Drop | None:
    """No image is in both train and valid, byte for byte: scores of images that were learnt say nothing."""
    train = table.loc[table["split"] == "train"].drop_duplicates("sha256").set_index("sha256")["row"]
    found = table[(table["split"] == "valid") & table["sha256"].isin(train.index)]
    if found.empty:
        return None
    reasons = (
        found["sha256"].map(lambda sha256: f"the same bytes as row {train[sha256]}, which is in train").astype(object)
    )
    return Drop(
        reasons,
        Finding(
            rule="train_valid_leak",
            severity="error",
            message=f"In train as well, byte for byte, and left out of valid: "
            f"{plural(len(found), 'validation image')}, {some(list(found['image_path']))}.",
            advice="Keep each image on one side.",
            count=len(found),
            examples=examples(found, reason=reasons),
        ),
    )


def labels_beside_look_alikes(table: pd.DataFrame) -> tuple[pd.Series, Finding | None]:
    """Bring normal images that people labelled to the side of the split on which images are that look the same.

    A part that came twice before the camera would else be learnt and validated on. Rows of the user's table stay where
    they are: a labelled image goes to the nearest of them, and labelled images that are only like each other go where
    the first of them is.

    Args:
        table: With said, is_anomalous, split and the facts of the images.

    Returns:
        The splits, and what was moved.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    split = table["split"].copy()
    normal = table[~table["is_anomalous"].astype(bool)].sort_values("said", na_position="first", kind="stable")
    labelled = normal[normal["said"].notna()]
    parts = [labelled[start : start + MOST_COMPARED] for start in range(0, len(labelled), MOST_COMPARED)]
    near = pd.concat([near_between(part, normal)["near_to"] for part in parts]) if parts else pd.Series(dtype="int64")
    if near.empty:
        return split, None
    places = normal.index.get_indexer(near.index), normal.index.get_indexer(pd.Index(near))
    links = coo_array((np.ones(len(near)), places), shape=(len(normal), len(normal)))
    group = connected_components(links, directed=False)[1]
    # Each labelled image has one link, so no group holds two rows of the table; they stand first.
    split[normal.index] = normal["split"].groupby(group).transform("first")
    moved = table.loc[split.index[split != table["split"]]]
    if moved.empty:
        return split, None
    return split, Finding(
        rule="labels_beside_look_alikes",
        severity="info",
        message=f"Brought to the side of the split on which images are that look the same: {len(moved)} of "
        f"{plural(len(labelled), 'normal image')} that people labelled.",
        count=len(moved),
        examples=examples(moved, split=split, looks_like=near.map(table["image_path"])),
    )


def near_duplicates_across_split(table: pd.DataFrame) -> Finding | None:
    """Few images in valid look the same as one in train (table with phash)."""
    valid = table[table["split"] == "valid"]
    near = near_between(valid, table[table["split"] == "train"])
    if near.empty:
        return None
    found = valid.loc[near.index]
    return Finding(
        rule="near_duplicates_across_split",
        severity="warn",
        message=f"To the eye the same as a training image: {len(found)} of {plural(len(valid), 'validation image')}, "
        f"such as {some(list(found['image_path']))}.",
        advice="Pictures of one part taken twice make a model look better than it is: keep them on one side.",
        count=len(found),
        examples=examples(found, looks_like=near["near_to"].map(table["image_path"])),
    )


def normal_rows_to_split(table: pd.DataFrame, split_column: str, *, fits: bool = True) -> Finding | None:
    """At least one normal row in valid, and one in train where the detector ``fits`` to images."""
    normal = table[~table["is_anomalous"].astype(bool)]
    train, valid = int((normal["split"] == "train").sum()), int((normal["split"] == "valid").sum())
    if valid and (train or not fits):
        return None
    advice = "Add normal images: at least two different ones are needed, and 100 or more are advised."
    if split_column and len(normal) > 1:
        advice = f"Change column '{split_column}', or leave train_validate_column empty to have the split made."
    return Finding(
        rule="normal_rows_to_split",
        severity="error",
        message=f"{plural(train, 'normal row')} to train with and {valid} to validate with: each needs at least 1.",
        advice=advice,
        blocking=True,
        count=len(normal),
    )
