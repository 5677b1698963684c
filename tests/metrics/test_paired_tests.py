"""Differences between two detectors on the same images: known values, laws, and how often chance is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from vad_lib.paired_tests import delong, mcnemar, newcombe, wilson

VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0])


def test_mcnemar_gives_published_values() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1: airway hyper-responsiveness before and after a transplantation
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar(0, 0) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_even_handed_and_below_the_exact_test(first: int, second: int) -> None:
    assert mcnemar(first, second) == mcnemar(second, first)
    if first + second:
        assert mcnemar(first, second) <= binomtest(first, first + second).pvalue + 1e-12


@given(
    hnp.arrays(float, 12, elements=VALUES),
    hnp.arrays(float, 12, elements=VALUES),
    hnp.arrays(bool, 12).filter(lambda flags: flags.any() and not flags.all()),
)
def test_the_difference_is_that_of_the_areas_and_turns_round_with_the_order(
    first: np.ndarray, second: np.ndarray, flags: np.ndarray
) -> None:
    found, turned = delong(flags, first, second), delong(flags, second, first)
    assert found.difference == pytest.approx(roc_auc_score(flags, first) - roc_auc_score(flags, second))
    assert (turned.difference, turned.low, turned.high) == pytest.approx(
        (-found.difference, -found.high, -found.low), abs=1e-12
    )
    assert found.p == pytest.approx(turned.p)
    assert delong(flags, first, first) == (0, 0, 0, 1)


def test_the_interval_holds_the_true_difference_as_often_as_it_says_and_chance_is_seldom_a_difference() -> None:
    rng = np.random.default_rng(0)
    flags = np.arange(90) < 40
    kept = called = 0
    repeats = 1500
    for _ in range(repeats):
        shared = rng.normal(size=90) + 1.2 * flags
        found = delong(flags, shared + rng.normal(size=90), shared + rng.normal(size=90))
        kept += found.low <= 0 <= found.high
        called += found.p < 0.05
    assert 0.93 <= kept / repeats <= 0.97
    assert 0.03 <= called / repeats <= 0.07


def test_wilson_and_newcombe_give_published_values() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table 1
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    # Newcombe 1998, paired data, and the patients of the test of McNemar
    assert newcombe(20, 12, 2, 16)[:3] == pytest.approx((0.2, 0.0562, 0.3292), abs=5e-5)
    assert newcombe(1, 1, 7, 12)[:3] == pytest.approx((-0.286, -0.507, -0.026), abs=5e-4)


@given(*[st.integers(0, 30)] * 4)
def test_newcombes_interval_holds_its_difference_and_turns_round_with_the_order(
    both: int, first: int, second: int, neither: int
) -> None:
    if both + first + second + neither == 0:
        return
    found, turned = newcombe(both, first, second, neither), newcombe(both, second, first, neither)
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert (turned.difference, turned.low, turned.high, turned.p) == pytest.approx(
        (-found.difference, -found.high, -found.low, found.p), abs=1e-12
    )


def test_newcombes_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for counts in rng.multinomial(40, [0.8, 0.1, 0.04, 0.06], size=800):
        found = newcombe(*map(int, counts))
        kept += found.low <= 0.06 <= found.high
    assert 0.93 <= kept / 800 <= 0.99


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        newcombe(0, 0, 0, 0)
    with pytest.raises(ValueError, match="both normal and anomalous"):
        delong([True, True], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="same images"):
        delong([True, False], [1, 2], [1, 2, 3])
