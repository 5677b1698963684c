"""Charts see a change soon, and raise as few false alarms as they state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vad_lib.monitoring.charts import (
    CUSUM_FALSE_ALARM_IMAGES,
    EWMA_FALSE_ALARM_IMAGES,
    EWMA_LIMIT,
    PLACE_WEIGHT,
    WEIGHT,
    Cusum,
    Ewma,
    Places,
    Usual,
    mean_run_length,
)


def images_until_alarm(chart: Cusum, share: float, rng: np.random.Generator) -> int:
    state, count = {}, 0
    while chart.level(state) < 1:
        state, count = chart.step(state, (float(rng.random() < share),)), count + 1
        assert count < 100_000, "no alarm comes"
    return count


@pytest.mark.spec("W1.01")
@pytest.mark.parametrize("usual", [0.01, 0.03, 0.2])
def test_the_mean_images_between_false_alarms_of_decisions_are_as_stated_and_as_simulated(usual: float) -> None:
    chart = Cusum(usual)
    stated = mean_run_length(usual, chart.gain, chart.limit)
    assert stated >= CUSUM_FALSE_ALARM_IMAGES
    assert mean_run_length(usual, chart.gain, chart.limit - 1) < CUSUM_FALSE_ALARM_IMAGES
    # All lines at once: a chart of its own in each element.
    rng, sums, alarms, images = np.random.default_rng(0), np.zeros(1500, int), 0, 2000
    for _ in range(images):
        sums = np.maximum(0, sums + np.where(rng.random(len(sums)) < usual, chart.gain, -1))
        alarms += int((sums >= chart.limit).sum())
        sums[sums >= chart.limit] = 0
    assert images * len(sums) / alarms == pytest.approx(stated, rel=0.35)


@pytest.mark.spec("W1.02")
def test_ten_percent_ng_are_seen_within_a_hundred_images_where_one_percent_is_usual() -> None:
    rng = np.random.default_rng(1)
    assert np.median([images_until_alarm(Cusum(0.01), 0.1, rng) for _ in range(100)]) <= 100


@pytest.mark.spec("W1.01")
def test_the_mean_images_between_false_alarms_of_a_measure_are_as_stated() -> None:
    """The limit of a reference without end; that of a small one is wider."""
    rng, means, alarms, images = np.random.default_rng(2), np.zeros(2000), 0, 4000
    limit = EWMA_LIMIT * np.sqrt(WEIGHT / (2 - WEIGHT))
    for _ in range(images):
        means += WEIGHT * (rng.standard_normal(len(means)) - means)
        alarms += int((np.abs(means) > limit).sum())
        means[np.abs(means) > limit] = 0
    assert images * len(means) / alarms >= EWMA_FALSE_ALARM_IMAGES * 0.8
    large = Usual.of(rng.standard_normal(100_000), 0.0)
    assert large is not None
    assert large.limit == pytest.approx(limit, rel=0.01)


@pytest.mark.spec("W1.01")
@pytest.mark.parametrize("size", [12, 40, 200])
def test_a_small_reference_does_not_raise_more_false_alarms_than_one_in_2500(size: int) -> None:
    """The mean over references: some are luckier than others."""
    rng, alarms, images = np.random.default_rng(size), 0, 500
    references = [Usual.of(rng.standard_normal(size), 0.0) for _ in range(300)]
    known = [each for each in references if each is not None]
    mean, deviation = (np.array([getattr(each, name) for each in known]) for name in ("mean", "deviation"))
    low, high = (np.array([getattr(each, name) for each in known]) for name in ("low", "high"))
    limits, averages = np.array([each.limit for each in known]), np.zeros(len(known))
    for _ in range(images):
        values = np.clip(rng.standard_normal(len(known)), low, high)
        averages += WEIGHT * ((values - mean) / deviation - averages)
        alarms += int((np.abs(averages) > limits).sum())
        averages[np.abs(averages) > limits] = 0
    assert alarms <= images * len(known) / 2500


def test_a_mean_that_moves_is_seen_soon_and_its_size_is_told() -> None:
    rng = np.random.default_rng(3)
    usual = Usual.of(rng.normal(10, 2, 200), 0.0)
    assert usual is not None
    chart, state, count = Ewma((usual,)), {}, 0
    while chart.level(state) < 1:
        state, count = chart.step(state, (rng.normal(13, 2),)), count + 1
        assert count < 1000, "no alarm comes"
    assert count <= 50
    (change,) = chart.change(state, count)
    assert change == pytest.approx(3, abs=1)


def test_one_image_far_off_is_no_alarm() -> None:
    usual = Usual.of(np.random.default_rng(4).standard_normal(100), 0.0)
    assert usual is not None
    chart = Ewma((usual,))
    assert chart.level(chart.step({}, (1e9,))) < 1


def test_a_spread_that_is_always_allowed_keeps_tiny_changes_quiet() -> None:
    still = Usual.of(np.ones(50), 0.02)
    assert still is not None
    chart, state = Ewma((still,)), {}
    for _ in range(200):
        state = chart.step(state, (1.01,))
    assert chart.level(state) < 1
    for _ in range(100):
        state = chart.step(state, (1.05,))
    assert chart.level(state) >= 1


@pytest.mark.parametrize("values", [[], [1.0] * 9, [np.nan] * 30])
def test_too_few_images_are_no_reference(values: list[float]) -> None:
    assert Usual.of(values, 0.1) is None


def test_a_measure_without_any_spread_is_watched_only_where_some_is_allowed() -> None:
    assert Usual.of([1.0] * 20, 0.0) is None
    assert Usual.of([1.0] * 20, 0.1) is not None


def test_a_place_that_stands_out_six_times_in_a_row_is_an_alarm_and_others_are_not() -> None:
    chart, state = Places(), {}
    rng = np.random.default_rng(5)
    for _ in range(300):  # another place each time, as with defects
        state = chart.step(state, tuple(rng.integers(256, size=5)))
        assert chart.level(state) < 1
    for _ in range(6):
        state = chart.step(state, (119, float(rng.integers(256))))
    assert chart.level(state) >= 1
    assert max(state["places"], key=state["places"].get) == "119"
    assert all(share > 0.01 for share in state["places"].values()), "the state stays small"
    assert PLACE_WEIGHT < 0.6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.005, 0.02, 0.1, 0.4]))
def test_the_sum_stays_between_nothing_and_the_limit_and_counts_since_it_was_nothing(
    decisions: list[bool], usual: float
) -> None:
    chart, state = Cusum(usual), {}
    for is_ng in decisions:
        state = chart.step(state, (float(is_ng),))
        assert 0 <= state["sum"] <= chart.limit
        assert 0 <= state["ng"] <= state["of"]
        assert (state["sum"] == 0) == (state["of"] == 0)
