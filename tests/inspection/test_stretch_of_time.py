"""A stretch of time as an inspection's result, whichever lane decided what is in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml
from brightness_model import BrightnessModel, write_image
from inspection_plant import Plant
from sqlalchemy import update

from vad_dagster.cli.results import moment
from vad_lib.artifacts import InspectionRecord, write_inference_tree
from vad_lib.errors import InputError
from vad_lib.inspection.window import inspected_between, maps_of
from vad_lib.inspection_db.schema import landings
from vad_lib.landing import RunState

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def inspection_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/inspection.db"


def _inspect_what_is_new(plant: Plant) -> None:
    (request,) = plant.tick(RunState("succeeded")).requests
    plant.inspect(request.batch_id)


@pytest.fixture
def day(plant: Plant) -> Plant:
    """One image in the morning, two and a broken file in the afternoon, in two lanes."""
    write_image(plant.inbox / "early.png", 50)
    plant.inspect(plant.land_batch(), lane="fast")
    write_image(plant.inbox / "late.png", 60)
    write_image(plant.inbox / "bright.png", 200)
    (plant.inbox / "broken.png").write_bytes(b"\x89PNG nothing")
    _inspect_what_is_new(plant)
    with plant.db.writing() as connection:
        connection.execute(update(landings).values(decided_at=NOON + timedelta(hours=1)))
        connection.execute(
            update(landings).where(landings.c.path == "early.png").values(decided_at=NOON - timedelta(hours=1))
        )
    return plant


@pytest.mark.spec("V12.03", "V12.04")
def test_a_tree_of_any_stretch_of_time_comes_from_the_database(day: Plant, tmp_path: Path) -> None:
    dataset, result = inspected_between(day.db, "bottles", folder=day.inbox, model_version="1", since=NOON)
    tree = write_inference_tree(
        tmp_path / "tree",
        InspectionRecord(
            dataset=dataset, predictions=result.predictions, failed=result.refused, model_name="patchcore", version="1"
        ),
    )
    output = pd.read_csv(tree.output).set_index("image_path")
    assert list(output.index) == ["bright.png", "broken.png", "late.png"]
    assert output["predicted"].fillna("").to_dict() == {"bright.png": "NG", "broken.png": "", "late.png": "OK"}
    assert output.loc["broken.png", "problem"]
    assert yaml.safe_load(tree.summary_file.read_text())["result"] == "OK:1 NG:1"
    assert result.versions == {"1": 2}
    assert result.scored == 0


def test_the_stretches_of_a_day_share_nothing_and_lack_nothing(day: Plant) -> None:
    def files(since: datetime | None, before: datetime | None) -> set[str]:
        dataset, _ = inspected_between(
            day.db, "bottles", folder=day.inbox, model_version="1", since=since, before=before
        )
        return set(dataset.input_table["image_path"])

    assert files(None, NOON) == {"early.png"}
    assert files(NOON, None) == {"late.png", "bright.png", "broken.png"}
    assert files(None, None) == files(None, NOON) | files(NOON, None)
    with pytest.raises(InputError, match="Nothing that landed"):
        files(NOON + timedelta(days=1), None)


def test_a_file_that_was_written_again_is_there_once(day: Plant) -> None:
    write_image(day.inbox / "late.png", 210)
    _inspect_what_is_new(day)
    _, result = inspected_between(day.db, "bottles", folder=day.inbox, model_version="1", since=NOON)
    predicted = dict(zip(result.predictions["image_path"], result.predictions["predicted"], strict=True))
    assert predicted == {"bright.png": "NG", "late.png": "NG"}


def test_maps_are_drawn_of_what_still_lies_there(day: Plant) -> None:
    _, result = inspected_between(day.db, "bottles", folder=day.inbox, model_version="1")
    write_image(day.inbox / "early.png", 51)
    (day.inbox / "late.png").unlink()
    rows = result.predictions.set_index("image_path")["row"]
    assert [row for row, _ in maps_of(result, BrightnessModel())] == [rows["bright.png"]]


def test_a_time_is_told_as_people_tell_it() -> None:
    assert moment("2d", NOON) == NOON - timedelta(days=2)
    assert moment("2026-01-02T13:00+01:00", NOON) == NOON
    with pytest.raises(InputError, match="90m, 8h or 2d"):
        moment("yesterday", NOON)
