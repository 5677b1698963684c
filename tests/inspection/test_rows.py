"""Rows of a table: every readable one gets its result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import BrightnessModel, write_image
from inspection_plant import Plant

from vad_lib.inspection import InspectionResult, inspect_rows
from vad_lib.landing import RunState
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


def _inspect(
    plant: Plant, rows: pd.DataFrame, model: BrightnessModel | None = None, **more: object
) -> InspectionResult:
    settings = {"model_version": "1", "line": plant.line, "rows": rows, **more}
    return inspect_rows(plant.db, model or BrightnessModel(), **settings)  # type: ignore[arg-type]


@pytest.mark.spec("V2.06", "V5.04")
def test_labels_come_through_and_equal_images_are_scored_once_but_told_twice(plant: Plant, tmp_path: Path) -> None:
    first = write_image(tmp_path / "a.png", 50)
    second = Path(shutil.copy(first, tmp_path / "b.png"))
    model = BrightnessModel()
    result = _inspect(plant, _rows(first, second, labels=["good", "scratch"]), model)
    assert result.predictions["label"].tolist() == ["good", "scratch"]
    assert result.predictions["is_anomalous"].tolist() == [False, True]
    assert (model.images, plant.db.count_predictions("bottles")) == (1, 1)


@pytest.mark.spec("V5.05")
def test_without_labels_the_label_columns_are_empty(plant: Plant, tmp_path: Path) -> None:
    result = _inspect(plant, _rows(write_image(tmp_path / "a.png", 50)))
    assert result.predictions["label"].isna().all()
    assert result.predictions["is_anomalous"].isna().all()


def test_a_broken_image_is_named_with_its_row_and_the_others_have_results(plant: Plant, tmp_path: Path) -> None:
    good = write_image(tmp_path / "a.png", 50)
    (tmp_path / "b.png").write_bytes(b"")
    result = _inspect(plant, _rows(good, tmp_path / "b.png", tmp_path / "gone.png"))
    assert len(result.predictions) == 1
    assert result.refused[["row", "image_path"]].to_numpy().tolist() == [[1, "b.png"], [2, "gone.png"]]
    assert (tmp_path / "b.png").exists()


def test_what_a_folder_showed_before_is_no_duplicate_when_it_lands(plant: Plant, tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.png", 50)
    _inspect(plant, _rows(file))
    shutil.copy(file, plant.inbox / "landed.png")
    model = BrightnessModel()
    landed = plant.inspect(plant.land_batch(), model)
    assert landed.predictions["image_path"].tolist() == ["landed.png"]
    assert (landed.reused, model.images) == (1, 0)
    assert plant.tick(RunState("succeeded")).requests == ()


def test_both_ways_give_the_same_numbers(plant: Plant, tmp_path: Path) -> None:
    for i in range(6):
        write_image(plant.inbox / f"{i}.png", 80 + 7 * i)
    landed = plant.inspect(plant.land_batch(), batch_size=4)
    other = Plant(type(plant.db)(f"sqlite:///{tmp_path}/other.db"), plant.line)
    told = _inspect(other, _rows(*sorted(plant.inbox.iterdir())), batch_size=1)
    columns = ["sha256", "raw_score", "p", "certainty", "predicted"]
    assert landed.predictions[columns].equals(told.predictions[columns])


def test_maps_are_made_for_images_whose_result_is_known_already(plant: Plant, tmp_path: Path) -> None:
    rows = _rows(write_image(tmp_path / "a.png", 50))
    _inspect(plant, rows)
    assert _inspect(plant, rows, maps_folder=tmp_path / "maps").load_map(0).shape == (16, 16)
    assert plant.db.count_predictions("bottles") == 1


def test_no_rows_give_an_empty_result_of_the_right_shape(plant: Plant) -> None:
    result = _inspect(plant, _rows())
    Predictions.validate(result.predictions)
    assert len(result.refused) == 0
