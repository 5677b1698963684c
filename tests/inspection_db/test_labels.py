"""What people say about predictions: the last one holds, the history stays, and the images are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from brightness_model import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_rig import Rig
from PIL import Image
from sqlalchemy import insert

from vad_lib.errors import InputError
from vad_lib.ground_truth import read_input
from vad_lib.inspection.confirmed_labels import NEWEST, collect_labels, lost_labels
from vad_lib.inspection.label_export import export_labels
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor, newest_changes
from vad_lib.inspection_db.labels import (
    Agreement,
    agreement,
    count_judged_since,
    find_prediction,
    label_history,
    labels_that_hold,
    newest_label,
    record_label,
    withdraw_label,
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
    record_label(rig.db, found.prediction_id, "NG", by=Actor("Kim"), note="scratch")
    record_label(rig.db, found.prediction_id, "OK", by=Actor("Lee"))
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
        record_label(rig.db, 1, "OK", by=Actor(" "))
    with pytest.raises(InputError, match="no prediction 99"):
        record_label(rig.db, 99, "OK", by=Actor("Kim"))
    with pytest.raises(InputError, match="OK, NG or unsure"):
        record_label(rig.db, 1, "maybe", by=Actor("Kim"))  # type: ignore[arg-type]
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
    record_label(rig.db, bright.prediction_id, "NG", by=Actor("Kim"))
    record_label(rig.db, dark.prediction_id, "NG", by=Actor("Kim"))
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


@pytest.mark.spec("L1.05")
def test_a_withdrawn_label_holds_no_more_and_its_history_stays(rig: Rig) -> None:
    dark, bright = (find_prediction(rig.db, "bottles", f"{name}.png").prediction_id for name in ("dark", "bright"))
    first = record_label(rig.db, dark, "NG", by=Actor("Kim"))
    record_label(rig.db, bright, "NG", by=Actor("Kim"))
    last = withdraw_label(rig.db, dark, by=Actor("Lee"), note="the wrong one")
    assert labels_that_hold(rig.db, "bottles")["prediction_id"].tolist() == [bright]
    assert label_history(rig.db, "bottles")["label"].tolist() == ["NG", "NG", "withdrawn"]
    assert agreement(rig.db, "bottles") == Agreement(judged=1, agree=1, missed=0, false_alarms=0)
    assert newest_label(rig.db, "bottles") == last
    assert count_judged_since(rig.db, "bottles", 0) == 2, "images, not words"
    assert count_judged_since(rig.db, "bottles", first) == 2, "a withdrawal is something new too"
    assert count_judged_since(rig.db, "bottles", last) == newest_label(rig.db, "caps") == 0
    with pytest.raises(InputError, match="nothing to withdraw"):
        withdraw_label(rig.db, dark, by=Actor("Lee"))
    with pytest.raises(InputError, match="no prediction 99"):
        withdraw_label(rig.db, 99, by=Actor("Lee"))
    record_label(rig.db, dark, "OK", by=Actor("Kim"))
    assert len(labels_that_hold(rig.db, "bottles")) == 2


@pytest.mark.spec("L1.04", "L2.01")
def test_the_line_keeps_a_copy_of_each_judged_image_and_tells_what_is_lost(rig: Rig) -> None:
    for name in ("dark", "bright"):
        record_label(rig.db, find_prediction(rig.db, "bottles", f"{name}.png").prediction_id, "OK", by=Actor("Kim"))
    (rig.inbox / "bright.png").rename(rig.inbox / "moved.png")
    write_image(rig.inbox / "bright.png", 120)
    labels = collect_labels(rig.db, rig.line)
    assert labels["file"].isna().tolist() == [False, True], "another image lies in the place of the bright one"
    assert labels.attrs[NEWEST] == 2
    lost = lost_labels(labels)
    assert lost is not None
    assert "1 of 2" in lost.message
    rig.inspect()  # the line sees it under its new name
    (rig.inbox / "dark.png").unlink()
    found = collect_labels(rig.db, rig.line)
    copies = [Path(file) for file in found["file"]]
    assert lost_labels(found) is None
    assert {file.parent for file in copies} == {rig.line.labelled_images}
    assert copies[1].read_bytes() == (rig.inbox / "moved.png").read_bytes()
    copies[0].write_bytes(b"damaged")
    assert collect_labels(rig.db, rig.line)["file"].isna().tolist() == [True, False]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from(["OK", "NG", None])), max_size=12))
def test_what_holds_is_the_last_word_on_each_image(
    tmp_path_factory: pytest.TempPathFactory, said: Sequence[tuple[int, str | None]]
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
    last: dict[str, str] = {}
    for image, label in said:
        if label is not None:
            record_label(db, image + 1, label, by=Actor("Kim"))  # type: ignore[arg-type]
            last[f"{image}" * 64] = label
        elif last.pop(f"{image}" * 64, None):
            withdraw_label(db, image + 1, by=Actor("Kim"))
    held = labels_that_hold(db, "bottles")
    assert dict(zip(held["sha256"], held["label"], strict=True)) == last
    found = agreement(db, "bottles")
    assert found.agree + found.missed + found.false_alarms == found.judged == len(last)
    assert found.missed == sum(label == "NG" for label in last.values())


def _export(rig: Rig, folder: Path) -> pd.DataFrame:
    export_labels(rig.db, "bottles", folder, ok_label="good", split_column="phase")
    return pd.read_csv(folder / "labels.csv")


@pytest.mark.spec("L1.04")
def test_exported_labels_are_a_table_that_another_training_can_read(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    write_image(folder / "a.png", 90)
    (folder / "table.csv").write_text("image_path,label,phase,camera\n./a.png,good,train,3\n")
    for name, label in (("dark", "OK"), ("bright", "NG")):
        found = find_prediction(rig.db, "bottles", f"{name}.png")
        record_label(rig.db, found.prediction_id, label, by=Actor("Kim"))  # type: ignore[arg-type]
    assert len(_export(rig, folder)) == 2
    truth = read_input(folder, InputArguments(), pipeline="train")
    rows = truth.table.set_index("label")
    assert list(truth.table.columns) == ["image_path", "label", "phase", "camera"]
    assert sorted(truth.table["label"]) == ["NG", "good", "good"]
    assert rows.loc["NG", "phase"] == "valid"
    assert (folder / rows.loc["NG", "image_path"]).read_bytes() == (rig.inbox / "bright.png").read_bytes()
    # a person who changes his mind changes the table, and doing it again adds nothing
    record_label(rig.db, find_prediction(rig.db, "bottles", "bright.png").prediction_id, "OK", by=Actor("Kim"))
    assert list(_export(rig, folder)["label"]) == ["good", "good"]


@pytest.mark.spec("L1.04")
def test_an_image_that_is_gone_or_was_replaced_is_told_and_left_out(rig: Rig, tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        record_label(rig.db, find_prediction(rig.db, "bottles", f"{name}.png").prediction_id, "OK", by=Actor("Kim"))
    (rig.inbox / "dark.png").unlink()
    write_image(rig.inbox / "bright.png", 120)
    made = export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    assert sorted(Path(path).name for path in made.lost) == ["bright.png", "dark.png"]
    assert (made.ok, made.ng) == (0, 0)
    assert list((tmp_path / "labels").iterdir()) == []


def test_a_label_uses_the_word_that_the_tables_use_most_for_their_defects(rig: Rig, tmp_path: Path) -> None:
    record_label(rig.db, find_prediction(rig.db, "bottles", "bright.png").prediction_id, "NG", by=Actor("Kim"))
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
    record_label(rig.db, 1, "OK", by=Actor("Kim"))
    (tmp_path / "table.csv").write_text("file,label\na.png,good\n")
    with pytest.raises(InputError, match="no column image_path, only file, label"):
        export_labels(rig.db, "bottles", tmp_path, ok_label="good")
    with pytest.raises(InputError, match="There is no folder"):
        export_labels(rig.db, "bottles", tmp_path / "none", ok_label="good")


def test_kinds_and_boxes_go_with_an_ng_and_lie_in_the_image(rig: Rig) -> None:
    dark = find_prediction(rig.db, "bottles", "dark.png").prediction_id
    record_label(rig.db, dark, "NG", by=Actor("Kim"), kind="  hair   crack ", boxes=[(0, 0, 4, 5)])
    (held,) = labels_that_hold(rig.db, "bottles").itertuples()
    assert (held.kind, held.boxes) == ("hair crack", "[[0, 0, 4, 5]]")
    refusals = [("OK", "crack", []), ("unsure", None, [(0, 0, 1, 1)]), ("NG", "x" * 101, [])]
    refusals += [("NG", None, [(left, 0, right, 9)]) for left, right in ((5, 5), (-1, 4), (0, 100_000))]
    for label, kind, boxes in refusals:
        with pytest.raises(InputError):
            record_label(rig.db, dark, label, by=Actor("Kim"), kind=kind, boxes=boxes)  # type: ignore[arg-type]
    assert len(label_history(rig.db, "bottles")) == 1


def test_who_is_unsure_leaves_no_label_and_can_be_taken_back_like_any_other(rig: Rig) -> None:
    dark = find_prediction(rig.db, "bottles", "dark.png").prediction_id
    record_label(rig.db, dark, "NG", by=Actor("Kim"))
    record_label(rig.db, dark, "unsure", by=Actor("Lee"))
    assert labels_that_hold(rig.db, "bottles").empty
    withdraw_label(rig.db, dark, by=Actor("Lee"))
    with pytest.raises(InputError, match="nothing to withdraw"):
        withdraw_label(rig.db, dark, by=Actor("Lee"))
    assert list(newest_changes(rig.db)["action"]) == ["label"] * 3


def test_boxes_become_a_mask_beside_the_copy_of_the_image(rig: Rig) -> None:
    bright = find_prediction(rig.db, "bottles", "bright.png").prediction_id
    record_label(rig.db, bright, "NG", by=Actor("Kim"), kind="dent", boxes=[(1, 2, 5, 4), (10, 10, 16, 16)])
    (held,) = collect_labels(rig.db, rig.line).itertuples()
    mask = np.asarray(Image.open(held.mask))
    assert (held.kind, mask.shape, int((mask == 255).sum())) == ("dent", (16, 16), 4 * 2 + 6 * 6)
    assert mask[2:4, 1:5].all()
    record_label(rig.db, bright, "NG", by=Actor("Kim"), boxes=[(0, 0, 1, 1)])
    (again,) = collect_labels(rig.db, rig.line).itertuples()
    assert again.mask != held.mask, "an earlier training keeps what it was given"
    assert collect_labels(rig.db, rig.line, keep=False)["mask"].isna().all()
    record_label(rig.db, bright, "NG", by=Actor("Kim"))
    assert collect_labels(rig.db, rig.line)["mask"].isna().all()
