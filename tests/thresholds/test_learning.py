"""Which threshold is learnt from which scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import precision_recall_curve

from vad_lib.tables import NG, OK
from vad_lib.thresholds import (
    DecisionRule,
    LearningRule,
    LearntThreshold,
    Threshold,
    choose_threshold,
    learn_calibration,
    learn_threshold,
)

N, A = False, True
F32 = np.float32
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def quantile(percentile: float) -> LearningRule:
    return LearningRule(method="Percentile", percentile=percentile)


def labelled_scores(normal: int = 1, anomalous: int = 1) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Float32 scores with many ties, and labels with at least so many of each class."""
    values = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), FINITE)

    def build(parts: tuple[list[float], list[float]]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(parts[0] + parts[1]), np.array([N] * len(parts[0]) + [A] * len(parts[1]), dtype=bool)

    return st.tuples(
        st.lists(values, min_size=normal, max_size=20), st.lists(values, min_size=anomalous, max_size=20)
    ).map(build)


LARGEST = float(np.finfo(F32).max)
NEXT_1 = float(np.nextafter(F32(1), F32(2)))


@pytest.mark.spec("V4.05", "D1", "T1")
@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([1, 2, 3, 6, 7], [N, N, N, A, A], 4.5),  # separable: midway between the neighbours
        ([1, 3, 3, 5], [N, N, A, A], 2.0),  # a tie across classes is one cut: both 3s are NG, F1 4/5
        ([5, 5, 5, 5], [N, N, A, A], 5.0),  # constant: only 'everything' finds anything, the score itself is NG
        ([1, 2], [A, A], 1.0),  # only anomalous: everything NG
        ([7], [A], 7.0),  # one anomalous image
        ([1, 2, 3, 4], [A, N, N, A], 1.0),  # F1 2/3 at 1 and at 4: the lowest, with fewest misses
        ([1, 2], [A, N], 1.0),  # upside down: everything NG is still the best F1
        ([1.0, NEXT_1], [N, A], NEXT_1 / 2 + 0.5),  # float32 neighbours: float64 still has a midpoint
        ([-3, -1], [N, A], -2.0),
        ([0, 5e-324, 1], [N, N, A], 0.5),  # below float32: the same score as 0
    ],
)
def test_the_f1_threshold_lies_midway_below_the_best_cut(scores: list, labels: list, value: float) -> None:
    threshold = learn_threshold(scores, labels)
    assert threshold.value == pytest.approx(value, abs=0, rel=1e-15)
    assert (threshold.method, threshold.percentile) == ("F1", None)
    assert (threshold.n_normal, threshold.n_anomalous) == (labels.count(N), labels.count(A))


@pytest.mark.spec("V4.06", "V14.18", "V15.03", "T2", "T4")
@pytest.mark.parametrize(
    ("scores", "labels", "percentile", "value"),
    [
        (range(11), [N] * 11, 0.8, 8.0),  # the quantile itself, which is NG: three of eleven
        (range(11), [N] * 11, 0.75, 7.5),  # linear interpolation
        (range(11), [N] * 11, 0.0, 0.0),  # everything NG, as asked
        (range(11), [N] * 11, 1.0, float(np.nextafter(F32(10), F32(11)))),  # nothing NG: above the largest
        ([1, 1, 1, 1], [N] * 4, 0.8, NEXT_1),  # constant normal scores are OK
        ([1], [N], 0.8, NEXT_1),  # one normal image is OK
        ([0, 0, 0, 0, 1, 1, 1, 1, 1, 2], [N] * 10, 0.8, 1.5),  # a tie would make 6 of 10 NG: move above it
        ([*range(11), 50, 60, 70, 80], [N] * 11 + [A] * 4, 0.8, 8.0),  # the quantile of the normal rows
        ([1, 2, 3], [A] * 3, 0.5, 2.0),  # only anomalous rows: of those
    ],
)
def test_the_percentile_threshold_is_the_quantile_of_normal_scores(
    scores: list, labels: list, percentile: float, value: float
) -> None:
    threshold = learn_threshold(list(scores), labels, quantile(percentile))
    assert threshold.value == value
    assert (threshold.method, threshold.percentile) == ("Percentile", percentile)


@pytest.mark.spec("V4.06", "T2")
def test_f1_without_anomalous_rows_falls_back_to_the_quantile_and_says_so() -> None:
    threshold = learn_threshold(range(11), [N] * 11)
    assert (threshold.value, threshold.method) == (8.0, "Percentile")
    assert "F1 is undefined" in threshold.note


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "no validation score"),
        ([1, np.nan], [N, A], "position 1"),
        ([np.inf, 1], [N, A], "position 0"),
        ([1e39, 1], [N, A], "not finite float32"),
        ([1, 2], [N], "labels of shape"),
        ([1, 2], [N, None], "neither true nor false"),
        ([1, 2], [0.0, np.nan], "neither true nor false"),
        ([[1, 2]], [N, A], "one-dimensional"),
    ],
)
def test_unusable_scores_and_labels_are_refused(scores: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_threshold(scores, labels)


@pytest.mark.spec("V14.18")
def test_a_percentile_of_80_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"did you mean 0\.8"):
        learn_threshold([1, 2], [N, N], quantile(80))


