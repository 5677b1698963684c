"""The rule by which a new model may take the place of the serving one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vad_lib.promotion import decide_promotion


@dataclass
class Performance:
    image_auroc: float | None
    f1: float | None
    accuracy: float | None = 0.9


def test_the_first_version_serves_at_once_even_without_automatic_promotion() -> None:
    decision = decide_promotion(Performance(0.6, 0.5), None, automatic=False)
    assert decision.promote
    assert decision.rule == "first_version"


def test_a_later_version_waits_for_a_person_by_default() -> None:
    decision = decide_promotion(Performance(0.99, 0.95), Performance(0.9, 0.9), automatic=False)
    assert not decision.promote
    assert decision.rule == "person_decides"
    assert "automatic_promotion" in decision.reason


@pytest.mark.parametrize(
    ("auroc", "f1", "promoted"),
    [
        (0.95, 0.90, True),  # equal is not worse
        (0.96, 0.91, True),
        (0.94, 0.99, False),  # a better F1 does not buy a worse AUROC
        (0.99, 0.89, False),
    ],
)
def test_with_automatic_promotion_it_serves_if_neither_number_is_lower(auroc: float, f1: float, promoted: bool) -> None:
    decision = decide_promotion(Performance(auroc, f1), Performance(0.95, 0.90), automatic=True)
    assert decision.promote is promoted
    assert "0.9500" in decision.reason


def test_with_normal_rows_only_the_share_called_ok_counts() -> None:
    champion = Performance(None, None, accuracy=0.8)
    assert decide_promotion(Performance(None, None, accuracy=0.8), champion, automatic=True).promote
    assert not decide_promotion(Performance(None, None, accuracy=0.7), champion, automatic=True).promote


def test_a_champion_that_cannot_be_measured_is_not_replaced_by_a_rule() -> None:
    decision = decide_promotion(Performance(1.0, 1.0), None, automatic=True, unmeasured="its folder is gone")
    assert not decision.promote
    assert decision.reason == "its folder is gone"


@pytest.mark.parametrize("automatic", [True, False])
def test_what_a_person_chose_stays_until_the_choice_is_lifted(automatic: bool) -> None:
    decision = decide_promotion(Performance(1.0, 1.0), Performance(0.5, 0.5), automatic=automatic, chosen_by="Kim")
    assert not decision.promote
    assert decision.rule == "chosen_by_person"
    assert "chosen by Kim" in decision.reason
    assert "vad model unpin" in decision.reason


def test_a_first_version_that_learnt_from_next_to_nothing_waits_for_a_person() -> None:
    decision = decide_promotion(Performance(1.0, 1.0), None, automatic=True, doubts=["It learnt from 4 images."])
    assert not decision.promote
    assert decision.reason.startswith("It waits for a person. It learnt from 4 images.")
    assert "vad model promote" in decision.reason


@pytest.mark.parametrize("automatic", [True, False])
def test_a_first_version_that_was_not_measured_serves_where_the_plan_promotes_by_itself(automatic: bool) -> None:
    nothing = Performance(None, None, accuracy=None)
    decision = decide_promotion(nothing, None, automatic=automatic, doubts=["Too few."])
    assert decision.promote is automatic
    assert ("Nothing is known about its misses" in decision.reason) is automatic


def test_a_later_version_that_was_not_measured_waits_for_a_person() -> None:
    nothing = Performance(None, None, accuracy=None)
    decision = decide_promotion(nothing, nothing, automatic=True, line="sand")
    assert (decision.promote, decision.rule) == (False, "person_decides")
    assert "`vad model promote sand`" in decision.reason
