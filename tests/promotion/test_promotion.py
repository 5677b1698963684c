"""The rule by which a new model may take the place of the serving one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vad_lib.paired_tests import mcnemar, wilson
from vad_lib.plan import Promotion
from vad_lib.promotion import PromotionDecision, decide_promotion, reason_to_take_back


@dataclass
class Performance:
    image_auroc: float | None
    f1: float | None
    accuracy: float | None = 0.9


def test_the_first_version_serves_at_once_whatever_the_plan_says() -> None:
    decision = decide_promotion(Performance(0.6, 0.5), None, promotion="by_person")
    assert decision.promote
    assert decision.rule == "first_version"


def test_a_later_version_waits_for_a_person_by_default() -> None:
    decision = decide_promotion(Performance(0.99, 0.95), Performance(0.9, 0.9), promotion="by_person")
    assert not decision.promote
    assert decision.rule == "person_decides"
    assert "The plan leaves promotion to a person: `vad model promote LINE`" in decision.reason


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
    decision = decide_promotion(Performance(auroc, f1), Performance(0.95, 0.90), promotion="automatic")
    assert decision.promote is promoted
    assert "0.9500" in decision.reason


def test_with_normal_rows_only_the_share_called_ok_counts() -> None:
    champion = Performance(None, None, accuracy=0.8)
    assert decide_promotion(Performance(None, None, accuracy=0.8), champion, promotion="automatic").promote
    assert not decide_promotion(Performance(None, None, accuracy=0.7), champion, promotion="automatic").promote


def test_a_champion_that_cannot_be_measured_is_not_replaced_by_a_rule() -> None:
    decision = decide_promotion(Performance(1.0, 1.0), None, promotion="automatic", unmeasured="its folder is gone")
    assert not decision.promote
    assert decision.reason == "its folder is gone"


@pytest.mark.parametrize("promotion", ["automatic", "by_person", "never"])
def test_what_a_person_chose_stays_until_the_choice_is_lifted(promotion: Promotion) -> None:
    decision = decide_promotion(Performance(1.0, 1.0), Performance(0.5, 0.5), promotion=promotion, chosen_by="Kim")
    assert not decision.promote
    assert decision.rule == "chosen_by_person"
    assert "chosen by Kim" in decision.reason
    assert "vad model unpin" in decision.reason


def test_a_first_version_that_learnt_from_next_to_nothing_waits_for_a_person() -> None:
    decision = decide_promotion(Performance(1.0, 1.0), None, promotion="automatic", doubts=["It learnt from 4 images."])
    assert not decision.promote
    assert decision.reason.startswith("It waits for a person. It learnt from 4 images.")
    assert "vad model promote" in decision.reason


@pytest.mark.parametrize(("promotion", "automatic"), [("automatic", True), ("by_person", False)])
def test_a_first_version_that_was_not_measured_serves_where_the_plan_promotes_by_itself(
    promotion: Promotion, automatic: bool
) -> None:
    nothing = Performance(None, None, accuracy=None)
    decision = decide_promotion(nothing, None, promotion=promotion, doubts=["Too few."])
    assert decision.promote is automatic
    assert ("Nothing is known about its misses" in decision.reason) is automatic


def test_a_later_version_that_was_not_measured_waits_for_a_person() -> None:
    nothing = Performance(None, None, accuracy=None)
    decision = decide_promotion(nothing, nothing, promotion="automatic", line="sand")
    assert (decision.promote, decision.rule) == (False, "person_decides")
    assert "`vad model promote sand`" in decision.reason


@dataclass
class Judged:
    """Live images that people judged: both right on the rest."""

    images: int
    only_champion_right: int = 0
    only_challenger_right: int = 0

    @property
    def p(self) -> float:
        return mcnemar(self.only_champion_right, self.only_challenger_right)

    def in_words(self) -> str:
        return f"{self.images} were judged."


def gated(judged: Judged | None, promotion: Promotion = "automatic", least: int = 20) -> PromotionDecision:
    """Decide about a challenger that is as good as the champion on the validation rows."""
    same = Performance(0.9, 0.9)
    return decide_promotion(same, same, promotion=promotion, judged=judged, least_judged=least, beside="And so on.")


def test_never_promotes_only_the_first_version() -> None:
    assert decide_promotion(Performance(0.6, 0.5), None, promotion="never").promote
    decision = gated(Judged(100, 0, 50), "never")
    assert (decision.promote, decision.rule, decision.state) == (False, "never", "refused")


@pytest.mark.spec("L4.03")
@pytest.mark.parametrize(
    ("judged", "rule", "state"),
    [
        (None, "more_to_judge", "waiting"),
        (Judged(19), "more_to_judge", "waiting"),
        (Judged(20), "not_worse", "promoted"),
        (Judged(20, 1, 3), "not_worse", "promoted"),
        (Judged(20, 3, 1), "more_to_judge", "waiting"),  # may be chance
        (Judged(20, 9, 1), "worse_on_live_images", "refused"),
        (Judged(12, 8, 0), "worse_on_live_images", "refused"),  # few are enough where it is that clear
    ],
)
def test_before_it_promotes_by_itself_the_gate_asks_what_people_said_about_live_images(
    judged: Judged | None, rule: str, state: str
) -> None:
    decision = gated(judged)
    assert (decision.rule, decision.state) == (rule, state)
    assert decision.reason.endswith("And so on.")
    assert judged is None or f"{judged.images} were judged." in decision.reason


def test_a_plan_may_do_without_judged_images_and_a_person_sees_them_all_the_same() -> None:
    assert gated(None, least=0).promote
    assert gated(Judged(5, 2, 1), least=0).promote
    assert gated(Judged(50, 9, 1), least=0).rule == "worse_on_live_images"
    waiting = gated(Judged(50, 0, 9), "by_person")
    assert (waiting.rule, waiting.state) == ("person_decides", "waiting")
    assert "50 were judged." in waiting.reason


def test_what_a_rule_took_back_no_rule_promotes_again() -> None:
    better = Performance(1.0, 1.0)
    taken = {"taken_back": "People said no.", "line": "caps"}
    decision = decide_promotion(better, Performance(0.5, 0.5), promotion="automatic", **taken)  # type: ignore[arg-type]
    assert (decision.rule, decision.state) == ("taken_back", "refused")
    assert "People said no. Only a person lets it serve again: `vad model promote caps`." in decision.reason


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0, 1))
def test_a_version_is_taken_back_only_where_chance_does_not_explain_how_little_people_agree(
    agree: int, others: int, limit: float
) -> None:
    of = agree + others
    told = reason_to_take_back(agree, of, limit)
    assert bool(told) == (of > 0 and limit > 0 and wilson(agree, of)[1] < limit)
    assert not told or f"{agree} of {of} images" in told


def test_nobody_goes_back_to_a_version_that_is_right_on_fewer_of_the_same_images() -> None:
    assert reason_to_take_back(10, 40, 0.8, judged=Judged(40, 3, 2))
    assert reason_to_take_back(10, 40, 0.8, judged=Judged(0))
    assert not reason_to_take_back(10, 40, 0.8, judged=Judged(40, 2, 3))
