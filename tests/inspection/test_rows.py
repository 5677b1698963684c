"""Rows of a table: every readable one gets its result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import THORN, BrightnessModel, write_image
from inspection_rig import Rig

from vad_lib.errors import InputError
from vad_lib.inspection import InspectionResult, Served, inspect_rows
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.tables import Predictions


def _rows(*files: Path, labels: list[str | None] | None = None) -> pd.DataFrame:
    given = labels or [None] * len(files)
    return pd.DataFrame(
        {
            "row": range(len(files)),
            "image_path": [file.name for file in files],
            "file": [str(file) for file in files],
            "label": given,
            "is_anomalous": pd.array([None if label is None else label != "good" for label in given], "boolean"),
        }
    )


def _inspect(rig: Rig, rows: pd.DataFrame, model: BrightnessModel | None = None, **more: object) -> InspectionResult:
    served = Served(model or BrightnessModel(), "1")
    return inspect_rows(rig.db, rig.line.name, served, rows, **more)  # type: ignore[arg-type]


@pytest.mark.spec("V2.06", "V5.04")
def test_labels_come_through_and_equal_images_are_scored_once_but_told_twice(rig: Rig, tmp_path: Path) -> None:
    first = write_image(tmp_path / "a.png", 50)
    second = Path(shutil.copy(first, tmp_path / "b.png"))
    model = BrightnessModel()
    result = _inspect(rig, _rows(first, second, labels=["good", "scratch"]), model)
    assert result.predictions["label"].tolist() == ["good", "scratch"]
    assert result.predictions["is_anomalous"].tolist() == [False, True]
    assert (model.images, rig.db.count_predictions("bottles")) == (1, 1)


@pytest.mark.spec("V5.05")
def test_without_labels_the_label_columns_are_empty(rig: Rig, tmp_path: Path) -> None:
    result = _inspect(rig, _rows(write_image(tmp_path / "a.png", 50)))
    assert result.predictions["label"].isna().all()
    assert result.predictions["is_anomalous"].isna().all()


def test_a_broken_image_is_named_with_its_row_and_the_others_have_results(rig: Rig, tmp_path: Path) -> None:
    good = write_image(tmp_path / "a.png", 50)
    (tmp_path / "b.png").write_bytes(b"")
    result = _inspect(rig, _rows(good, tmp_path / "b.png", tmp_path / "gone.png"))
    assert len(result.predictions) == 1
    assert result.refused[["row", "image_path"]].to_numpy().tolist() == [[1, "b.png"], [2, "gone.png"]]
    assert (tmp_path / "b.png").exists()


def test_what_a_folder_showed_before_is_no_duplicate_when_it_arrives(rig: Rig, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", 50)
    _inspect(rig, _rows(file))
    shutil.copy(file, rig.inbox / "arrived.png")
    model = BrightnessModel()
    arrived = rig.inspect(model)
    assert arrived.predictions["image_path"].tolist() == ["arrived.png"]
    assert (arrived.reused, model.images) == (1, 0)
    assert rig.register() == 0


def test_both_ways_give_the_same_numbers(rig: Rig, tmp_path: Path) -> None:
    for i in range(6):
        write_image(rig.inbox / f"{i}.png", 80 + 7 * i)
    arrived = rig.inspect(chunk=4)
    other = Rig(InspectionDatabase(f"sqlite:///{tmp_path}/other.db"), rig.line)
    told = _inspect(other, _rows(*sorted(rig.inbox.iterdir())), batch_size=1)
    columns = ["sha256", "raw_score", "p", "certainty", "predicted"]
    assert arrived.predictions[columns].equals(told.predictions[columns])


def test_rows_of_which_none_can_be_read_now_are_an_error_and_not_an_empty_result(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No file can be read now.*gone.png"):
        _inspect(rig, _rows(tmp_path / "gone.png", tmp_path / "away.png"))


def test_an_image_on_which_the_detector_fails_is_named_and_the_others_have_results(rig: Rig, tmp_path: Path) -> None:
    files = [write_image(tmp_path / "a.png", 50), write_image(tmp_path / "thorn.png", THORN)]
    result = _inspect(rig, _rows(*files))
    assert result.predictions["image_path"].tolist() == ["a.png"]
    assert result.refused["rule"].tolist() == ["detector_failed"]


def test_maps_are_made_for_images_whose_result_is_known_already(rig: Rig, tmp_path: Path) -> None:
    rows = _rows(write_image(tmp_path / "a.png", 50))
    _inspect(rig, rows)
    assert _inspect(rig, rows, maps_folder=tmp_path / "maps").load_map(0).shape == (16, 16)
    assert rig.db.count_predictions("bottles") == 1


def test_no_rows_give_an_empty_result_of_the_right_shape(rig: Rig) -> None:
    result = _inspect(rig, _rows())
    Predictions.validate(result.predictions)
    assert len(result.refused) == 0
