"""What people say about predictions: the last one holds, the history stays, and training takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from brightness_model import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_rig import Rig
from sqlalchemy import insert

from vad_lib.errors import InputError
from vad_lib.ground_truth import read_input
from vad_lib.inspection.label_export import export_labels
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.labels import (
    Agreement,
    agreement,
    find_prediction,
    label_history,
    labels_that_hold,
    record_label,
)
from vad_lib.inspection_db.schema import predictions
from vad_lib.lines import Home
from vad_lib.plan.arguments import InputArguments


@pytest.fixture
def rig(inspection_url: str, tmp_path: Path) -> Rig:
    """A dark image that is OK and a bright one that is NG, both with predictions."""
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    rig = Rig(InspectionDatabase(inspection_url), line)
    write_image(line.inbox / "dark.png", 50)
    write_image(line.inbox / "bright.png", 200)
    rig.inspect()
    assert dict(zip(*rig.db.predictions("bottles")[["path", "predicted"]].T.to_numpy(), strict=True)) == {
        str(line.inbox / "dark.png"): "OK",
        str(line.inbox / "bright.png"): "NG",
    }
    return rig


@pytest.mark.spec("L1.03")
def test_the_last_label_holds_and_those_before_it_stay(rig: Rig) -> None:
    found = find_prediction(rig.db, "bottles", "dark.png")
    record_label(rig.db, found.prediction_id, "NG", person="Kim", note="scratch")
    record_label(rig.db, found.prediction_id, "OK", person="Lee")
    history = label_history(rig.db, "bottles")
    assert list(history["label"]) == ["NG", "OK"]
    assert list(history["note"]) == ["scratch", None]
    (held,) = labels_that_hold(rig.db, "bottles").itertuples()
    assert (held.label, held.person, held.sha256) == ("OK", "Lee", found.sha256)
    assert labels_that_hold(rig.db, "caps").empty


def test_an_image_is_named_by_number_content_incoming_path_or_place(rig: Rig) -> None:
    found = find_prediction(rig.db, "bottles", "bright.png")
    for name in (str(found.prediction_id), found.sha256, found.path):
        assert find_prediction(rig.db, "bottles", name) == found
    for name in ("nothing.png", "99", "9" * 30):
        with pytest.raises(InputError, match="no prediction of"):
            find_prediction(rig.db, "bottles", name)
    with pytest.raises(InputError, match="no prediction of"):
        find_prediction(rig.db, "caps", "bright.png")


def test_a_label_of_nobody_or_on_nothing_is_refused(rig: Rig) -> None:
    with pytest.raises(InputError, match="Say who"):
        record_label(rig.db, 1, "OK", person=" ")
    with pytest.raises(InputError, match="no prediction 99"):
        record_label(rig.db, 99, "OK", person="Kim")
    with pytest.raises(InputError, match="OK or NG"):
        record_label(rig.db, 1, "maybe", person="Kim")  # type: ignore[arg-type]
    assert label_history(rig.db, "bottles").empty


@pytest.mark.spec("L1.03", "P7.07")
def test_a_label_counts_for_every_version_that_saw_the_same_image(rig: Rig) -> None:
    dark, bright = (find_prediction(rig.db, "bottles", f"{name}.png") for name in ("dark", "bright"))
    with rig.db.writing() as connection:
        # a later version calls both OK
        for row in (dark, bright):
            values = {k: v for k, v in row._mapping.items() if k != "prediction_id"}
            connection.execute(
                insert(predictions).values({**values, "model_version": "2", "predicted": "OK", "p": 0.1})
            )
    record_label(rig.db, bright.prediction_id, "NG", person="Kim")
    record_label(rig.db, dark.prediction_id, "NG", person="Kim")
    assert agreement(rig.db, "bottles", "1") == Agreement(judged=2, agree=1, missed=1, false_alarms=0)
    assert agreement(rig.db, "bottles", "2") == Agreement(judged=2, agree=0, missed=2, false_alarms=0)
    assert agreement(rig.db, "bottles").judged == 4
    assert agreement(rig.db, "caps").rate is None


def test_first_scores_are_of_the_first_images_once_there_are_enough_and_of_versions_that_score_alike(rig: Rig) -> None:
    first, second = rig.db.predictions("bottles")["raw_score"]
    with rig.db.writing() as connection:
        row = dict(find_prediction(rig.db, "bottles", "dark.png")._mapping)
        del row["prediction_id"]
        connection.execute(insert(predictions).values({**row, "model_version": "2"}))  # the same image once more
        connection.execute(insert(predictions).values({**row, "sha256": "f" * 64, "model_version": "3"}))
    assert rig.db.first_scores("bottles", ["1", "2"], 2) == [first, second]
    assert rig.db.first_scores("bottles", ["1", "2"], 1) == [first]
    assert rig.db.first_scores("bottles", ["1", "2"], 3) == []
    assert len(rig.db.first_scores("bottles", ["1", "2", "3"], 3)) == 3
    assert rig.db.first_scores("caps", ["1"], 1) == rig.db.first_scores("bottles", [], 1) == []


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
                    source="batch", created_at=utc_now(),
                )
            )  # fmt: skip
    for image, label in said:
        record_label(db, image + 1, label, person="Kim")  # type: ignore[arg-type]
    held = labels_that_hold(db, "bottles")
    last = {f"{image}" * 64: label for image, label in said}
    assert dict(zip(held["sha256"], held["label"], strict=True)) == last
    found = agreement(db, "bottles")
    assert found.agree + found.missed + found.false_alarms == found.judged == len(last)
    assert found.missed == sum(label == "NG" for label in last.values())


def _export(rig: Rig, folder: Path) -> pd.DataFrame:
    export_labels(rig.db, "bottles", folder, ok_label="good", split_column="phase")
    return pd.read_csv(folder / "labels.csv")


@pytest.mark.spec("L1.04", "P7.08")
def test_labels_become_rows_of_the_next_ground_truth(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    write_image(folder / "a.png", 90)
    (folder / "table.csv").write_text("image_path,label,phase,camera\n./a.png,good,train,3\n")
    for name, label in (("dark", "OK"), ("bright", "NG")):
        found = find_prediction(rig.db, "bottles", f"{name}.png")
        record_label(rig.db, found.prediction_id, label, person="Kim")  # type: ignore[arg-type]
    assert len(_export(rig, folder)) == 2
    truth = read_input(folder, InputArguments(), pipeline="train")
    rows = truth.table.set_index("label")
    assert list(truth.table.columns) == ["image_path", "label", "phase", "camera"]
    assert sorted(truth.table["label"]) == ["NG", "good", "good"]
    assert rows.loc["NG", "phase"] == "valid"
    assert (folder / rows.loc["NG", "image_path"]).read_bytes() == (rig.inbox / "bright.png").read_bytes()
    # a person who changes his mind changes the table, and doing it again adds nothing
    record_label(rig.db, find_prediction(rig.db, "bottles", "bright.png").prediction_id, "OK", person="Kim")
    assert list(_export(rig, folder)["label"]) == ["good", "good"]


@pytest.mark.spec("L1.04")
def test_an_image_that_is_gone_or_was_replaced_is_told_and_left_out(rig: Rig, tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        record_label(rig.db, find_prediction(rig.db, "bottles", f"{name}.png").prediction_id, "OK", person="Kim")
    (rig.inbox / "dark.png").unlink()
    write_image(rig.inbox / "bright.png", 120)
    made = export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    assert sorted(Path(path).name for path in made.lost) == ["bright.png", "dark.png"]
    assert (made.ok, made.ng) == (0, 0)
    assert list((tmp_path / "labels").iterdir()) == []


def test_a_label_uses_the_word_that_the_tables_use_most_for_their_defects(rig: Rig, tmp_path: Path) -> None:
    record_label(rig.db, find_prediction(rig.db, "bottles", "bright.png").prediction_id, "NG", person="Kim")
    kinds = ["good"] * 5 + ["dent"] + [" scratch "] * 2
    (tmp_path / "a.csv").write_text("image_path,label\n" + "".join(f"{i}.png,{kind}\n" for i, kind in enumerate(kinds)))
    (tmp_path / "b.csv").write_text("image_path,label\n9.png,dent\n8.png,dent\n")
    for ng_label, written in (("", "dent"), ("broken", "broken"), ("", "dent")):
        export_labels(rig.db, "bottles", tmp_path, ok_label="good", ng_label=ng_label)
        assert list(pd.read_csv(tmp_path / "labels.csv")["label"]) == [written]
    for name, rest in (("a.csv", "image_path,label\n1.png,good\n"), ("b.csv", "image_path,label\n2.png,good\n")):
        (tmp_path / name).write_text(rest)
    export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    assert list(pd.read_csv(tmp_path / "labels.csv")["label"]) == ["NG"]  # the tables have no word of their own


def test_a_folder_whose_tables_lack_the_columns_is_refused(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Nobody has given a label"):
        export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    record_label(rig.db, 1, "OK", person="Kim")
    (tmp_path / "table.csv").write_text("file,label\na.png,good\n")
    with pytest.raises(InputError, match="no column image_path, only file, label"):
        export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    with pytest.raises(InputError, match="There is no folder"):
        export_labels(rig.db, "bottles", tmp_path / "none", ok_label="good")
