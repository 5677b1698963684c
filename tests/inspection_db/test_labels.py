"""What people say about predictions: the last one holds, the history stays, and training takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_plant import Plant
from sqlalchemy import insert
from vad_lib.inspection.verdict_export import export_verdicts
from vad_lib.inspection_db.verdicts import (
    Agreement,
    agreement,
    find_prediction,
    record_verdict,
    verdict_history,
    verdicts_that_hold,
)

from vad_lib.errors import InputError
from vad_lib.ground_truth import read_input
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import predictions
from vad_lib.lines import Home
from vad_lib.plan.arguments import InputArguments


@pytest.fixture
def plant(inspection_url: str, tmp_path: Path) -> Plant:
    """A dark image that is OK and a bright one that is NG, both with predictions."""
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    plant = Plant(InspectionDatabase(inspection_url), line)
    write_image(line.inbox / "dark.png", 50)
    write_image(line.inbox / "bright.png", 200)
    plant.inspect(plant.land_batch())
    assert dict(zip(*plant.db.predictions("bottles")[["path", "predicted"]].T.to_numpy(), strict=True)) == {
        str(line.inbox / "dark.png"): "OK",
        str(line.inbox / "bright.png"): "NG",
    }
    return plant


def test_the_last_verdict_holds_and_those_before_it_stay(plant: Plant) -> None:
    found = find_prediction(plant.db, "bottles", "dark.png")
    record_verdict(plant.db, found.prediction_id, "NG", person="Kim", note="scratch")
    record_verdict(plant.db, found.prediction_id, "OK", person="Lee")
    history = verdict_history(plant.db, "bottles")
    assert list(history["verdict"]) == ["NG", "OK"]
    assert list(history["note"]) == ["scratch", None]
    (held,) = verdicts_that_hold(plant.db, "bottles").itertuples()
    assert (held.verdict, held.person, held.sha256) == ("OK", "Lee", found.sha256)
    assert verdicts_that_hold(plant.db, "caps").empty


def test_an_image_is_named_by_number_content_landed_path_or_place(plant: Plant) -> None:
    found = find_prediction(plant.db, "bottles", "bright.png")
    for name in (str(found.prediction_id), found.sha256, found.path):
        assert find_prediction(plant.db, "bottles", name) == found
    for name in ("nothing.png", "99", "9" * 30):
        with pytest.raises(InputError, match="no prediction of"):
            find_prediction(plant.db, "bottles", name)
    with pytest.raises(InputError, match="no prediction of"):
        find_prediction(plant.db, "caps", "bright.png")


def test_a_verdict_of_nobody_or_on_nothing_is_refused(plant: Plant) -> None:
    with pytest.raises(InputError, match="Say who"):
        record_verdict(plant.db, 1, "OK", person=" ")
    with pytest.raises(InputError, match="no prediction 99"):
        record_verdict(plant.db, 99, "OK", person="Kim")
    with pytest.raises(InputError, match="OK or NG"):
        record_verdict(plant.db, 1, "maybe", person="Kim")  # type: ignore[arg-type]
    assert verdict_history(plant.db, "bottles").empty


def test_a_verdict_counts_for_every_version_that_saw_the_same_image(plant: Plant) -> None:
    dark, bright = (find_prediction(plant.db, "bottles", f"{name}.png") for name in ("dark", "bright"))
    with plant.db.writing() as connection:
        # a later version calls both OK
        for row in (dark, bright):
            values = {k: v for k, v in row._mapping.items() if k != "prediction_id"}
            connection.execute(
                insert(predictions).values({**values, "model_version": "2", "predicted": "OK", "p": 0.1})
            )
    record_verdict(plant.db, bright.prediction_id, "NG", person="Kim")
    record_verdict(plant.db, dark.prediction_id, "NG", person="Kim")
    assert agreement(plant.db, "bottles", "1") == Agreement(judged=2, agree=1, missed=1, false_alarms=0)
    assert agreement(plant.db, "bottles", "2") == Agreement(judged=2, agree=0, missed=2, false_alarms=0)
    assert agreement(plant.db, "bottles").judged == 4
    assert agreement(plant.db, "caps").rate is None


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from(["OK", "NG"])), max_size=12))
def test_what_holds_is_the_last_word_on_each_image(
    tmp_path_factory: pytest.TempPathFactory, said: Sequence[tuple[int, str]]
) -> None:
    db = InspectionDatabase(f"sqlite:///{tmp_path_factory.mktemp('db')}/a.db")
    with db.writing() as connection:
        for image in range(3):
            connection.execute(
                insert(predictions).values(
                    line="bottles", sha256=f"{image}" * 64, model_version="1", path=f"/{image}", raw_score=1.0, p=0.4,
                    certainty=0.2, predicted="OK", threshold=1.0, threshold_version="t", inference_threshold=0.5,
                    lane="run", created_at=utc_now(),
                )
            )  # fmt: skip
    for image, verdict in said:
        record_verdict(db, image + 1, verdict, person="Kim")  # type: ignore[arg-type]
    held = verdicts_that_hold(db, "bottles")
    last = {f"{image}" * 64: verdict for image, verdict in said}
    assert dict(zip(held["sha256"], held["verdict"], strict=True)) == last
    found = agreement(db, "bottles")
    assert found.agree + found.missed + found.false_alarms == found.judged == len(last)
    assert found.missed == sum(verdict == "NG" for verdict in last.values())


def _export(plant: Plant, folder: Path) -> pd.DataFrame:
    export_verdicts(plant.db, "bottles", folder, ok_label="good", split_column="phase")
    return pd.read_csv(folder / "verdicts.csv")


def test_verdicts_become_rows_of_the_next_ground_truth(plant: Plant, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    write_image(folder / "a.png", 90)
    (folder / "table.csv").write_text("image_path,label,phase,camera\n./a.png,good,train,3\n")
    for name, verdict in (("dark", "OK"), ("bright", "NG")):
        found = find_prediction(plant.db, "bottles", f"{name}.png")
        record_verdict(plant.db, found.prediction_id, verdict, person="Kim")  # type: ignore[arg-type]
    assert len(_export(plant, folder)) == 2
    truth = read_input(folder, InputArguments(), pipeline="train")
    rows = truth.table.set_index("label")
    assert list(truth.table.columns) == ["image_path", "label", "phase", "camera"]
    assert list(truth.table["label"]) == ["good", "good", "NG"]
    assert rows.loc["NG", "phase"] == "valid"
    assert (folder / rows.loc["NG", "image_path"]).read_bytes() == (plant.inbox / "bright.png").read_bytes()
    # a person who changes his mind changes the table, and doing it again adds nothing
    record_verdict(plant.db, find_prediction(plant.db, "bottles", "bright.png").prediction_id, "OK", person="Kim")
    assert list(_export(plant, folder)["label"]) == ["good", "good"]


def test_an_image_that_is_gone_or_was_replaced_is_told_and_left_out(plant: Plant, tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        record_verdict(plant.db, find_prediction(plant.db, "bottles", f"{name}.png").prediction_id, "OK", person="Kim")
    (plant.inbox / "dark.png").unlink()
    write_image(plant.inbox / "bright.png", 120)
    made = export_verdicts(plant.db, "bottles", tmp_path, ok_label="good")
    assert sorted(Path(path).name for path in made.lost) == ["bright.png", "dark.png"]
    assert (made.ok, made.ng) == (0, 0)
    assert list((tmp_path / "verdicts").iterdir()) == []


def test_a_folder_whose_tables_lack_the_columns_is_refused(plant: Plant, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Nobody has given a verdict"):
        export_verdicts(plant.db, "bottles", tmp_path, ok_label="good")
    record_verdict(plant.db, 1, "OK", person="Kim")
    (tmp_path / "table.csv").write_text("file,label\na.png,good\n")
    with pytest.raises(InputError, match="no column image_path, only file, label"):
        export_verdicts(plant.db, "bottles", tmp_path, ok_label="good")
    with pytest.raises(InputError, match="There is no folder"):
        export_verdicts(plant.db, "bottles", tmp_path / "none", ok_label="good")
