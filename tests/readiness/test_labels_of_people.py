"""Labels of people become rows of the training data: never twice, never against the table, never on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.readiness.make_images import crop, write_set
from tests.readiness.test_preparing import finding, rules
from vad_lib.errors import ReadinessError
from vad_lib.ground_truth import InputTable, no_images, read_input
from vad_lib.plan.arguments import InputArguments, ReadinessArguments, TrainArguments
from vad_lib.readiness import ValidatedDataset, prepare_training_data
from vad_lib.tables import ConfirmedLabels

SPOKEN = datetime(2026, 11, 30, 14, 5, tzinfo=UTC)


def labels_of(said: Mapping[Path, str]) -> pd.DataFrame:
    """Return confirmed labels of these files, given by Kim one after the other."""
    rows = [
        {
            "label_id": number,
            "label": label,
            "kind": None,
            "person": "Kim",
            "created_at": SPOKEN,
            "note": None,
            "prediction_id": number,
            "model_version": "vad-a/1",
            "predicted": "OK",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "path": f"/inbox/{file.name}",
            "file": str(file),
            "mask": None,
        }
        for number, (file, label) in enumerate(said.items(), start=1)
    ]
    return ConfirmedLabels.validate(pd.DataFrame(rows))


def kept(folder: Path, number: int, change: int = 0) -> Path:
    """Write a judged image outside the training folder."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{number}_{change}.png"
    Image.fromarray(np.clip(crop(number).astype(int) + change, 0, 255).astype(np.uint8)).save(file)
    return file


def read(folder: Path, said: Mapping[Path, str], **arguments: str) -> InputTable:
    table = read_input(folder, InputArguments(), pipeline="train")
    return table.with_labels(labels_of(said), **arguments)


def prepare(table: InputTable, **arguments: object) -> ValidatedDataset:
    return prepare_training_data(table, ReadinessArguments.model_validate(arguments), TrainArguments())


def splits(dataset: ValidatedDataset) -> dict[str, str]:
    """Return what became of each label, by the name of the image."""
    used = dataset.labels_used()
    return {Path(path).name: used_as for path, used_as in zip(used["path"], used["used_as"], strict=True)}


@pytest.mark.spec("L2.01", "L2.02")
def test_normals_are_fitted_and_defects_validate_in_the_words_of_the_table(tmp_path: Path) -> None:
    table = write_set(tmp_path / "train", 12, 3)
    table["phase"] = ["Train"] * 9 + ["check"] * 6
    table.to_csv(tmp_path / "train" / "train.csv", index=False)
    good, bad = kept(tmp_path / "kept", 50), kept(tmp_path / "kept", 51)
    joined = read(tmp_path / "train", {good: "OK", bad: "NG"}, split_column="phase")
    added = joined.table.iloc[15:]
    assert added.to_numpy().tolist() == [[str(good), "good", "Train"], [str(bad), "bad", "check"]]
    assert joined.rows_of_files == 15
    dataset = prepare(joined, train_validate_column="phase")
    assert splits(dataset) == {good.name: "train", bad.name: "valid"}
    assert dataset.rows.set_index("row").loc[16, ["label", "is_anomalous"]].tolist() == ["bad", True]


def test_kinds_go_along_where_the_table_knows_them_and_boxes_as_masks(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 12, 3)
    files = [kept(tmp_path / "kept", 50 + number) for number in range(3)]
    labels = labels_of(dict(zip(files, ("NG", "NG", "OK"), strict=True)))
    labels["kind"] = ["Bad", "not in the table", None]
    labels["mask"] = [str(tmp_path / "kept" / "mask.png"), None, None]
    table = read_input(tmp_path / "train", InputArguments(), pipeline="train")
    table.table.loc[:1, "label"] = "scratch"
    joined = table.with_labels(labels, ok_class="good")
    assert joined.table["label"].iloc[15:].tolist() == ["bad", "bad", "good"]
    assert prepare(joined).mask_of_files() == {str(files[0]): tmp_path / "kept" / "mask.png"}
    labels["kind"] = ["SCRATCH", None, None]
    assert table.with_labels(labels, ok_class="good").table["label"].iloc[15:].tolist() == ["scratch", "bad", "good"]


@pytest.mark.spec("L2.01")
def test_who_said_it_when_and_on_which_prediction_goes_through_to_the_stored_dataset(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 12, 3)
    good = kept(tmp_path / "kept", 50)
    read(tmp_path / "train", {good: "OK"}).save(tmp_path / "table")
    prepare(InputTable.load(tmp_path / "table")).save(tmp_path / "dataset")
    dataset = ValidatedDataset.load(tmp_path / "dataset")
    (one,) = dataset.labels_used().itertuples()
    assert (one.person, one.created_at, one.prediction_id, one.model_version) == ("Kim", SPOKEN, 1, "vad-a/1")
    assert (one.row, one.path) == (15, f"/inbox/{good.name}")
    assert one.used_as in ("train", "valid"), "without a column of splits it is split as any other row"
    assert "1 of the images are there by labels of people (Kim; the last of 2026-11-30 14:05 UTC)" in (
        dataset.people_in_words()
    )
    assert dataset.config()["counts"]["labels_of_people"] == {one.used_as: 1}


