"""The readiness step as a whole, on real images."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.readiness.make_images import crop, write_images, write_set
from vad_lib.errors import InputError, ReadinessError
from vad_lib.findings import Finding
from vad_lib.ground_truth import InputTable, no_images, read_input
from vad_lib.plan.arguments import InputArguments, ReadinessArguments, TrainArguments
from vad_lib.readiness import RULES, ValidatedDataset, prepare_inference_data, prepare_training_data


def prepare(folder: Path, monitor_metric: str = "image_AUROC", seed: int = 42, **arguments: object) -> ValidatedDataset:
    table = read_input(folder, InputArguments(), pipeline="train")
    train = TrainArguments.model_validate({"monitor_metric": monitor_metric, "experiment_seed": seed})
    return prepare_training_data(table, ReadinessArguments.model_validate(arguments), train)


def inspect(folder: Path, ok_class: str | None = None, **options: object) -> ValidatedDataset:
    table = read_input(folder, InputArguments(), pipeline="inference")
    return prepare_inference_data(table, ok_class, **options)  # type: ignore[arg-type]


def finding(dataset: ValidatedDataset | ReadinessError, rule: str) -> Finding:
    found = [finding for finding in dataset.findings if finding.rule == rule]
    assert len(found) == 1, [finding.rule for finding in dataset.findings]
    return found[0]


def rules(dataset: ValidatedDataset) -> set[str]:
    return {finding.rule for finding in dataset.findings}


def write_table(folder: Path, table: pd.DataFrame) -> None:
    table.to_csv(folder / "train.csv", index=False)


@pytest.mark.spec("V3.01", "V3.07")
def test_rows_without_path_or_label_are_dropped_and_counted_by_column(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12)
    table.loc[1, "label"] = "  "
    table.loc[[2, 3], "image_path"] = ""
    write_table(tmp_path, table)
    dataset = prepare(tmp_path)
    warning = finding(dataset, "missing_values")
    assert "2 in column 'image_path' and 1 in column 'label'" in warning.message
    assert (warning.severity, warning.blocking, warning.count) == ("warn", False, 3)
    assert dataset.dropped["row"].tolist() == [1, 2, 3]
    assert dataset.dropped["reason"].tolist()[0] == "no value in column 'label'"
    assert dataset.rows["row"].tolist() == [0, *range(4, 12)]
    assert dataset.config()["counts"]["dropped"] == {"missing_values": 3}


@pytest.mark.spec("V1.03")
def test_the_step_needs_nothing_but_what_input_handed_over(tmp_path: Path) -> None:
    folder, handed_over = tmp_path / "data", tmp_path / "handed_over"
    write_set(folder, 12, 2)
    read_input(folder, InputArguments(), pipeline="train").save(handed_over)
    expected = prepare(folder)
    (folder / "train.csv").unlink()
    dataset = prepare_training_data(InputTable.load(handed_over), ReadinessArguments(), TrainArguments())
    pd.testing.assert_frame_equal(dataset.rows, expected.rows)
    assert dataset.config() == expected.config()


@pytest.mark.spec("V3.02", "V9.02")
def test_missing_columns_are_named_all_at_once_with_those_that_are_there(tmp_path: Path) -> None:
    write_table(tmp_path, write_set(tmp_path, 3).rename(columns={"label": "Label"}))
    with pytest.raises(ReadinessError) as caught:
        prepare(tmp_path, train_validate_column="phase")
    text = str(caught.value)
    assert "no column 'label' (y_column), perhaps 'Label' is meant; no column 'phase'" in text
    assert "'image_path', 'Label'" in text
    assert finding(caught.value, "missing_columns").blocking


@pytest.mark.spec("V3.03")
def test_rows_whose_image_is_missing_are_dropped_and_listed(tmp_path: Path) -> None:
    write_set(tmp_path, 12)
    (tmp_path / "good" / "3.png").unlink()
    dataset = prepare(tmp_path)
    assert "'./good/3.png'" in finding(dataset, "missing_file").message
    assert dataset.dropped.to_dict("records") == [
        {"row": 3, "image_path": "./good/3.png", "rule": "missing_file", "reason": "file not found: ./good/3.png"}
    ]
    assert len(dataset.rows) == 11


@pytest.mark.spec("V3.03")
def test_no_usable_row_blocks_with_the_reasons_counted(tmp_path: Path) -> None:
    write_table(tmp_path, pd.DataFrame({"image_path": ["a.png", "../b.png", ""], "label": ["x", "x", "x"]}))
    with pytest.raises(ReadinessError) as caught:
        prepare(tmp_path)
    assert "None of the 3 rows" in str(caught.value)
    assert "missing_file 1, such as: file not found: a.png" in str(caught.value)
    assert set(caught.value.dropped["rule"]) == {"missing_file", "path_leaves_folder", "missing_values"}


def test_columns_that_were_exchanged_are_told(tmp_path: Path) -> None:
    write_table(tmp_path, write_set(tmp_path, 3).rename(columns={"image_path": "label", "label": "image_path"}))
    with pytest.raises(ReadinessError, match=r"its label \./good/0\.png is: path_column and y_column may be exchanged"):
        prepare(tmp_path)


@pytest.mark.spec("V8.12", "V2.09")
def test_every_kind_of_bad_image_has_its_reason_and_the_others_pass(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    table = write_set(folder, 12)
    (tmp_path / "secret.png").write_bytes((folder / "good" / "0.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "good" / "0.png").read_bytes()[:200])
    (folder / "folder.png").mkdir()
    (folder / "a.gif").write_bytes(b"BM")
    write_images(folder, ["qu\"ote's ü.png"], first=99)
    bad = ["link.png", "../secret.png", "empty.png", "text.png", "cut.png", "folder.png", "a.gif", "qu\"ote's ü.png"]
    write_table(folder, pd.concat([table, pd.DataFrame({"image_path": bad, "label": "good"})]))
    dataset = prepare(folder)
    reasons = dict(zip(dataset.dropped["image_path"], dataset.dropped["reason"], strict=True))
    assert {path: reason for path, reason in reasons.items() if "png" in path and "/" not in reason} == {
        "empty.png": "empty file",
        "text.png": "not a PNG, JPEG, BMP, TIFF or WebP image (it is text)",
        "cut.png": "truncated",
        "folder.png": "is a folder, not a file",
    }
    assert "link to a place outside" in reasons["link.png"]
    assert "leaves the data folder" in reasons["../secret.png"]
    assert "not named .png" in reasons["a.gif"]
    assert len(dataset.rows) == 13
    assert dataset.rows["image_path"].tolist()[-1] == "qu\"ote's ü.png"


@pytest.mark.spec("V3.04", "V2.03")
def test_an_ok_class_that_no_row_has_blocks_and_lists_the_labels(tmp_path: Path) -> None:
    write_set(tmp_path, 5, 2)
    with pytest.raises(ReadinessError, match=r"'Good' is not among .*'good' \(5\), 'bad' \(2\).*Perhaps 'good'"):
        prepare(tmp_path, ok_class="Good")


@pytest.mark.spec("V3.05", "V2.02", "V3.16")
def test_an_empty_ok_class_becomes_the_most_frequent_label(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12, 2)
    write_table(tmp_path, table.replace({"label": {"good": "정상"}}))
    dataset = prepare(tmp_path)
    assert dataset.ok_class == "정상"
    assert dataset.rows["is_anomalous"].sum() == 2


@pytest.mark.spec("V3.06")
def test_a_tie_for_the_most_frequent_label_asks_and_does_not_guess(tmp_path: Path) -> None:
    write_set(tmp_path, 4, 4)
    with pytest.raises(ReadinessError, match=r"equally frequent \(4 each\).*Set ok_class"):
        prepare(tmp_path)
    assert prepare(tmp_path, ok_class="bad").ok_class == "bad"


@pytest.mark.spec("V3.08", "V8.05", "V8.11", "V7.07", "V10.02")
def test_all_other_labels_are_anomalous_and_few_of_a_kind_are_warned_about(tmp_path: Path) -> None:
    table = write_set(tmp_path, 15, 14)
    table["label"] = ["good"] * 15 + ["dent"] * 11 + ["scratch"] * 3
    write_table(tmp_path, table)
    dataset = prepare(tmp_path)
    assert dataset.rows.groupby("label")["is_anomalous"].first().to_dict() == {
        "good": False,
        "dent": True,
        "scratch": True,
    }
    assert finding(dataset, "images_per_anomaly").examples == ({"label": "scratch", "images": 3},)


def test_labels_that_differ_in_letter_case_or_spaces_are_pointed_out(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12)
    table.loc[0, "label"] = " good"
    table.loc[1, "label"] = "Good"
    write_table(tmp_path, table)
    dataset = prepare(tmp_path)
    assert "'Good' counts as anomalous" in finding(dataset, "similar_labels").message
    assert finding(dataset, "spaces_around_values").count == 1
    assert dataset.rows["label"].tolist()[:2] == ["good", "Good"]
    assert dataset.input_table["label"].tolist()[0] == " good"


@pytest.mark.spec("V3.09", "V3.12", "V3.13", "V7.03", "V8.07", "V14.04")
def test_the_users_split_is_used_with_its_oddities_said(tmp_path: Path) -> None:
    table = write_set(tmp_path, 8, 3)
    table["phase"] = ["train", "Train", " train", "train", "valid", "test", "", "valid", "train", "valid", "test"]
    write_table(tmp_path, table)
    dataset = prepare(tmp_path, train_validate_column="phase")
    assert dataset.rows["split"].tolist() == ["train"] * 4 + ["valid"] * 4 + ["excluded", "valid", "valid"]
    assert "'test' (2), '(empty)' (1)" in finding(dataset, "other_split_values").message
    assert finding(dataset, "anomalous_train_rows").count == 1
    assert not dataset.train_rows["is_anomalous"].any()
    assert dataset.config()["counts"]["excluded"] == {"normal": 0, "anomalous": 1, "unlabelled": 0}


@pytest.mark.spec("V3.15")
@pytest.mark.parametrize("phases", [["train"] * 4, ["valid"] * 4])
def test_a_split_without_normal_rows_on_one_side_blocks(tmp_path: Path, phases: list[str]) -> None:
    write_table(tmp_path, write_set(tmp_path, 4, 2).assign(phase=[*phases, "valid", "valid"]))
    with pytest.raises(ReadinessError, match="each needs at least 1"):
        prepare(tmp_path, train_validate_column="phase")


@pytest.mark.spec("V3.15")
def test_one_normal_image_or_copies_of_one_cannot_be_split(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    with pytest.raises(ReadinessError, match="1 normal row to train with and 0"):
        prepare(tmp_path)
    table = write_set(tmp_path, 3)
    for name in ("1.png", "2.png"):
        (tmp_path / "good" / name).write_bytes((tmp_path / "good" / "0.png").read_bytes())
    write_table(tmp_path, table)
    with pytest.raises(ReadinessError, match="two different ones"):
        prepare(tmp_path)


@pytest.mark.spec("V3.10", "V3.11", "V3.14", "V14.05")
def test_the_made_split_follows_rate_and_seed_and_sends_all_anomalous_rows_to_valid(tmp_path: Path) -> None:
    table = write_set(tmp_path, 40, 4)
    dataset = prepare(tmp_path, validation_split_rate=0.25)
    valid = dataset.valid_rows
    assert (len(dataset.train_rows), int((~valid["is_anomalous"]).sum()), int(valid["is_anomalous"].sum())) == (
        30,
        10,
        4,
    )
    again = prepare(tmp_path, validation_split_rate=0.25)
    pd.testing.assert_frame_equal(again.rows, dataset.rows)
    other = prepare(tmp_path, validation_split_rate=0.25, seed=7)
    assert set(other.valid_rows["row"]) != set(valid["row"])
    write_table(tmp_path, table.sample(frac=1, random_state=3))
    shuffled = prepare(tmp_path, validation_split_rate=0.25)
    assert set(shuffled.valid_rows["image_path"]) == set(valid["image_path"])


def test_a_copy_in_valid_of_a_training_image_is_dropped_from_valid(tmp_path: Path) -> None:
    table = write_set(tmp_path, 6).assign(phase=["train", "train", "train", "valid", "valid", "train"])
    (tmp_path / "good" / "4.png").write_bytes((tmp_path / "good" / "0.png").read_bytes())
    (tmp_path / "good" / "5.png").write_bytes((tmp_path / "good" / "1.png").read_bytes())
    write_table(tmp_path, table)
    dataset = prepare(tmp_path, train_validate_column="phase")
    leak = finding(dataset, "train_valid_leak")
    assert (leak.severity, leak.blocking, leak.count) == ("error", False, 1)
    assert dataset.dropped["row"].tolist() == [4]
    assert dataset.dropped["reason"].tolist() == ["the same bytes as row 0, which is in train"]
    assert finding(dataset, "exact_duplicates").count == 1  # row 5 of row 1, both in train


def test_the_same_image_with_opposite_labels_is_dropped_twice(tmp_path: Path) -> None:
    write_set(tmp_path, 6, 2)
    (tmp_path / "bad" / "0x.png").write_bytes((tmp_path / "good" / "0.png").read_bytes())
    dataset = prepare(tmp_path)
    assert dataset.dropped["row"].tolist() == [0, 6]
    assert finding(dataset, "conflicting_labels").severity == "error"


def test_a_row_that_is_there_twice_is_used_once(tmp_path: Path) -> None:
    table = write_set(tmp_path, 5)
    again = pd.DataFrame({"image_path": ["good/../good/2.png"], "label": ["good"]})
    write_table(tmp_path, pd.concat([table, again]))
    dataset = prepare(tmp_path)
    assert dataset.dropped[["row", "rule", "reason"]].to_numpy().tolist() == [
        [5, "repeated_rows", "the same image as in row 2"]
    ]


@pytest.mark.spec("V7.06")
def test_mostly_anomalous_data_is_warned_about(tmp_path: Path) -> None:
    write_set(tmp_path, 4, 6)
    dataset = prepare(tmp_path, ok_class="good")
    assert "6, and only 4 normal" in finding(dataset, "mostly_anomalous").message


@pytest.mark.spec("V2.02", "V3.16", "V3.26", "V7.01", "V8.02", "V8.08", "V8.09", "P6.05")
def test_only_normal_and_mostly_normal_data_both_pass_from_one_folder(tmp_path: Path) -> None:
    write_set(tmp_path / "normal", 20)
    only_normal = prepare(tmp_path / "normal")
    assert (len(only_normal.train_rows), len(only_normal.valid_rows)) == (18, 2)
    assert only_normal.threshold_method == "Percentile"
    assert finding(only_normal, "only_normal_images").severity == "info"
    write_set(tmp_path / "mostly", 20, 6)
    mostly = prepare(tmp_path / "mostly", validation_split_rate=0.4)
    assert (mostly.threshold_method, mostly.monitor_metric, mostly.changes) == ("F1", "image_AUROC", ())
    assert "only_normal_images" not in rules(mostly)


@pytest.mark.spec("V9.01", "V9.07", "P1.05")
def test_too_few_normal_images_is_an_error_that_blocks_only_where_enforced_and_not_where_allowed(
    tmp_path: Path,
) -> None:
    write_set(tmp_path, 12)
    shown = finding(prepare(tmp_path), "normal_image_count")
    assert (shown.severity, shown.blocking) == ("error", False)
    with pytest.raises(ReadinessError, match="12 normal images; the requirement is 100 to 50000") as caught:
        prepare(tmp_path, enforce_requirements=True)
    assert finding(caught.value, "normal_image_count").blocking
    allowed = prepare(tmp_path, enforce_requirements=True, allow_small_dataset=True)
    assert finding(allowed, "normal_image_count").severity == "warn"
    assert allowed.config()["arguments"]["readiness"]["allow_small_dataset"] is True


@pytest.mark.spec("V9.03")
def test_mixed_channels_are_an_error_that_names_both_counts(tmp_path: Path) -> None:
    write_set(tmp_path, 12)
    Image.fromarray(crop(50)).convert("RGB").save(tmp_path / "good" / "3.png")
    dataset = prepare(tmp_path)
    mixed = finding(dataset, "channels")
    assert "1 images have 3 channels and 11 have 1" in mixed.message
    assert (mixed.severity, mixed.blocking, mixed.examples[0]["image_path"]) == ("error", False, "./good/3.png")
    assert dataset.rows["channels"].tolist()[3] == 3
    with pytest.raises(ReadinessError):
        prepare(tmp_path, enforce_requirements=True, allow_small_dataset=True)


@pytest.mark.spec("V9.04", "V10.03", "V7.05")
@pytest.mark.parametrize(
    ("size", "broken"),
    [
        ((31, 300), {"resolution", "recommended_resolution"}),
        ((32, 224), {"recommended_resolution"}),
        ((224, 1024), set()),
        ((1025, 400), {"recommended_resolution"}),
        ((1921, 300), {"resolution", "recommended_resolution"}),
    ],
)
def test_sizes_outside_the_limits_are_said(tmp_path: Path, size: tuple[int, int], broken: set[str]) -> None:
    write_set(tmp_path, 12, size=230)
    Image.fromarray(crop(50)).resize(size).save(tmp_path / "good" / "3.png")
    dataset = prepare(tmp_path)
    assert rules(dataset) & {"resolution", "recommended_resolution"} == broken
    assert f"{size[0]} x {size[1]} (1)" in finding(dataset, "mixed_sizes").message
    for rule in broken:
        assert finding(dataset, rule).count == 1
        assert finding(dataset, rule).severity == ("error" if rule == "resolution" else "warn")


@pytest.mark.spec("V9.03")
def test_converted_images_are_counted_by_what_was_converted(tmp_path: Path) -> None:
    write_set(tmp_path, 12)
    deep = Image.fromarray(crop(60).astype(np.uint16) * 257)
    deep.save(tmp_path / "good" / "2.png")
    dataset = prepare(tmp_path)
    assert "16-bit grey: values of 16 bits (1)" in finding(dataset, "converted_images").message
    assert dataset.rows["channels"].tolist() == [1] * 12


@pytest.mark.spec("V10.01", "V8.13")
def test_names_that_several_images_share_are_warned_about(tmp_path: Path) -> None:
    write_images(tmp_path, ["image0.png", "good/image0.png", "good/Image0.jpg", "a.png", "b.png"])
    rows = [(path, "ok") for path in ("./image0.png", "./good/image0.png", "./good/Image0.jpg", "a.png", "b.png")]
    write_table(tmp_path, pd.DataFrame(rows, columns=["image_path", "label"]))
    assert finding(prepare(tmp_path), "unique_names").count == 3


@pytest.mark.spec("V10.07", "V10.08")
def test_blurred_and_dark_normal_images_stand_out(tmp_path: Path) -> None:
    from PIL import ImageFilter

    write_set(tmp_path, 30)
    Image.fromarray(crop(70)).filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "good" / "4.png")
    Image.fromarray(crop(71) // 4).save(tmp_path / "good" / "5.png")
    dataset = prepare(tmp_path)
    assert finding(dataset, "focus").examples[0]["image_path"] == "./good/4.png"
    assert finding(dataset, "environment").examples[0]["image_path"] == "./good/5.png"
    assert {finding(dataset, rule).severity for rule in ("focus", "environment")} == {"warn"}


@pytest.mark.spec("V10.09")
def test_only_mandatory_requirements_can_be_enforced() -> None:
    assert {rule.name for rule in RULES if rule.mandatory} == {"normal_image_count", "channels", "resolution"}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.spec("V3.17", "V3.23", "V3.24", "V11.01")
def test_changes_are_logged_reported_and_in_the_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path, 12, 2)
    with caplog.at_level(logging.WARNING):
        dataset = prepare(tmp_path)
    assert (dataset.threshold_method, dataset.monitor_metric) == ("Percentile", "loss")
    assert [(change["argument"], change["old"], change["new"]) for change in dataset.config()["automatic_changes"]] == [
        ("threshold_method", "F1", "Percentile"),
        ("monitor_metric", "image_AUROC", "loss"),
    ]
    assert "not above num_minor_threshold 5" in dataset.changes[0].reason
    assert "threshold_method was changed from F1 to Percentile" in caplog.text
    assert rules(dataset) >= {"threshold_method", "monitor_metric"}
    json.dumps(dataset.config(), allow_nan=False)


def test_blocking_findings_come_together(tmp_path: Path) -> None:
    write_set(tmp_path, 12, size=20)
    Image.fromarray(crop(50)).convert("RGB").save(tmp_path / "good" / "3.png")
    with pytest.raises(ReadinessError) as caught:
        prepare(tmp_path, enforce_requirements=True)
    assert {f.rule for f in caught.value.findings if f.blocking} == {"normal_image_count", "channels", "resolution"}
    assert str(caught.value).count("\n- ") == 3


def test_every_finding_has_a_rule_that_is_listed(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12, 3)
    table.loc[0, "label"] = ""
    write_table(tmp_path, table)
    (tmp_path / "x.gif").write_bytes(b"BM")
    assert rules(prepare(tmp_path)) <= {rule.name for rule in RULES}


def test_a_dataset_survives_saving_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    table = write_set(tmp_path / "data", 12, 3)
    table.loc[0, "label"] = ""
    write_table(tmp_path / "data", table)
    for number, dataset in enumerate((prepare(tmp_path / "data"), inspect(tmp_path / "data"))):
        folder = tmp_path / f"saved{number}"
        dataset.save(folder)
        loaded = ValidatedDataset.load(folder)
        for name in ("rows", "dropped", "image_facts", "input_table"):
            pd.testing.assert_frame_equal(getattr(loaded, name), getattr(dataset, name))
        assert loaded.config() == dataset.config()
    (folder / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no readable dataset"):
        ValidatedDataset.load(folder)


@pytest.mark.spec("V2.05", "V5.05", "V8.10")
def test_a_folder_without_labels_can_be_inspected(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "deep/b.JPG"])
    (tmp_path / "bad.png").write_text("text")
    dataset = inspect(tmp_path, "good")
    assert dataset.rows["split"].tolist() == ["inference"] * 2
    assert dataset.rows["label"].isna().all()
    assert dataset.rows["is_anomalous"].isna().all()
    assert dataset.dropped["rule"].tolist() == ["unreadable_image"]
    assert dataset.config()["counts"]["inference"] == {"normal": 0, "anomalous": 0, "unlabelled": 2}


@pytest.mark.spec("V2.06", "V5.04")
def test_labels_at_inference_are_kept_and_judged_where_the_normal_label_is_known(tmp_path: Path) -> None:
    table = write_set(tmp_path, 2, 1)
    table.loc[1, "label"] = ""
    write_table(tmp_path, table)
    dataset = inspect(tmp_path, "good")
    assert dataset.rows["is_anomalous"].tolist() == [False, pd.NA, True]
    assert inspect(tmp_path).rows["is_anomalous"].isna().all()
    assert inspect(tmp_path).rows["label"].tolist() == ["good", None, "bad"]


def test_a_batch_of_files_can_be_prepared_and_may_be_all_bad(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "bad.png").write_bytes(b"")
    assert inspect(tmp_path, files=[tmp_path / "b.png"]).rows["image_path"].tolist() == ["b.png"]
    with pytest.raises(ReadinessError, match="None of the 1 row"):
        inspect(tmp_path, files=["bad.png"])
    empty = inspect(tmp_path, files=["bad.png"], allow_empty=True, train_facts=inspect(tmp_path).image_facts)
    assert len(empty.rows) == 0
    assert empty.dropped["reason"].tolist() == ["empty file"]


@pytest.mark.spec("V10.08")
def test_a_darker_batch_is_reported_against_the_training_images(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 30)
    facts = prepare(tmp_path / "train").normal_facts
    write_images(tmp_path / "same", [f"{i}.png" for i in range(8)], first=100)
    assert "environment_changed" not in rules(inspect(tmp_path / "same", train_facts=facts))
    for number in range(8):
        (tmp_path / "dark").mkdir(exist_ok=True)
        Image.fromarray(crop(number) // 4).convert("RGB").save(tmp_path / "dark" / f"{number}.png")
    changed = [f for f in inspect(tmp_path / "dark", train_facts=facts).findings if f.rule == "environment_changed"]
    text = " ".join(f.message for f in changed)
    assert "The brightness of 8 new images differs" in text
    assert "8 new images have channels that no training image has: 3 (training: 1)" in text


@pytest.mark.spec("V8.14", "V3.25", "V9.04")
def test_the_published_sample_passes_with_its_small_images_shown_as_an_error(shared_data: Path) -> None:
    folder = shared_data / "vad_sample" / "sample_data"
    dataset = prepare(folder / "train", "loss", threshold_method="Percentile", train_validate_column="train_validate")
    counts = dataset.config()["counts"]
    assert counts["train"] == {"normal": 102, "anomalous": 0, "unlabelled": 0}
    assert counts["valid"] == {"normal": 9, "anomalous": 10, "unlabelled": 0}
    assert (dataset.ok_class, dataset.threshold_method, dataset.changes) == ("good", "Percentile", ())
    assert finding(dataset, "resolution").count == 121
    assert not any(f.blocking for f in dataset.findings)
    new = inspect(folder / "inference", "good", train_facts=dataset.normal_facts)
    assert len(new.rows) == 20


def test_an_image_with_two_kinds_of_defect_counts_once(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12, 3)
    second = table[table["label"] == "bad"].assign(label="dent")
    write_table(tmp_path, pd.concat([table, second]))
    dataset = prepare(tmp_path)
    anomalous = dataset.valid_rows[dataset.valid_rows["is_anomalous"]]
    assert anomalous["label"].tolist() == ["bad + dent"] * 3
    assert dataset.threshold_method == "Percentile"  # 3 images, though 6 rows
    assert finding(dataset, "several_kinds").count == 3
    assert dataset.dropped["rule"].tolist() == ["several_kinds"] * 3
    assert dataset.dropped["reason"].tolist()[0] == "the same image as in row 12: bad + dent"
    assert {each["label"] for each in finding(dataset, "images_per_anomaly").examples} == {"bad", "dent"}
    assert "exact_duplicates" not in rules(dataset)


def test_an_image_with_two_kinds_of_defect_is_inspected_once(tmp_path: Path) -> None:
    table = write_set(tmp_path, 2, 2)
    write_table(tmp_path, pd.concat([table, table[table["label"] == "bad"].assign(label="dent")]))
    dataset = inspect(tmp_path, "good")
    assert dataset.rows["label"].tolist() == ["good", "good", "bad + dent", "bad + dent"]


@pytest.mark.parametrize("label", ["good\u200b", "ｇｏｏｄ", "GOOD", "go\u00adod", "good\ufe0f", "good\u3164"])
def test_labels_that_look_like_the_normal_one_are_named_with_what_cannot_be_seen(tmp_path: Path, label: str) -> None:
    table = write_set(tmp_path, 12, 2)
    table.loc[3, "label"] = label
    write_table(tmp_path, table)
    message = finding(prepare(tmp_path, ok_class="good"), "similar_labels").message
    shown = "GOOD" if label == "GOOD" else "".join(sign if sign.isascii() else ascii(sign)[1:-1] for sign in label)
    assert f"Only 'good' is normal: '{shown}' counts as anomalous." in message


def test_what_a_script_writes_for_no_label_is_named_and_is_no_missing_value(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12, 2)
    table.loc[3, "label"] = "nan"
    write_table(tmp_path, table)
    dataset = prepare(tmp_path, ok_class="good")
    assert "Programs write 'nan' into an empty cell" in finding(dataset, "similar_labels").message
    assert dataset.rows.loc[3, "is_anomalous"]
    table["label"] = table["label"].replace({"good": "none", "nan": "bad"})
    write_table(tmp_path, table)
    assert "similar_labels" not in rules(prepare(tmp_path, ok_class="none"))  # it is the name of the normal ones


def test_an_ok_class_that_only_looks_right_is_shown_with_what_is_meant(tmp_path: Path) -> None:
    write_table(tmp_path, write_set(tmp_path, 12, 2).replace({"label": {"good": "good\u200b"}}))
    with pytest.raises(ReadinessError) as caught:
        prepare(tmp_path, ok_class="good")
    assert finding(caught.value, "ok_class").advice == r"Perhaps 'good\u200b' is meant."


def _stored(folder: Path, normal: str, anomalous: str, depth: type = np.uint8, size: int = 40) -> ValidatedDataset:
    rows = [(f"g{i}.{normal}", "good") for i in range(12)] + [(f"n{i}.{anomalous}", "bad") for i in range(6)]
    for number, (name, label) in enumerate(rows):
        pixels = crop(number, size if label == "bad" else 40)
        if label == "bad" and depth is not np.uint8:
            pixels = pixels.astype(depth) * 257
        Image.fromarray(pixels).save(folder / name)
    write_table(folder, pd.DataFrame(rows, columns=["image_path", "label"]))
    return prepare(folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"anomalous": "jpg"}, "PNG are 100% of the normal images and 0% of the anomalous (JPG)"),
        (
            {"anomalous": "png", "depth": np.uint16},
            "8-bit grey are 100% of the normal images and 0% of the anomalous (16-bit grey: values of 16 bits)",
        ),
        ({"anomalous": "png", "size": 48}, "40 x 40 are 100%"),
    ],
)
def test_files_that_tell_the_label_by_how_they_are_stored_are_told(
    tmp_path: Path, options: dict[str, object], told: str
) -> None:
    assert told in finding(_stored(tmp_path, "png", **options), "format_tells_label").message  # type: ignore[arg-type]


def test_files_that_are_stored_alike_are_fine_and_a_few_others_too(tmp_path: Path) -> None:
    assert "format_tells_label" not in rules(_stored(tmp_path, "png", "png"))
    for number in range(12, 14):
        Image.fromarray(crop(number)).save(tmp_path / f"n{number - 12}.jpg")
    table = pd.read_csv(tmp_path / "train.csv").replace({"n0.png": "n0.jpg", "n1.png": "n1.jpg"})
    write_table(tmp_path, table)
    assert "format_tells_label" not in rules(prepare(tmp_path))


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_of_decomposed_letters_are_found_by_composed_ones_and_the_other_way_round(
    tmp_path: Path, on_disk: str, in_table: str
) -> None:
    rows = [(f"./정상/부품ü{number}.png", "good") for number in range(12)]
    write_images(tmp_path, [unicodedata.normalize(on_disk, path) for path, _ in rows])
    written = [(unicodedata.normalize(in_table, path), label) for path, label in rows]
    (tmp_path / unicodedata.normalize(on_disk, "정상") / "é").mkdir()  # folder and file may be written differently
    write_images(
        tmp_path, [unicodedata.normalize(on_disk, "정상") + "/" + unicodedata.normalize(in_table, "äöü.png")], first=20
    )
    written.append((unicodedata.normalize(in_table, "정상/äöü.png"), "good"))
    write_table(tmp_path, pd.DataFrame(written, columns=["image_path", "label"]))
    dataset = prepare(tmp_path)
    assert len(dataset.rows) == 13
    assert not {"missing_file", "images_without_row"} & rules(dataset)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    table = write_set(tmp_path, 12, 2)
    table.loc[[3, 4], "image_path"] = ["good/4.PNG", "elsewhere/x.png"]
    write_table(tmp_path, table)
    dataset = prepare(tmp_path)
    assert dataset.dropped["reason"].tolist() == [
        "file not found: good/4.PNG (the nearest is '4.png')",
        "file not found: elsewhere/x.png",
    ]
    assert "(the nearest is '4.png')" in finding(dataset, "missing_file").message


WITHOUT_IMAGES = TrainArguments(model_name="anomalyclip")


def test_no_row_is_no_error_for_a_detector_that_needs_none_and_one_for_all_others(tmp_path: Path) -> None:
    table = no_images(tmp_path, InputArguments())
    dataset = prepare_training_data(table, ReadinessArguments(ok_class="fine"), WITHOUT_IMAGES)
    assert rules(dataset) == {"no_training_images"}
    dataset.save(tmp_path / "saved")
    loaded = ValidatedDataset.load(tmp_path / "saved")
    assert (len(loaded.rows), loaded.ok_class, loaded.digest) == (0, "fine", dataset.digest)
    assert loaded.normal_facts.empty
    with pytest.raises(ReadinessError) as caught:
        prepare_training_data(table, ReadinessArguments(), TrainArguments())
    assert finding(caught.value, "no_rows_left").blocking


def test_all_rows_may_be_for_validation_where_the_detector_needs_no_images(tmp_path: Path) -> None:
    write_table(tmp_path, write_set(tmp_path, 12, 4).assign(use="valid"))
    table = read_input(tmp_path, InputArguments(), pipeline="train")
    arguments = ReadinessArguments(train_validate_column="use")
    dataset = prepare_training_data(table, arguments, WITHOUT_IMAGES)
    assert (len(dataset.train_rows), len(dataset.valid_rows)) == (0, 16)
    assert (len(dataset.doubts()), dataset.doubts(fits=False)) == (1, ())
    with pytest.raises(ReadinessError, match="0 normal rows to train with"):
        prepare_training_data(table, arguments, TrainArguments())
