"""Whether the surroundings of the camera stay the same: focus, brightness, contrast.

A value is compared with the median of the normal images in units of their robust standard deviation (1.4826 x the
median absolute deviation), as a mean and a plain deviation would be moved by the very outliers that are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from vad_lib.findings import Finding
from vad_lib.readiness.rules import examples, plural

OUTLIER_DEVIATIONS = 5.0
"""Robust standard deviations from the median above which one image is an outlier. Iglewicz and Hoaglin (1993) take 3.5;
5 is kinder to the skewed distributions of real lines."""

SHIFT_DEVIATIONS = 3.0
"""Robust standard deviations that the median of a batch may lie from the training images' median."""

LEAST_DEVIATION = 0.01
"""Of brightness and contrast, both in 0..1: a set without any spread still tolerates 5 % in single images."""

LEAST_LOG_DEVIATION = 0.14
"""Of the logarithm of sharpness: single images of half the usual sharpness are always tolerated."""

LEAST_IMAGES = 10
"""Fewer images have no distribution worth speaking of."""

MEASURES = ("brightness", "contrast", "sharpness")


@dataclass(frozen=True)
class Spread:
    """Median and robust standard deviation of one measure; sharpness by its logarithm."""

    median: float
    deviation: float

    def deviations(self, values: pd.Series) -> pd.Series:
        """Return how many deviations the values lie above (+) or below (-) the median."""
        return (values - self.median) / self.deviation


def measure_spread(facts: pd.DataFrame, measure: str) -> Spread:
    """Return the spread of a measure over a table of ``check_images`` facts."""
    values = scaled(facts, measure).dropna()
    median = float(values.median())
    least = LEAST_LOG_DEVIATION if measure == "sharpness" else LEAST_DEVIATION
    return Spread(median, max(1.4826 * float((values - median).abs().median()), least))


def scaled(facts: pd.DataFrame, measure: str) -> pd.Series:
    """Return a measure on the scale on which it is compared."""
    values = facts[measure].astype(float)
    return pd.Series(np.log(values + 1e-3), index=facts.index) if measure == "sharpness" else values


def focus(normal: pd.DataFrame) -> Finding | None:
    """No normal image is much less sharp than the others."""
    if len(normal) < LEAST_IMAGES:
        return None
    deviations = measure_spread(normal, "sharpness").deviations(scaled(normal, "sharpness"))
    found = normal[deviations < -OUTLIER_DEVIATIONS].sort_values("sharpness")
    if found.empty:
        return None
    return Finding(
        rule="focus",
        severity="warn",
        message=f"Much less sharp than the others: {len(found)} of {plural(len(normal), 'normal image')}, above all "
        f"'{found['image_path'].iloc[0]}' (sharpness {found['sharpness'].iloc[0]:.3g}, "
        f"usual {normal['sharpness'].median():.3g}).",
        advice="Look at them: blurred images teach the model to accept blur.",
        count=len(found),
        examples=examples(found, sharpness=found["sharpness"].round(2)),
    )


def environment(normal: pd.DataFrame) -> Finding | None:
    """Brightness and contrast of the normal images are stable."""
    if len(normal) < LEAST_IMAGES:
        return None
    deviations = pd.DataFrame(
        {name: measure_spread(normal, name).deviations(normal[name]).abs() for name in ("brightness", "contrast")}
    )
    worst = deviations.max(axis=1).sort_values(ascending=False, kind="stable")
    found = normal.loc[worst.index[worst > OUTLIER_DEVIATIONS]]
    if found.empty:
        return None
    first = found.iloc[0]
    return Finding(
        rule="environment",
        severity="warn",
        message=f"Brightness or contrast far from the others: {len(found)} of {plural(len(normal), 'normal image')}, "
        f"above all '{first['image_path']}': "
        + ", ".join(
            f"{name} {first[name]:.2f} (usual {normal[name].median():.2f})" for name in ("brightness", "contrast")
        )
        + ".",
        advice="Keep light and exposure constant, and remove pictures that failed.",
        count=len(found),
        examples=examples(found, brightness=found["brightness"].round(3), contrast=found["contrast"].round(3)),
    )


def compare_environment(train_facts: pd.DataFrame, new_facts: pd.DataFrame) -> tuple[Finding, ...]:
    """Say where new images differ from the training images in brightness, contrast, sharpness, size or channels.

    Args:
        train_facts: ``check_images`` facts of the normal training images.
        new_facts: The same of the new images; unreadable ones are passed over. Where it has the columns row and
            image_path they name the examples.

    Returns:
        Findings of the rule 'environment_changed', at most one a measure; none where either side has no readable
        image. A measure has changed if the batch's median lies more than 3 robust deviations of the training images
        from theirs, or more than a tenth of the images (and at least one) more than 5.
    """
    train, new = (facts[facts["readable"].astype(bool)] for facts in (train_facts, new_facts))
    if train.empty or new.empty:
        return ()
    if "image_path" not in new.columns:
        new = new.assign(image_path=new["file"])
    findings = [_changed_measure(train, new, name) for name in MEASURES if len(train) >= LEAST_IMAGES]
    findings += [
        _changed_kind(train, new, ["width", "height"], "sizes"),
        _changed_kind(train, new, ["channels"], "channels"),
    ]
    return tuple(finding for finding in findings if finding)


def _changed_measure(train: pd.DataFrame, new: pd.DataFrame, measure: str) -> Finding | None:
    spread = measure_spread(train, measure)
    deviations = spread.deviations(scaled(new, measure)).dropna()
    if deviations.empty:
        return None
    shift = float(deviations.median())
    outliers = deviations.abs().sort_values(ascending=False, kind="stable")
    outliers = outliers[outliers > OUTLIER_DEVIATIONS]
    if abs(shift) <= SHIFT_DEVIATIONS and len(outliers) <= 0.1 * len(new):
        return None
    found = new.loc[outliers.index]
    return Finding(
        rule="environment_changed",
        severity="warn",
        message=f"The {measure} of {plural(len(new), 'new image')} differs from that of the training images: median "
        f"{new[measure].median():.3g} against {train[measure].median():.3g}, {abs(shift):.1f} of their deviations "
        f"{'lower' if shift < 0 else 'higher'}; {len(outliers)} of the new images are far outside.",
        advice="Check light, focus and the camera's settings; if the change is meant to stay, train again.",
        count=len(outliers),
        examples=examples(found, **{measure: found[measure].round(3)}),
    )


def _changed_kind(train: pd.DataFrame, new: pd.DataFrame, columns: list[str], word: str) -> Finding | None:
    known = pd.MultiIndex.from_frame(train[columns].drop_duplicates())
    found = new[~pd.MultiIndex.from_frame(new[columns]).isin(known)]
    # Where the training images have many sizes, another one is nothing new.
    if found.empty or (word == "sizes" and len(known) > 10):
        return None
    kinds = found[columns].astype(str).agg(" x ".join, axis=1)
    before = train[columns].astype(str).agg(" x ".join, axis=1)
    return Finding(
        rule="environment_changed",
        severity="warn",
        message=f"{plural(len(found), 'new image has', 'new images have')} {word} that no training image has: "
        f"{', '.join(kinds.unique()[:5])} (training: {', '.join(before.unique()[:5])}).",
        advice="Use the camera's settings that the training images were taken with.",
        count=len(found),
        examples=examples(found, **{word: kinds}),
    )