@pytest.mark.spec("L2.02")
def test_many_labelled_defects_do_not_become_the_normal_kind(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 4, 3)
    said = {kept(tmp_path / "kept", 50 + number): "NG" for number in range(6)}
    dataset = prepare(read(tmp_path / "train", said))
    assert dataset.ok_class == "good", "most rows are 'bad' by now"
    assert set(splits(dataset).values()) == {"valid"}


@pytest.mark.spec("L2.03")
def test_an_image_that_the_table_holds_is_not_there_twice(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 12, 3)
    again = tmp_path / "copy_of_a_bad_one.png"
    again.write_bytes((tmp_path / "train" / "bad" / "0x.png").read_bytes())
    dataset = prepare(read(tmp_path / "train", {again: "NG"}))
    assert splits(dataset) == {again.name: "labelled_already"}
    assert finding(dataset, "labelled_already").severity == "info"
    assert len(dataset.rows) == 15
    assert dataset.rows["sha256"].is_unique


@pytest.mark.spec("L2.04")
def test_where_the_table_and_a_person_differ_neither_counts_and_both_are_told(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 12, 3)
    said = {}
    for name, label in (("good/0", "NG"), ("bad/1x", "OK")):
        file = tmp_path / f"{Path(name).name}.png"
        file.write_bytes((tmp_path / "train" / f"{name}.png").read_bytes())
        said[file] = label
    dataset = prepare(read(tmp_path / "train", said))
    told = finding(dataset, "labels_against_table")
    assert (told.severity, told.blocking, told.count) == ("error", False, 2)
    assert "'./good/0.png', './bad/1x.png'" in told.message
    assert {(one["says"], one["who"]) for one in told.examples} == {
        ("good", "the table"), ("bad", "the table"), ("NG", "Kim on 2026-11-30"), ("OK", "Kim on 2026-11-30"),
    }  # fmt: skip
    dropped = dataset.dropped[dataset.dropped["rule"] == "labels_against_table"]
    assert dropped["row"].tolist() == [0, 13, 15, 16]
    assert len(dataset.rows) == 13
    assert dataset.people_in_words() == ""


@pytest.mark.spec("L2.05")
@pytest.mark.parametrize("side", ["train", "valid"])
def test_labelled_images_go_to_the_side_on_which_their_look_alikes_are(tmp_path: Path, side: str) -> None:
    table = write_set(tmp_path / "train", 12, 3)
    table["phase"] = ["train"] * 6 + ["valid"] * 9
    table.loc[3, "phase"] = side
    table.to_csv(tmp_path / "train" / "train.csv", index=False)
    # a little brighter than row 3 of the table; and two that look like each other only
    near, first, second = (kept(tmp_path / "kept", *which) for which in ((3, 2), (60, 0), (60, 2)))
    joined = read(tmp_path / "train", dict.fromkeys((near, first, second), "OK"), split_column="phase")
    dataset = prepare(joined, train_validate_column="phase")
    assert splits(dataset) == {near.name: side, first.name: "train", second.name: "train"}
    assert ("labels_beside_look_alikes" in rules(dataset)) == (side == "valid")
    assert dataset.rows.set_index("row").loc[3, "split"] == side, "rows of the table stay where they are"


@pytest.mark.spec("L2.05")
def test_two_pictures_of_one_part_that_people_confirmed_stay_together_where_the_split_is_made(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 4, 3)
    said = {kept(tmp_path / "kept", 50 + number, change): "OK" for number in range(8) for change in (0, 2)}
    dataset = prepare(read(tmp_path / "train", said), validation_split_rate=0.5)
    used = splits(dataset)
    assert set(used.values()) == {"train", "valid"}
    assert all(used[f"{50 + number}_0.png"] == used[f"{50 + number}_2.png"] for number in range(8))


def test_labels_cannot_stand_in_for_a_table_whose_images_are_gone(tmp_path: Path) -> None:
    table = write_set(tmp_path / "train", 3)
    table["image_path"] = [f"./away/{number}.png" for number in range(3)]
    table.to_csv(tmp_path / "train" / "train.csv", index=False)
    said = {kept(tmp_path / "kept", 50 + number): "OK" for number in range(6)}
    with pytest.raises(ReadinessError, match="None of the 3 rows can be used"):
        prepare(read(tmp_path / "train", said))


def test_a_table_without_the_columns_of_the_plan_is_not_hidden_by_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 3).rename(columns={"label": "kind"}).to_csv(tmp_path / "train" / "train.csv")
    joined = read(tmp_path / "train", {kept(tmp_path / "kept", 50): "OK"})
    assert joined.labels.empty
    with pytest.raises(ReadinessError, match="no column 'label'"):
        prepare(joined)


@pytest.mark.spec("L2.02")
def test_a_detector_that_needs_no_images_is_validated_by_labels_once_they_are_enough(tmp_path: Path) -> None:
    train = TrainArguments.model_validate({"model_name": "anomalyclip"})
    defect = kept(tmp_path / "kept", 49)
    for normal in (4, 5):
        said = {kept(tmp_path / "kept", 50 + number): "OK" for number in range(normal)} | {defect: "NG"}
        table = no_images(tmp_path, InputArguments()).with_labels(labels_of(said))
        dataset = prepare_training_data(table, ReadinessArguments(), train)
        assert ("labels_wait" in rules(dataset)) == (normal < 5)
        assert dataset.rows["split"].tolist() == ["valid"] * (6 if normal == 5 else 0)
        assert set(splits(dataset).values()) == ({"valid"} if normal == 5 else {"nothing"})
