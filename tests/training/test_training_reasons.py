"""When a line is trained by itself: what the plan asks for, and what has happened since."""

from __future__ import annotations

from typing import Any

import pytest

from vad_lib.plan import OperationArguments
from vad_lib.training_reasons import SinceTraining, reason_to_wait, reasons_to_train, trains_by_itself

MUCH = SinceTraining(
    hours=500, new_labels=500, champion="vad-a/3", judged=500, agree=0, drifted=("brightness", "raw_score")
)


@pytest.mark.spec("L3.01")
def test_no_line_is_trained_by_itself_unless_its_plan_says_so() -> None:
    assert reasons_to_train(OperationArguments(), MUCH) == ()
    assert not trains_by_itself(OperationArguments())


@pytest.mark.spec("L3.02")
@pytest.mark.parametrize(
    ("asked", "since", "told"),
    [
        ({"train_after_labels": 20}, {"new_labels": 20}, "people judged 20 images since the last training"),
        ({"train_after_labels": 20}, {"new_labels": 19}, ""),
        (
            {"train_when_agreement_below": 0.9},
            {"judged": 50, "agree": 44, "champion": "vad-a/3"},
            "people agree with 44 of 50 predictions of vad-a/3, which is less than 90%",
        ),
        ({"train_when_agreement_below": 0.9}, {"judged": 50, "agree": 45}, ""),
        ({"train_when_agreement_below": 0.9}, {"judged": 49, "agree": 0}, ""),  # too few to say anything
        ({"train_when_agreement_below": 0.9, "train_agreement_images": 10}, {"judged": 10, "agree": 8}, "8 of 10"),
        (
            {"train_on_drift": True},
            {"drifted": ("contrast",), "champion": "vad-a/3"},
            "drift of contrast since vad-a/3",
        ),
        ({"train_on_drift": True}, {"drifted": ()}, ""),
        ({"train_every_hours": 24}, {"hours": 24}, "due every 24 h, and the last one began 24.0 h ago"),
        ({"train_every_hours": 24}, {"hours": 23.9}, ""),
        ({"train_every_hours": 24}, {"hours": None}, "there was no training yet"),
    ],
)
def test_each_reason_counts_from_the_limit_in_the_plan_on(
    asked: dict[str, Any], since: dict[str, Any], told: str
) -> None:
    arguments = OperationArguments.model_validate(asked)
    assert trains_by_itself(arguments)
    found = reasons_to_train(arguments, SinceTraining(**{"hours": 9, **since}))
    assert [told in reason for reason in found] == [True] * bool(told)


@pytest.mark.spec("L3.02")
def test_several_reasons_are_told_together() -> None:
    asked = OperationArguments(
        train_after_labels=1, train_when_agreement_below=0.5, train_on_drift=True, train_every_hours=1
    )
    assert len(reasons_to_train(asked, MUCH)) == 4


@pytest.mark.spec("V9.06", "L3.03")
@pytest.mark.parametrize(
    ("since", "waits"),
    [
        ({"hours": None}, ""),
        ({"hours": 6}, ""),  # exactly the interval has passed
        ({"hours": 5.99}, "6 h have to pass"),
        ({"hours": None, "in_progress": True}, "queued or running"),
        ({"hours": 100, "in_progress": True}, "queued or running"),
    ],
)
def test_a_training_waits_for_the_interval_and_for_one_that_runs(since: dict[str, Any], waits: str) -> None:
    found = reason_to_wait(OperationArguments(), SinceTraining(**since))
    assert waits in found
    assert bool(waits) == bool(found)


@pytest.mark.spec("L3.03")
def test_a_training_that_fails_is_not_repeated_at_once_whatever_the_plan_says() -> None:
    asked = OperationArguments(retrain_interval_hours=0)
    assert not reason_to_wait(asked, SinceTraining(hours=0.1))
    assert "1 h have to pass" in reason_to_wait(asked, SinceTraining(hours=0.1, failed=True))
    assert not reason_to_wait(asked, SinceTraining(hours=1, failed=True))
