"""Rules on what was measured on the images: sizes, channels, copies, names.

The tables here are the working table joined with the facts of ``images.checking.check_images``.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pandas as pd

from vad_lib.findings import Finding
from vad_lib.images.duplicates import exact_duplicates as find_exact
from vad_lib.images.duplicates import near_duplicates as find_near
from vad_lib.readiness.rules import Drop, examples, plural, some

NORMAL_IMAGES = (100, 50_000)
SIDES = (32, 1920)
RECOMMENDED_SIDES = (224, 1024)
LEAST_TO_COMPARE, TELLING_SHARE = 3, 0.9
"""Images of each side from which on their files are compared, and the share of both sides that a property tells."""
_MODES = {"L": "8-bit grey", "RGB": "8-bit colour", "I;16": "16-bit grey", "I": "16-bit grey"}


def unreadable_image(table: pd.DataFrame) -> Drop | None:
    """Images that cannot be decoded are dropped, each with its reason."""
    found = table[~table["readable"].astype(bool)]
    if found.empty:
        return None
    listed = "; ".join(f"{path}: {reason}" for path, reason in zip(found["image_path"], found["reason"], strict=True))
    return Drop(
        found["reason"],
        Finding(
            rule="unreadable_image",
            severity="warn",
            message=f"Left out because it cannot be read: {plural(len(found), 'image')}. {listed[:300]}"
            + (" …" if len(listed) > 300 else "."),
            advice="Save these images again, or remove their rows.",
            count=len(found),
            examples=examples(found, reason=found["reason"]),
        ),
    )


def normal_image_count(normal: int, allow_small_dataset: bool) -> Finding | None:
    """100 to 50,000 normal images.

    Args:
        normal: Usable normal images, train and valid together.
        allow_small_dataset: Accept fewer, on record: the finding then only warns.
    """
    least, most = NORMAL_IMAGES
    if least <= normal <= most:
        return None
    few = normal < least
    accepted = few and allow_small_dataset
    return Finding(
        rule="normal_image_count",
        severity="warn" if accepted else "error",
        message=f"{plural(normal, 'normal image')}; the requirement is {least} to {most}."
        + (" Accepted by allow_small_dataset: true." if accepted else ""),
        advice="Collect more normal images." if few else "Choose the images that differ most.",
        count=normal,
    )


def channels(table: pd.DataFrame) -> Finding | None:
    """All images have the same number of channels; grey images among colour ones are repeated to 3 channels."""
    counts = table["channels"].value_counts()
    if len(counts) < 2:
        return None
    rarer = table[table["channels"] == counts.index[-1]]
    return Finding(
        rule="channels",
        severity="error",
        message=f"{counts.get(3, 0)} images have 3 channels and {counts.get(1, 0)} have 1, such as "
        f"{some(list(rarer['image_path']), 3)}. All are used; grey is repeated to 3 channels.",
        advice="Take all images with the same camera setting.",
        count=len(rarer),
        examples=examples(rarer, channels=rarer["channels"].astype(int)),
    )


def resolution(table: pd.DataFrame) -> Finding | None:
    """Every image has 32 x 32 to 1920 x 1920 pixels."""
    return _outside(table, SIDES, "resolution", "error", "as required")


def recommended_resolution(table: pd.DataFrame) -> Finding | None:
    """Every image has 224 x 224 to 1024 x 1024 pixels."""
    return _outside(table, RECOMMENDED_SIDES, "recommended_resolution", "warn", "for which performance is verified")


def _outside(table: pd.DataFrame, sides: tuple[int, int], rule: str, severity: str, wording: str) -> Finding | None:
    least, most = sides
    small = table[["width", "height"]].min(axis=1) < least
    large = table[["width", "height"]].max(axis=1) > most
    found = table[small | large]
    if found.empty:
        return None
    sizes = _sizes(found)
    return Finding.model_validate(
        {
            "rule": rule,
            "severity": severity,
            "message": f"Not within {least} x {least} to {most} x {most} pixels, {wording}, are {len(found)} of "
            f"{plural(len(table), 'image')}: {_size_list(sizes)}.",
            "advice": "Take larger pictures." if small.any() else "Take smaller pictures, or resize them.",
            "count": len(found),
            "examples": examples(found, size=sizes),
        }
    )


def mixed_sizes(table: pd.DataFrame) -> Finding | None:
    """All images have one size."""
    sizes = _sizes(table)
    counts = sizes.value_counts()
    if len(counts) < 2:
        return None
    other = table[sizes != counts.index[0]]
    return Finding(
        rule="mixed_sizes",
        severity="warn",
        message=f"The images have {len(counts)} sizes (width x height): {_size_list(sizes)}.",
        advice="Performance may suffer: crop or resize the images to one size.",
        count=len(other),
        examples=examples(other, size=sizes),
    )


def format_tells_label(table: pd.DataFrame) -> Finding | None:
    """Format, depth and size of the files do not tell normal images from anomalous: a model would learn them.

    Args:
        table: With is_anomalous known in all rows.
    """
    is_anomalous = table["is_anomalous"].astype(bool)
    if min(is_anomalous.sum(), (~is_anomalous).sum()) < LEAST_TO_COMPARE:
        return None
    formats = table["image_path"].map(
        lambda path: PurePosixPath(path.strip()).suffix[1:].upper().replace("JPEG", "JPG")
    )
    depths = pd.Series(map(_depth, table["mode"], table["notices"]), index=table.index)
    told = []
    for values in (formats, depths, _sizes(table)):
        normal, anomalous = values[~is_anomalous], values[is_anomalous]
        usual, other = normal.mode()[0], anomalous.mode()[0]
        has, has_too = float((normal == usual).mean()), float((anomalous == usual).mean())
        if min(has, 1 - has_too) >= TELLING_SHARE:
            told.append(f"{usual} are {has:.0%} of the normal images and {has_too:.0%} of the anomalous ({other})")
    if not told:
        return None
    return Finding(
        rule="format_tells_label",
        severity="warn",
        message=f"The files themselves tell normal from anomalous: {'; '.join(told)}.",
        advice="A model may learn how a file was stored instead of the defect, and its figures would be too good: "
        "take and store all images the same way.",
        count=int(table["is_anomalous"].sum()),
    )


def _depth(mode: str, notices: str) -> str:
    """Return how pixels are stored and what is done about it, such as '16-bit grey: values of 12 bits'."""
    stored, converted = _MODES.get(mode, mode), "; ".join(json.loads(notices))
    return converted if converted.startswith(stored) else f"{stored}; {converted}".removesuffix("; ")


def _sizes(table: pd.DataFrame) -> pd.Series:
    return table["width"].astype(str) + " x " + table["height"].astype(str)


def _size_list(sizes: pd.Series) -> str:
    counts = sizes.value_counts()
    text = ", ".join(f"{size} ({count})" for size, count in counts.head(5).items())
    return text if len(counts) <= 5 else f"{text} and {len(counts) - 5} other sizes"


def converted_images(table: pd.DataFrame) -> Finding | None:
    """Images stored other than as 8-bit grey or RGB are converted in a defined way (see ``images.decoding``)."""
    noticed = table[table["notices"] != "[]"]
    if noticed.empty:
        return None
    notices = noticed["notices"].map(json.loads)
    counts = notices.explode().value_counts()
    listed = "; ".join(f"{notice} ({count})" for notice, count in counts.head(8).items())
    return Finding(
        rule="converted_images",
        severity="warn",
        message=f"Converted when read: {plural(len(noticed), 'image')}. {listed}.",
        advice="New images must be stored the same way.",
        count=len(noticed),
        examples=examples(noticed, notices=notices.map("; ".join)),
    )


def unique_names(table: pd.DataFrame) -> Finding | None:
    """No two images share a name, in whatever folder or format; letter case does not count."""
    names = table["image_path"].map(lambda path: PurePosixPath(path.strip().replace("\\", "/")).stem.casefold())
    found = table[names.duplicated(keep=False)]
    if found.empty:
        return None
    same = found.loc[names[found.index] == names[found.index[0]], "image_path"]
    return Finding(
        rule="unique_names",
        severity="warn",
        message=f"Names used by several images: {names[found.index].nunique()} ({len(found)} images), such as "
        f"{some(list(same), 3)}.",
        advice="Results keep them apart by numbers in the file names; unique names are easier to follow.",
        count=len(found),
        examples=examples(found),
    )


def exact_duplicates(table: pd.DataFrame) -> Finding | None:
    """Images that are there several times, byte for byte, are counted and used."""
    found = find_exact(table)
    copies = found[found.index != found["copy_of"]]
    if copies.empty:
        return None
    original = copies["copy_of"].map(table["image_path"])
    return Finding(
        rule="exact_duplicates",
        severity="warn",
        message=f"Byte-for-byte copies of other images: {len(copies)}, such as '{copies['image_path'].iloc[0]}' of "
        f"'{original.iloc[0]}'. They are used, but add nothing.",
        advice="Remove the copies.",
        count=len(copies),
        examples=examples(copies, copy_of=original),
    )


def near_duplicates(table: pd.DataFrame) -> Finding | None:
    """Images that look the same as another are counted; good parts in front of one camera often do."""
    near = find_near(table)
    if near.empty:
        return None
    found = table.loc[near.index]
    return Finding(
        rule="near_duplicates",
        severity="info",
        message=f"To the eye the same as another one: {len(found)} of {plural(len(table), 'image')}.",
        advice="If one part was photographed several times, fewer different parts were seen than there are images.",
        count=len(found),
        examples=examples(found, looks_like=near["near_to"].map(table["image_path"])),
    )
