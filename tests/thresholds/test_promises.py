"""What a threshold promises is kept: budgets of false alarms by simulation, costs by trying every cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.test_learning import labelled_scores
from vad_lib.plan.arguments import ReadinessArguments, TrainArguments
from vad_lib.readiness.threshold_method import choose_threshold_method, too_few_for_budget
from vad_lib.thresholds import Costs, FalseAlarmBudget, LearningRule, learn_threshold
from vad_lib.thresholds.learning import next_above


def kept(budget: FalseAlarmBudget, n_normal: int, per_thousand: float, repeats: int = 4000) -> float:
    """Return how often so many false alarms at most remain, over validation sets of uniform scores."""
    rule = LearningRule(method="FalseAlarmRate", budget=budget)
    scores = np.random.default_rng(n_normal).random((repeats, n_normal), dtype=np.float32)
    normal = np.zeros(n_normal, dtype=bool)
    # of uniform scores, the share above a threshold is 1 - threshold
    alarms = np.array([1 - min(1.0, learn_threshold(some, normal, rule).value) for some in scores])
    return float((1000 * alarms <= per_thousand).mean())


@pytest.mark.parametrize(("per_thousand", "confidence", "n_normal"), [(50, 0.9, 45), (50, 0.9, 200), (100, 0.5, 150)])
def test_a_budget_of_false_alarms_is_kept_with_the_promised_confidence(
    per_thousand: float, confidence: float, n_normal: int
) -> None:
    budget = FalseAlarmBudget(per_thousand=per_thousand, confidence=confidence)
    assert n_normal >= budget.normals_needed
    # three standard errors of the simulation
    slack = 3 * (confidence * (1 - confidence) / 4000) ** 0.5
    assert kept(budget, n_normal, per_thousand) >= confidence - slack


def test_where_images_do_not_suffice_what_is_said_instead_is_kept_and_is_sharp() -> None:
    budget = FalseAlarmBudget(per_thousand=10, confidence=0.95)
    learnt = learn_threshold(np.arange(40), [False] * 40, LearningRule(method="FalseAlarmRate", budget=budget))
    assert learnt.value > 39
    assert "needs 299 normal validation images, and there are 40" in learnt.note
    assert "at most 72.2 of 1,000" in learnt.note
    # a quarter less than what is promised would not be kept
    assert kept(budget, 40, budget.promised(40)) >= 0.94
    assert kept(budget, 40, 0.75 * budget.promised(40)) < 0.94


@given(st.floats(0.5, 500), st.floats(0.5, 0.99), st.integers(1, 400))
def test_more_normal_images_never_promise_less_and_the_need_is_exact(rate: float, sure: float, n: int) -> None:
    budget = FalseAlarmBudget(per_thousand=rate, confidence=sure)
    assert budget.promised(n + 1) <= budget.promised(n)
    need = budget.normals_needed
    assert budget.promised(need) <= rate * (1 + 1e-9)
    assert need == 1 or budget.promised(need - 1) > rate * (1 - 1e-9)
    assert 1 <= budget.order_of_threshold(n) <= n


def test_anomalous_rows_and_ties_do_not_move_a_budget() -> None:
    rule = LearningRule(method="FalseAlarmRate", budget=FalseAlarmBudget(per_thousand=200, confidence=0.9))
    normal = np.repeat(np.arange(20.0), 3)
    alone = learn_threshold(normal, np.zeros(60, bool), rule)
    both = learn_threshold(np.append(normal, [5.0, 99.0]), np.append(np.zeros(60, bool), [True, True]), rule)
    assert alone.value == both.value
    assert (normal >= alone.value).mean() <= 0.2
    constant = learn_threshold([3.0] * 60, np.zeros(60, bool), rule)
    assert constant.value == next_above(3.0)


@given(labelled_scores(), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1e-4, 0.5))
def test_no_cut_costs_less_than_the_one_of_least_cost(
    rows: tuple[np.ndarray, np.ndarray], miss: float, alarm: float, share: float
) -> None:
    scores, flags = rows
    costs = Costs(miss=miss, false_alarm=alarm, share_of_defects=share)
    chosen = learn_threshold(scores, flags, LearningRule(method="Cost", costs=costs))

    def cost(threshold: float) -> float:
        ng = scores.astype(np.float32) >= threshold
        missed, alarms = int((flags & ~ng).sum()), int((~flags & ng).sum())
        rates = share * miss * missed / flags.sum(), (1 - share) * alarm * alarms / (~flags).sum()
        return float(sum(rates))

    cuts = [*np.unique(scores.astype(np.float32)).astype(float), next_above(float(scores.astype(np.float32).max()))]
    assert cost(chosen.value) <= min(map(cost, cuts)) * (1 + 1e-9) + 1e-12


def test_a_dear_miss_moves_the_threshold_down_and_a_dear_alarm_up() -> None:
    scores, flags = np.arange(10.0), np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1], dtype=bool)

    def value(miss: float, alarm: float) -> float:
        costs = Costs(miss=miss, false_alarm=alarm, share_of_defects=0.1)
        return learn_threshold(scores, flags, LearningRule(method="Cost", costs=costs)).value

    assert value(1000, 1) == 2.5
    assert value(1, 1000) == 6.5
    assert value(1, 0) == 0.0  # alarms are free: everything is NG


def test_readiness_says_before_a_training_what_a_budget_needs_and_cost_without_defects_is_the_quantile() -> None:
    budget = ReadinessArguments(threshold_method="FalseAlarmRate")
    choice = choose_threshold_method(40, 0, budget, "image_AUROC")
    assert (choice.threshold_method, choice.monitor_metric) == ("FalseAlarmRate", "loss")
    rule = TrainArguments(model_name="patchcore", false_alarms_per_thousand=5).learning_rule(choice.threshold_method)
    finding = too_few_for_budget(40, rule.method, rule.budget)
    assert finding is not None
    assert "needs 598 normal validation images, and there are 40" in finding.message
    assert too_few_for_budget(598, rule.method, rule.budget) is None
    cost = ReadinessArguments(threshold_method="Cost")
    assert choose_threshold_method(40, 0, cost, "loss").threshold_method == "Percentile"
    assert choose_threshold_method(40, 3, cost, "loss").threshold_method == "Cost"


def test_two_budgets_are_two_versions_of_a_threshold_though_the_value_is_the_same() -> None:
    def version(rate: float) -> str:
        budget = FalseAlarmBudget(per_thousand=rate, confidence=0.95)
        rule = LearningRule(method="FalseAlarmRate", budget=budget)
        return learn_threshold([1, 2], [False, False], rule).version

    assert version(10) != version(20)