@given(labelled_scores())
@pytest.mark.spec("V4.05", "P6.03")
def test_no_other_cut_has_a_better_f1(rows: tuple[np.ndarray, np.ndarray]) -> None:
    scores, flags = rows
    ng = scores >= learn_threshold(scores, flags).value
    ours = 2 * (ng & flags).sum() / (ng.sum() + flags.sum())
    precision, recall, _ = precision_recall_curve(flags, scores)
    with np.errstate(invalid="ignore"):
        best = np.nanmax(2 * precision * recall / (precision + recall))
    assert ours == pytest.approx(best, abs=1e-12)


@given(labelled_scores(anomalous=0), st.floats(0, 1))
@example((np.array([0.0, LARGEST]), np.array([N, N])), 1.0)
@pytest.mark.spec("V14.18")
def test_the_quantile_never_makes_more_normal_rows_ng_than_asked(
    rows: tuple[np.ndarray, np.ndarray], percentile: float
) -> None:
    scores, flags = rows
    threshold = learn_threshold(scores, flags, quantile(percentile)).value
    normal = scores[~flags]
    assert (normal >= threshold).sum() <= (1 - percentile) * len(normal) + 1


@given(hnp.arrays(np.float32, st.integers(2, 30), elements=FINITE, unique=True), st.data())
@pytest.mark.spec("D1", "V14.36", "T1")
def test_the_learnt_rule_decides_on_the_raw_score(scores: np.ndarray, data: st.DataObject) -> None:
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    threshold = learn_threshold(scores, flags)
    calibration = learn_calibration(scores, flags, threshold)
    by_raw = np.where(scores.astype(float) >= threshold.value, NG, OK)
    assert DecisionRule(calibration).judge(scores).predicted.tolist() == by_raw.tolist()


def test_the_version_names_the_contents_and_not_the_time() -> None:
    first = learn_threshold([1, 2, 8, 9], [N, N, A, A])
    same_rows = learn_threshold([9, 2, 8, 1], [A, N, A, N])
    other_rows = learn_threshold([1, 2, 8, 9.5], [N, N, A, A])
    assert first.version == same_rows.version
    assert first.value == other_rows.value
    assert first.version != other_rows.version
    assert Threshold.model_validate_json(first.model_dump_json()) == first
    assert first.version in first.model_dump_json()


@pytest.mark.spec("V4.21")
def test_a_person_may_choose_another_threshold_and_the_rows_are_remembered() -> None:
    learnt = learn_threshold([1, 2, 8, 9], [N, N, A, A])
    chosen = choose_threshold(2.5, learnt)
    assert (chosen.value, chosen.method, chosen.rows_digest) == (2.5, "chosen", learnt.rows_digest)
    assert chosen.version != learnt.version
    assert "instead of 5 (F1)" in chosen.note


@pytest.mark.spec("V8.03")
@pytest.mark.parametrize("seed", range(10))
def test_six_anomalous_rows_make_a_better_threshold_than_none(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def rows(normal: int, anomalous: int) -> tuple[np.ndarray, np.ndarray]:
        scores = np.concatenate([draw.normal(1, 0.2, normal), draw.normal(3, 0.4, anomalous)])
        return scores, np.arange(normal + anomalous) >= normal

    scores, flags = rows(40, 6)
    unseen, truth = rows(400, 100)
    with_them = ((unseen >= learn_threshold(scores, flags).value) == truth).mean()
    without = ((unseen >= learn_threshold(scores[~flags], flags[~flags]).value) == truth).mean()
    assert with_them > without


def test_without_rows_the_threshold_is_the_detectors_own_and_says_so() -> None:
    learnt = LearntThreshold.without_rows(0.5, [], 0.9)
    assert (learnt.threshold.value, learnt.threshold.method, learnt.threshold.percentile) == (0.5, "Fixed", None)
    assert "nothing is known about misses and false alarms" in learnt.threshold.note
    assert learnt.calibration([0.0, 0.5, 1.0]).round(3).tolist() == [0.1, 0.5, 0.9]
    assert learnt.table["chosen"].tolist() == [True]
    assert learnt.table["accuracy"].isna().all()
    assert DecisionRule(learnt.calibration).judge([0.499, 0.5]).predicted.tolist() == ["OK", "NG"]


def test_of_inspected_images_the_threshold_is_the_quantile_and_nobody_called_them_normal(tmp_path: Path) -> None:
    scores = np.linspace(0.2, 0.4, 201)
    learnt = LearntThreshold.without_rows(0.5, scores.tolist(), 0.99)
    threshold = learnt.threshold
    assert threshold.value == learn_threshold(scores, np.zeros(201, bool), quantile(0.99)).value
    assert (threshold.method, threshold.percentile, threshold.n_normal) == ("FirstInspected", 0.99, 0)
    assert "first 201 images" in threshold.note
    assert float(learnt.calibration(threshold.value)) == 0.5
    learnt.save(tmp_path)
    assert LearntThreshold.load(tmp_path).threshold == threshold


def test_without_rows_a_person_may_choose_the_threshold() -> None:
    learnt = LearntThreshold.without_rows(0.5, [], 0.9, chosen=0.7, note="As Kim found.")
    assert (learnt.threshold.value, learnt.threshold.method, learnt.threshold.note) == (0.7, "chosen", "As Kim found.")
    assert learnt.calibration.belongs_to(learnt.threshold)
