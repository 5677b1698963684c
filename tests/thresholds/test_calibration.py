"""The calibrated score p, the decision and the certainty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vad_lib.tables import NG, OK
from vad_lib.thresholds import Calibration, DecisionRule, LearningRule, certainty, learn_calibration, learn_threshold

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)
CURVES = st.builds(
    Calibration,
    threshold=st.floats(-LARGEST, LARGEST),
    scale=st.floats(1e-40, 1e38),
)


def following(raw: float) -> float:
    return float(np.nextafter(np.float32(raw), np.float32(np.inf)))


@given(CURVES, FINITE, FINITE)
@example(Calibration(threshold=1.0, scale=1.0), 1e-38, 2e-38)  # equal after subtracting the threshold
@example(Calibration(threshold=1.0, scale=1e-30), 1e30, 2e30)  # 1 - 1/z is 1
@example(Calibration(threshold=1.0, scale=1.0), LARGEST, float(np.nextafter(np.float32(LARGEST), np.float32(0))))
@pytest.mark.spec("D2", "V6.08", "T3")
def test_p_increases_strictly_between_any_two_float32_scores_and_stays_inside_0_and_1(
    calibration: Calibration, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assume(low < high)
    p = calibration([low, high])
    assert 0 < p[0] < p[1] < 1


@given(CURVES, FINITE)
@pytest.mark.spec("D2", "T3")
def test_p_increases_strictly_between_neighbouring_float32_scores(calibration: Calibration, raw: float) -> None:
    assume(raw < LARGEST)
    p = calibration([raw, following(raw)])
    assert p[0] < p[1]


@given(CURVES)
@pytest.mark.spec("D1", "D2", "V14.36", "T1")
def test_p_is_a_half_exactly_at_the_threshold_and_on_the_right_side_beside_it(calibration: Calibration) -> None:
    threshold = calibration.threshold
    assert calibration(threshold) == 0.5
    assert calibration(np.nextafter(threshold, -np.inf)) < 0.5
    assert calibration(np.nextafter(threshold, np.inf)) > 0.5


@given(CURVES, st.floats(0, 1), FINITE)
@pytest.mark.spec("V4.21", "V14.36")
def test_the_inverse_says_from_which_raw_score_on_a_threshold_on_p_decides_ng(
    calibration: Calibration, p: float, raw: float
) -> None:
    assert (raw >= calibration.inverse(p)) == (calibration(raw) >= p)


@given(CURVES, FINITE)
def test_the_inverse_of_p_of_a_score_is_that_score(calibration: Calibration, raw: float) -> None:
    back = calibration.inverse(float(calibration(raw)))
    assert back == raw or (raw == -LARGEST and back == -np.inf)


def test_scores_far_from_the_threshold_still_differ_to_the_eye() -> None:
    calibration = Calibration(threshold=10, scale=1)
    assert calibration([6, 9, 10, 11, 14, 109, 1009]) == pytest.approx(
        [0.1, 0.25, 0.5, 0.75, 0.9, 0.995, 0.9995], abs=1e-4
    )


@pytest.mark.parametrize("raw", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_a_number_has_no_p(raw: float) -> None:
    with pytest.raises(ValueError, match="infinite or missing"):
        Calibration(threshold=1, scale=1)([0.0, raw])


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([1, 2, 3, 8, 9, 10], [False] * 3 + [True] * 3),
        ([1, 2, 3, 4], [False] * 4),  # only normal
        ([1, 2, 3, 4], [True] * 4),  # only anomalous
        ([5, 5, 5], [False] * 3),  # constant
        ([5, 5, 5], [False, False, True]),  # constant with an anomaly
        ([0, 0], [False] * 2),  # constant zero
        ([0.25], [False]),  # one image
        ([0.25], [True]),
        ([LARGEST, -LARGEST], [True, False]),
    ],
)
def test_every_set_of_rows_gives_a_usable_calibration(scores: list, labels: list) -> None:
    threshold = learn_threshold(scores, labels)
    calibration = learn_calibration(scores, labels, threshold)
    p = calibration(scores)
    assert ((p > 0) & (p < 1)).all()
    predicted = DecisionRule(calibration).judge(scores).predicted
    assert predicted.tolist() == [NG if score >= threshold.value else OK for score in scores]


@pytest.mark.spec("T4")
def test_constant_scores_tell_little_and_p_says_so() -> None:
    threshold = learn_threshold([5.0] * 20, [False] * 20, LearningRule(method="Percentile"))
    p = learn_calibration([5.0] * 20, [False] * 20, threshold)([5.0, 4.9, 5.1, 10.0])
    assert 0.4 < p[0] < 0.5
    assert (certainty(p[1:3]) < 0.1).all()  # what is near was never seen to be normal or anomalous
    assert certainty(p[3]) > 0.7


def test_the_scale_is_not_moved_by_an_extreme_score() -> None:
    labels = [False] * 50 + [True] * 10
    scores = np.concatenate([np.linspace(1, 2, 50), np.linspace(4, 5, 10)])
    threshold = learn_threshold(scores, labels)
    plain = learn_calibration(scores, labels, threshold)
    scores[-1] = 1e6
    assert learn_calibration(scores, labels, threshold).scale == pytest.approx(plain.scale)
    assert plain(1.5) == pytest.approx(0.1, abs=0.01)


@pytest.mark.spec("D3", "V6.07")
def test_certainty_is_one_minus_the_entropy_in_bits() -> None:
    assert certainty([0.5, 0.0, 1.0, 0.9, 0.1]) == pytest.approx([0, 1, 1, 0.531, 0.531], abs=5e-4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        certainty([1.1])


@given(CURVES, st.floats(0, 1), st.lists(FINITE, min_size=1))
@example(Calibration(threshold=LARGEST, scale=1.0), 0.5, [0.0, LARGEST])
@example(Calibration(threshold=float(np.nextafter(LARGEST, np.inf)), scale=1.0), 0.5, [0.0, LARGEST])
@example(Calibration(threshold=0.0, scale=1.0), 0.5, [-0.0, 0.0, 1e-45])
@pytest.mark.spec("D1", "D2", "V14.36")
def test_one_rule_decides_alike_on_the_raw_score_and_on_p(
    calibration: Calibration, inference_threshold: float, scores: list[float]
) -> None:
    rule = DecisionRule(calibration, inference_threshold)
    judged = rule.judge(scores)
    by_p = np.where(judged.p >= inference_threshold, NG, OK)
    by_raw = np.where(np.array(scores) >= rule.raw_threshold, NG, OK)
    assert judged.predicted.tolist() == by_p.tolist() == by_raw.tolist()
    assert judged.certainty.tolist() == certainty(judged.p).tolist()


@pytest.mark.spec("D1", "V14.36")
def test_the_decision_is_ng_at_equality_and_refuses_nonsense() -> None:
    calibration = Calibration(threshold=1.0, scale=0.5)
    assert DecisionRule(calibration).judge([np.nextafter(np.float32(1), np.float32(0)), 1.0]).predicted.tolist() == [
        OK,
        NG,
    ]
    assert DecisionRule(calibration, 0).judge([-LARGEST, LARGEST]).predicted.tolist() == [NG, NG]
    assert DecisionRule(calibration, 1).judge([-LARGEST, LARGEST]).predicted.tolist() == [OK, OK]
    for wrong in (20, -0.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            DecisionRule(calibration, wrong)
    with pytest.raises(ValueError, match="missing"):
        DecisionRule(calibration).judge([np.nan])
