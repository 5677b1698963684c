"""What inference_summary.yaml says, and within which limits."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vad_lib.errors import PlanError
from vad_lib.summary import InferenceSummary, load_strategy, result_of_counts, round_probability, summarise
from vad_lib.tables import NG, OK
from vad_lib.thresholds import certainty


def predictions(p: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"p": p, "certainty": certainty(p), "predicted": np.where(np.asarray(p) >= 0.5, "NG", "OK")})


@pytest.mark.spec("V6.01", "V6.02", "V6.14")
def test_one_image_gives_its_label_and_its_certainty() -> None:
    summary = summarise(predictions([0.9]), "7")
    assert (summary.result, summary.score, summary.probability) == (NG, 0.53, {OK: 0.1, NG: 0.9})
    assert summary.version == "7"


@pytest.mark.spec("V6.03", "V6.04")
def test_several_images_give_counts_and_mean_certainty() -> None:
    summary = summarise(predictions([0.1, 0.9, 0.5, 0.3]), "7")
    assert summary.result == "OK:2 NG:2"
    assert summary.score == round(float(certainty([0.1, 0.9, 0.5, 0.3]).mean()), 2)
    assert summary.probability == {OK: 0.55, NG: 0.45}


@pytest.mark.spec("V6.05", "V6.06")
def test_counts_stay_compact_for_a_billion_images() -> None:
    assert result_of_counts({OK: 49990, NG: 10}) == "OK:49990 NG:10"
    assert len(result_of_counts({OK: 10**9, NG: 10**9})) <= 32


@pytest.mark.spec("V6.05", "V6.06", "V6.13")
def test_what_is_too_long_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        summary = InferenceSummary(result="x" * 33, score=0.5, date="2026-01-02 03:04:05", note="n" * 129, version="1")
    assert (len(summary.result), len(summary.note)) == (32, 128)
    assert len(caplog.records) == 2


@pytest.mark.spec("V6.11")
@pytest.mark.parametrize(
    ("given_score", "written"), [(0.126, 0.13), (1, 1.0), (0, 0.0), (1.01, 0.0), (-0.1, 0.0), (np.nan, 0.0)]
)
def test_the_score_has_two_decimals_and_becomes_zero_outside_its_range(
    given_score: float, written: float, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = InferenceSummary(result=OK, score=given_score, date="2026-01-02 03:04:05", version="1")
    assert summary.score == written
    assert bool(caplog.records) == (not 0 <= given_score <= 1)


@pytest.mark.spec("V5.08", "V6.10", "V6.12", "V6.15", "V12.03")
def test_the_file_has_exactly_the_six_fields(tmp_path: Path) -> None:
    summarise(predictions([0.1, 0.9]), "vad-bottle 3", "2 images; größe ok").write(tmp_path / "s.yaml")
    content = yaml.safe_load((tmp_path / "s.yaml").read_text(encoding="utf-8"))
    assert list(content) == ["result", "score", "date", "note", "probability", "version"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", content["date"])
    assert content["note"] == "2 images; größe ok"
    assert content["version"] == "vad-bottle 3"


@given(st.floats(0, 1))
@pytest.mark.spec("V6.14")
def test_two_probabilities_sum_to_exactly_one(p: float) -> None:
    rounded = round_probability({OK: 1 - p, NG: p})
    assert sum(rounded.values()) == 1
    assert rounded[NG] == pytest.approx(p, abs=0.0100001)
    assert all(len(repr(value)) <= 4 for value in rounded.values())


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
@pytest.mark.spec("V6.14")
def test_the_largest_of_many_probabilities_takes_the_remainder(weights: list[float]) -> None:
    probability = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    rounded = round_probability(probability)
    assert sum(round(value * 100) for value in rounded.values()) == 100
    off = [label for label in rounded if rounded[label] != round(probability[label] * 100) / 100]
    assert len(off) <= 1
    assert all(probability[label] >= max(probability.values()) - 0.01 for label in off)


def test_probabilities_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        round_probability({OK: 0.5, NG: 0.4})


def test_an_inspection_of_nothing_has_a_summary_too() -> None:
    summary = summarise(predictions([]), "1")
    assert (summary.result, summary.score, summary.probability) == ("OK:0 NG:0", 0.0, {})
    assert summary.note == "no image inspected"


def say_bottles(rows: pd.DataFrame, version: str, note: str) -> InferenceSummary:
    return InferenceSummary(result=f"{len(rows)} bottles", score=1, date="2026-01-02 03:04:05", version=version)


@pytest.mark.spec("V6.09")
def test_another_strategy_changes_what_is_said_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert summarise(predictions([0.1]), "1", strategy=say_bottles).result == "1 bottles"
    monkeypatch.setenv("VAD_SUMMARY_STRATEGY", f"{__name__}:say_bottles")
    assert summarise(predictions([0.1, 0.2]), "1").result == "2 bottles"


@pytest.mark.spec("V6.09")
@pytest.mark.parametrize(
    "name", ["no_such_module:f", "vad_lib.summary:nothing", "vad_lib.summary:OK", "", "vad_lib.summary"]
)
def test_a_strategy_that_is_not_there_is_named_in_the_error(name: str) -> None:
    with pytest.raises(PlanError, match="summary strategy"):
        load_strategy(name)
