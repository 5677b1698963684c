"""A stretch of time as an inspection's result, whoever decided what is in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml
from brightness_model import BrightnessModel, write_image
from inspection_rig import Rig
from sqlalchemy import update

from vad_dagster.cli.results import moment
from vad_lib.artifacts import InspectionRecord, write_inference_tree
from vad_lib.errors import InputError
from vad_lib.inspection import Served
from vad_lib.inspection.history import decided_online, inspected_between, maps_of
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db.schema import ONLINE, incoming_files
from vad_lib.queue import new_worker

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def inspection_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/inspection.db"


@pytest.fixture
def day(rig: Rig) -> Rig:
    """One image in the morning, two and a broken file in the afternoon, decided in both ways."""
    write_image(rig.inbox / "early.png", 50)
    rig.register()
    assert work_on(rig.db, rig.line, Served(BrightnessModel(), "1"), Worker(new_worker(), ONLINE), 8).decided
    write_image(rig.inbox / "late.png", 60)
    write_image(rig.inbox / "bright.png", 200)
    (rig.inbox / "broken.png").write_bytes(b"\x89PNG nothing")
    rig.inspect()
    with rig.db.writing() as connection:
        connection.execute(update(incoming_files).values(decided_at=NOON + timedelta(hours=1)))
        connection.execute(
            update(incoming_files)
            .where(incoming_files.c.path == "early.png")
            .values(decided_at=NOON - timedelta(hours=1))
        )
    return rig


@pytest.mark.spec("V12.03", "V12.04", "Q1.16")
def test_a_tree_of_any_stretch_of_time_comes_from_the_database(day: Rig, tmp_path: Path) -> None:
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


@pytest.mark.spec("Q1.16")
def test_the_stretches_of_a_day_share_nothing_and_lack_nothing(day: Rig) -> None:
    def files(since: datetime | None, before: datetime | None) -> set[str]:
        dataset, _ = inspected_between(
            day.db, "bottles", folder=day.inbox, model_version="1", since=since, before=before
        )
        return set(dataset.input_table["image_path"])

    assert files(None, NOON) == {"early.png"}
    assert files(NOON, None) == {"late.png", "bright.png", "broken.png"}
    assert files(None, None) == files(None, NOON) | files(NOON, None)
    with pytest.raises(InputError, match="Nothing that arrived"):
        files(NOON + timedelta(days=1), None)


def test_every_image_that_came_under_one_name_has_its_row(day: Rig) -> None:
    write_image(day.inbox / "late.png", 210)
    day.inspect()
    (day.inbox / "broken.png").write_bytes(b"\x89PNG nothing again")
    day.inspect()
    dataset, result = inspected_between(day.db, "bottles", folder=day.inbox, model_version="1", since=NOON)
    late = result.predictions.query("image_path == 'late.png'")
    assert late["predicted"].tolist() == ["OK", "NG"]
    # Of what was refused, and came again, the last word is enough.
    assert result.refused["image_path"].tolist() == ["broken.png"]
    assert dataset.input_table["image_path"].tolist() == ["bright.png", "broken.png", "late.png", "late.png"]


def test_what_services_decided_can_be_told_from_what_runs_decided(day: Rig) -> None:
    since = NOON - timedelta(days=1)
    dataset, result = decided_online(day.db, "bottles", since=since, folder=day.inbox, model_version="1")
    assert dataset.input_table["image_path"].tolist() == ["early.png"]
    assert result.predictions["predicted"].tolist() == ["OK"]


def test_maps_are_drawn_of_what_still_lies_there(day: Rig) -> None:
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
