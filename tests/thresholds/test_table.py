"""The threshold table and its graph."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from tests.thresholds.test_learning import LARGEST, labelled_scores
from vad_lib.tables import NG
from vad_lib.thresholds import (
    DecisionRule,
    LearningRule,
    learn_calibration,
    learn_threshold,
    plot_threshold_table,
    threshold_table,
)


def table_of(scores: np.ndarray, flags: np.ndarray, method: str = "F1", **more: int) -> pd.DataFrame:
    threshold = learn_threshold(scores, flags, LearningRule(method=method))
    return threshold_table(scores, flags, threshold, learn_calibration(scores, flags, threshold), **more)


# The last row of the table lies above the largest float32, which is a score like any other.
UP_TO_THE_LARGEST = (np.array([0.0, LARGEST]), np.array([False, True]))
LARGEST_IS_NORMAL = (np.array([LARGEST, 0.0]), np.array([False, True]))


@settings(deadline=None)
@given(labelled_scores(), st.sampled_from(["F1", "Percentile"]))
@example(UP_TO_THE_LARGEST, "F1")
@example(UP_TO_THE_LARGEST, "Percentile")
@example(LARGEST_IS_NORMAL, "F1")
@example(LARGEST_IS_NORMAL, "Percentile")
@pytest.mark.spec("V11.08", "V11.17", "V15.04", "V4.07")
def test_each_row_counts_what_sklearn_counts(rows: tuple[np.ndarray, np.ndarray], method: str) -> None:
    scores, flags = rows
    table = table_of(scores, flags, method)
    for row in table.itertuples():
        predicted = scores.astype(np.float64) >= row.threshold  # numpy would round the threshold to float32
        tn, fp, fn, tp = confusion_matrix(flags, predicted, labels=[False, True]).ravel()
        assert (row.tn, row.fp, row.fn, row.tp) == (tn, fp, fn, tp)
        precision, recall, f1, _ = precision_recall_fscore_support(
            flags, predicted, average="binary", zero_division=np.nan
        )
        assert row.accuracy == pytest.approx(accuracy_score(flags, predicted))
        np.testing.assert_allclose([row.precision, row.recall, row.f1], [precision, recall, f1])
        assert row.miss_rate == pytest.approx(1 - recall)
        assert row.false_alarm_rate == pytest.approx(fp / (fp + tn))


@given(labelled_scores(normal=0, anomalous=1), st.sampled_from(["F1", "Percentile"]))
@example(UP_TO_THE_LARGEST, "F1")
@example(LARGEST_IS_NORMAL, "Percentile")
@pytest.mark.spec("V4.21")
def test_the_p_of_a_row_passed_to_inference_gives_exactly_the_counts_of_that_row(
    rows: tuple[np.ndarray, np.ndarray], method: str
) -> None:
    scores, flags = rows
    threshold = learn_threshold(scores, flags, LearningRule(method=method))
    calibration = learn_calibration(scores, flags, threshold)
    table = threshold_table(scores, flags, threshold, calibration)
    for row in table.itertuples():
        ng = DecisionRule(calibration, row.p).judge(scores).predicted == NG
        assert ((ng & flags).sum(), (ng & ~flags).sum()) == (row.tp, row.fp)


@given(labelled_scores(normal=0, anomalous=1))
def test_thresholds_and_p_increase_and_one_row_is_chosen(rows: tuple[np.ndarray, np.ndarray]) -> None:
    scores, flags = rows
    table = table_of(scores, flags)
    assert table["threshold"].is_monotonic_increasing
    assert table["p"].is_monotonic_increasing
    assert len(table) == len(np.unique(scores.astype(np.float32))) + 1
    assert table["chosen"].sum() == 1
    assert table.loc[table["chosen"], "p"].item() == 0.5
    assert table["f1"].max() == table.loc[table["chosen"], "f1"].item()


def test_without_anomalous_rows_recall_and_f1_are_missing_and_false_alarms_are_there() -> None:
    table = table_of(np.arange(10.0), np.zeros(10, bool), "Percentile")
    assert table[["recall", "f1", "miss_rate"]].isna().all().all()
    assert table["false_alarm_rate"].tolist() == [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]


def test_fifty_thousand_scores_give_a_bounded_table_with_the_chosen_row_quickly() -> None:
    random = np.random.default_rng(0)
    flags = np.arange(50_000) % 10 == 0
    scores = random.normal(flags * 2.0, 1)
    threshold = learn_threshold(scores, flags)
    calibration = learn_calibration(scores, flags, threshold)
    begin = time.process_time()
    table = threshold_table(scores, flags, threshold, calibration)
    assert time.process_time() - begin < 2
    assert len(table) <= 2000
    assert table.loc[table["chosen"], "threshold"].item() == threshold.value
    assert (table["tp"].iloc[0], table["tp"].iloc[-1]) == (5000, 0)
    assert table["recall"].diff().abs().max() < 0.01


@pytest.mark.spec("V11.07", "V4.07")
@pytest.mark.parametrize("case", ["mixed", "only normal", "constant", "one image"])
def test_the_graph_is_drawn_for_every_kind_of_table(case: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    scores, flags = {
        "mixed": (np.append(random.normal(2, 0.4, 80), random.normal(4, 1, 20)), np.arange(100) >= 80),
        "only normal": (random.normal(2, 0.4, 80), np.zeros(80, bool)),
        "constant": (np.full(5, 0.3), np.zeros(5, bool)),
        "one image": (np.array([2.0]), np.array([True])),
    }[case]
    table = table_of(scores, flags)
    plot_threshold_table(table, tmp_path / "graph.png", scores=scores, is_anomalous=flags, title="digits")
    with Image.open(tmp_path / "graph.png") as image:
        assert image.size == (1200, 800)
        assert len(image.convert("RGB").getcolors(10**6)) > 50
    plot_threshold_table(table, tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert image.size[0] == 1200
