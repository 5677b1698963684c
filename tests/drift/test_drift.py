"""Drift is reported where a difference is both large and no chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vad_lib.drift import DriftReport, compare_measure, population_stability_index, report_drift


def sample(seed: int, size: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, size)


def test_the_same_light_is_steady_and_a_changed_lamp_is_drift() -> None:
    assert compare_measure("brightness", sample(0, 200), sample(1, 200)).status == "steady"
    assert compare_measure("brightness", sample(0, 200), sample(1, 200, shift=1.0)).status == "drifted"


def test_a_significant_but_tiny_shift_among_very_many_images_is_steady() -> None:
    result = compare_measure("brightness", sample(0, 20000), sample(1, 20000, shift=0.08))
    assert result.p_value is not None
    assert result.p_value < 0.01
    assert result.status == "steady"


@pytest.mark.parametrize(("reference", "recent"), [(19, 200), (200, 19), (0, 0)])
def test_with_too_few_images_nothing_is_said(reference: int, recent: int) -> None:
    result = compare_measure("sharpness", sample(0, reference), sample(1, recent, shift=9))
    assert result.status == "too few images"
    assert result.psi is None


def test_missing_values_are_left_out() -> None:
    values = np.append(sample(0, 30), [np.nan, np.inf])
    assert compare_measure("raw_score", values, values).n_recent == 30


def test_constant_measures_that_are_equal_are_steady() -> None:
    assert compare_measure("contrast", np.ones(50), np.ones(60)).status == "steady"


def test_constant_measures_that_differ_are_drift() -> None:
    assert compare_measure("contrast", np.ones(50), np.full(60, 2.0)).status == "drifted"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=80))
def test_the_index_of_a_sample_with_itself_is_zero_and_never_negative(values: list[float]) -> None:
    assert population_stability_index(values, values) == pytest.approx(0)
    assert population_stability_index(values, [*values, 0.0]) >= 0


@pytest.mark.spec("V10.08")
def test_a_report_names_what_drifted_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    facts = pd.DataFrame({name: sample(n, 60) for n, name in enumerate(("brightness", "contrast", "sharpness"))})
    report = report_drift(
        model_version="vad-a/1",
        reference_facts=facts,
        recent_facts=facts.assign(brightness=facts["brightness"] + 5),
        reference_scores=sample(5, 40),
        recent_scores=sample(6, 40),
    )
    assert report.drifted == ("brightness",)
    report.save(tmp_path)
    assert DriftReport.load(tmp_path) == report
    assert list(report.table()["measure"]) == ["brightness", "contrast", "sharpness", "raw_score"]
