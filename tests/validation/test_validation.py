"""Which validation images get a map, and how another model is measured on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vad_lib.metrics import evaluate
from vad_lib.models import ImageResult
from vad_lib.validation import SCALE_IMAGES, beside_on_rows, judge_rows, make_validation_maps


class Model:
    """Scores a file by the number in its name; file 13 cannot be read."""

    def __init__(self, *, maps: bool = True) -> None:
        self.maps = maps
        self.asked: list[int] = []

    def predict_files(self, files: Sequence[Path], **settings: Any) -> Iterator[ImageResult]:
        for index, file in enumerate(files):
            number = int(file.stem)
            self.asked.append(number)
            if number == 13:
                yield ImageResult(index, file, None, None, None, None, None, None, "truncated")
                continue
            anomaly_map = np.full((4, 4), number, np.float32)
            anomaly_map[0, 0] += 1
            predicted = "NG" if number >= 50 else "OK"
            with_map = anomaly_map if self.maps and settings.get("with_maps") else None
            yield ImageResult(index, file, "x", float(number), number / 100, 0.5, predicted, with_map)


def judged(numbers: Sequence[int], anomalous: Sequence[int]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": numbers,
            "file": [f"/x/{number}.png" for number in numbers],
            "is_anomalous": [number in anomalous for number in numbers],
            "predicted": ["NG" if number >= 50 else "OK" for number in numbers],
        }
    )


@pytest.mark.spec("V4.19", "V4.20")
def test_maps_are_kept_of_all_anomalous_and_all_misjudged_rows_only(tmp_path: Path) -> None:
    maps = make_validation_maps(Model(), judged([10, 20, 60, 70], [20, 70]), tmp_path)  # type: ignore[arg-type]
    assert dict(maps).keys() == {20, 60, 70}  # a miss, a false alarm, a hit; never 10, rightly OK
    assert maps.scale is not None
    assert maps.scale.low < maps.scale.contour < maps.scale.high


def test_without_heatmaps_only_what_the_scale_needs_is_computed(tmp_path: Path) -> None:
    model = Model()
    rows = judged(list(range(14, 14 + 3 * SCALE_IMAGES)), [])
    maps = make_validation_maps(model, rows, tmp_path, heatmaps=False)  # type: ignore[arg-type]
    assert dict(maps) == {}
    assert maps.scale is not None
    assert len(model.asked) == 2 * SCALE_IMAGES


def test_a_detector_without_maps_has_no_scale(tmp_path: Path) -> None:
    maps = make_validation_maps(Model(maps=False), judged([10, 60], [60]), tmp_path)  # type: ignore[arg-type]
    assert maps.scale is None
    assert dict(maps) == {}


def test_a_model_is_measured_on_the_rows_that_can_be_read() -> None:
    decided = judge_rows(Model(), judged([13, 20, 60, 70], [13, 70]))  # type: ignore[arg-type]
    evaluation = evaluate(decided["raw_score"], decided["is_anomalous"], list(decided["predicted"]))
    assert (evaluation.tp, evaluation.fp, evaluation.tn, evaluation.fn) == (1, 1, 1, 0)


def test_two_models_are_compared_row_by_row_with_interval_and_test() -> None:
    old = judge_rows(Model(), judged([20, 60, 70, 80], [60, 70]))  # type: ignore[arg-type]
    new = old.assign(predicted=["OK", "NG", "NG", "OK"], raw_score=[0.1, 0.8, 0.9, 0.2])
    told = beside_on_rows(new, old)
    assert "Of 4 validation rows only the challenger is right on 1, only the champion on 0" in told
    assert "a difference of +25.0%" in told
    assert "AUROC differs by +0.5000" in told
    assert "AUROC" not in beside_on_rows(new[:1], old)
    assert beside_on_rows(new[:0], old) == ""
