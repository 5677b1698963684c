"""Performance numbers against scikit-learn's and anomalib's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as reference

from vad_lib.metrics import auroc_interval, classification_report, confusion_matrix, evaluate, interval
from vad_lib.tables import NG, OK


def some_rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    flags = random.random(200) < 0.3
    scores = np.round(random.normal(flags, 1), 1)  # with ties
    return scores, flags, np.where(scores >= 0.5, NG, OK)


@pytest.mark.spec("V15.04", "V11.15")
def test_the_numbers_are_those_of_scikit_learn() -> None:
    scores, flags, predicted = some_rows()
    ours = evaluate(scores, flags, predicted)
    ng = predicted == NG
    assert (ours.tn, ours.fp, ours.fn, ours.tp) == tuple(reference.confusion_matrix(flags, ng).ravel())
    assert ours.n == 200
    assert ours.accuracy == pytest.approx(reference.accuracy_score(flags, ng))
    assert ours.precision == pytest.approx(reference.precision_score(flags, ng))
    assert ours.recall == pytest.approx(reference.recall_score(flags, ng))
    assert ours.f1 == pytest.approx(reference.f1_score(flags, ng))
    assert ours.image_auroc == pytest.approx(reference.roc_auc_score(flags, scores))
    assert ours.average_precision == pytest.approx(reference.average_precision_score(flags, scores))
    assert confusion_matrix(flags, predicted).to_numpy().tolist() == reference.confusion_matrix(flags, ng).tolist()


@pytest.mark.parametrize(
    ("flags", "predicted", "undefined"),
    [
        ([False, False], [OK, OK], {"precision", "recall", "f1", "miss_rate", "image_auroc", "average_precision"}),
        ([False, False], [OK, NG], {"recall", "f1", "miss_rate", "image_auroc", "average_precision"}),
        ([True, True], [NG, NG], {"false_alarm_rate", "image_auroc", "average_precision"}),
        ([True, False], [OK, OK], {"precision"}),
        ([True, False], [NG, OK], set()),
    ],
)
def test_what_is_undefined_is_none_and_not_a_number(flags: list, predicted: list, undefined: set) -> None:
    evaluation = evaluate([1.0, 2.0], flags, predicted)
    assert {name for name, value in evaluation.model_dump().items() if value is None} == undefined
    assert not undefined & evaluation.numbers().keys()
    assert evaluation.has_anomalous == any(flags)


@pytest.mark.spec("V11.13", "V8.11", "P5.05")
def test_the_report_tells_each_of_the_users_labels_apart() -> None:
    labels = ["good", "good", "scratch", "scratch", "hole"]
    flags = [False, False, True, True, True]
    report = classification_report(labels, flags, [OK, NG, NG, OK, NG])
    assert report["NG"]["recall"] == pytest.approx(2 / 3)
    assert report["accuracy"] == pytest.approx(3 / 5)
    assert report["by_label"]["scratch"] == {"n": 2, "predicted_OK": 1, "predicted_NG": 1, "rate_NG": 0.5}
    assert report["by_label"]["good"]["rate_NG"] == 0.5


def test_a_report_of_one_class_has_no_nan() -> None:
    report = classification_report(["good"], [False], [OK])
    assert report["accuracy"] == 1
    assert report["NG"]["precision"] is None
    assert not any(isinstance(v, float) and math.isnan(v) for part in ("OK", "NG") for v in report[part].values())


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'OK' nor 'NG'"):
        evaluate([1.0], [True], ["bad"])


def decisions(tp: int, fn: int, fp: int, tn: int) -> tuple[list[float], list[bool], list[str]]:
    predicted = [NG] * tp + [OK] * fn + [NG] * fp + [OK] * tn
    return [float(one == NG) for one in predicted], [True] * (tp + fn) + [False] * (fp + tn), predicted


def test_the_words_say_how_many_good_parts_of_a_hundred_will_be_false_alarms() -> None:
    assert (
        "Of 100 good parts expect about 5 false alarms (between 0 and 25"
        in evaluate(*decisions(tp=9, fn=1, fp=1, tn=19)).in_words()
    )
    only_normal = evaluate(*decisions(tp=0, fn=0, fp=0, tn=6)).in_words()
    assert "expect about 0 false alarms (between 0 and 46" in only_normal
    assert "nothing is known about what it finds" in only_normal


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (3, 20), (20, 20), (34, 41)])
def test_the_interval_is_the_exact_one_of_a_binomial_test(count: int, of: int) -> None:
    from scipy.stats import binomtest

    exact = binomtest(count, of).proportion_ci(0.95, method="exact")
    assert interval(count, of) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("n_normal", "n_anomalous"), [(12, 36), (50, 50)])
@pytest.mark.parametrize("apart", [0.3, 1.0, 2.0, 3.0])
def test_the_interval_of_an_auroc_holds_the_true_one_as_often_as_it_says(
    n_normal: int, n_anomalous: int, apart: float
) -> None:
    draw = np.random.default_rng(0)
    truth, held, draws = norm.cdf(apart / np.sqrt(2)), 0, 600
    for _ in range(draws):
        normal, anomalous = draw.normal(0, 1, n_normal), draw.normal(apart, 1, n_anomalous)
        low, high = auroc_interval(float((normal[:, None] < anomalous).mean()), n_normal, n_anomalous)
        held += low <= truth <= high
    assert interval(held, draws, 0.999)[1] >= 0.95
    assert held / draws < 0.999


def test_the_interval_of_a_perfect_auroc_has_a_width_that_falls_with_the_number_of_images() -> None:
    few, many = auroc_interval(1.0, 12, 36), auroc_interval(1.0, 200, 600)
    assert few[1] == many[1] == 1.0
    assert few[0] < 0.9 < 0.99 < many[0]
    assert auroc_interval(0.0, 12, 36) == pytest.approx((0.0, 1 - few[0]))


def test_an_f1_hardly_above_that_of_calling_everything_ng_is_a_warning() -> None:
    useless = evaluate(*decisions(tp=117, fn=2, fp=34, tn=7))  # F1 .867, and .853 for everything NG
    assert "is hardly above 0.853" in useless.warning()
    assert evaluate(*decisions(tp=117, fn=2, fp=1, tn=40)).warning() == ""
    assert evaluate(*decisions(tp=0, fn=0, fp=3, tn=7)).warning() == ""  # nothing anomalous: F1 is unknown


def test_without_rows_no_number_is_told_and_the_words_say_why() -> None:
    nothing = evaluate([], [], [])
    assert (nothing.defined(), nothing.numbers(), nothing.headlines()) == ({"n": 0}, {"n": 0.0}, {})
    assert "nothing is known yet about misses and false alarms" in nothing.in_words()
