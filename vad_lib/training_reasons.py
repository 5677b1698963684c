"""Whether a line is to be trained by itself: what the plan asks for, and what has happened since the last training.

Nothing here looks anything up. Whether there is anything new to learn from is a question of its own, which costs more
(``training_inputs.digest_of_inputs``): it is asked only where a training is wanted and nothing speaks against it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vad_lib.plan import OperationArguments

HOURS_AFTER_FAILURE = 1.0
"""Least time from the start of a training that failed to the next try, whatever the plan says."""


@dataclass(frozen=True)
class SinceTraining:
    """What has happened on a line since its last training.

    Attributes:
        hours: since the last training began, successful or not; None where there was none.
        in_progress: a training is queued or running.
        failed: the last training did not succeed.
        new_labels: images on which people said something since the last training that made a version.
        champion: label of the version that serves; empty where none does.
        judged: predictions of the champion whose image has a label.
        agree: those of them that say what the label says.
        drifted: charts of drift whose alarm stands and that a training may answer.
    """

    hours: float | None = None
    in_progress: bool = False
    failed: bool = False
    new_labels: int = 0
    champion: str = ""
    judged: int = 0
    agree: int = 0
    drifted: tuple[str, ...] = ()


def trains_by_itself(asked: OperationArguments) -> bool:
    """Whether the plan wants any training that no person starts."""
    return bool(
        asked.train_after_labels or asked.train_when_agreement_below or asked.train_on_drift or asked.train_every_hours
    )


def reasons_to_train(asked: OperationArguments, since: SinceTraining) -> tuple[str, ...]:
    """Return in words why the plan wants a training now; empty where it wants none.

    >>> reasons_to_train(OperationArguments(train_after_labels=20), SinceTraining(hours=9, new_labels=23))
    ('people judged 23 images since the last training (20 are enough)',)
    """
    reasons = []
    if 0 < asked.train_after_labels <= since.new_labels:
        reasons.append(
            f"people judged {since.new_labels} images since the last training ({asked.train_after_labels} are enough)"
        )
    if since.judged >= asked.train_agreement_images and since.agree / since.judged < asked.train_when_agreement_below:
        reasons.append(
            f"people agree with {since.agree} of {since.judged} predictions of {since.champion}, which is less than "
            f"{asked.train_when_agreement_below:.0%}"
        )
    if asked.train_on_drift and since.drifted:
        reasons.append(f"drift of {', '.join(since.drifted)} since {since.champion} was trained")
    if asked.train_every_hours and (since.hours is None or since.hours >= asked.train_every_hours):
        last = "there was no training yet" if since.hours is None else f"the last one began {since.hours:.1f} h ago"
        reasons.append(f"a training is due every {asked.train_every_hours:g} h, and {last}")
    return tuple(reasons)


def reason_to_wait(asked: OperationArguments, since: SinceTraining) -> str:
    """Return in words why no training may start now; empty where one may.

    >>> reason_to_wait(OperationArguments(), SinceTraining(hours=1))
    'the last training began 1.0 h ago, and 6 h have to pass'
    """
    if since.in_progress:
        return "a training is queued or running"
    pause = max(asked.retrain_interval_hours, HOURS_AFTER_FAILURE if since.failed else 0.0)
    if since.hours is not None and since.hours < pause:
        return f"the last training began {since.hours:.1f} h ago, and {pause:g} h have to pass"
    return ""
