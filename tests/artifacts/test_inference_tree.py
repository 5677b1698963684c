"""The tree of an inspection."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.artifacts.conftest import MakeInspection, maps_for
from tests.artifacts.test_train_tree import files_of
from vad_lib.artifacts import write_inference_tree
from vad_lib.artifacts.inference_tree import InspectionRecord

LOGS = {"log/experimental_history.json", "log/pipeline.log", "log/process.log"}
ALWAYS = LOGS | {"score/inference_summary.yaml", "output/output.csv"}
ROWS = [("OK3.jpg", 1.0), ("OK4.jpg", 0.5), ("NG2.jpg", 9.0)]


@pytest.mark.spec("V12.01", "V12.02", "V12.03", "V12.04", "V12.05", "V12.06", "V5.06", "V5.07", "V5.08", "V6.16")
def test_an_inspection_leaves_exactly_the_guides_tree(make_inspection: MakeInspection, tmp_path: Path) -> None:
    record = make_inspection(ROWS)
    tree = write_inference_tree(tmp_path / "inference_artifacts", record, maps=maps_for(record.predictions))
    images = "extra_output/inference/Patchcore/latest/images"
    assert files_of(tree.folder) == ALWAYS | {f"{images}/{path}" for path, _ in ROWS} | {"output/NG2.jpg"}
    source = Path(record.predictions.set_index("image_path").filter(like="NG2", axis=0)["file"].item())
    assert (tree.folder / "output/NG2.jpg").read_bytes() == source.read_bytes()
    summary = yaml.safe_load(tree.summary_file.read_text())
    assert (summary["result"], summary["version"]) == ("OK:2 NG:1", "4")


@pytest.mark.spec("V5.05", "V5.07", "V14.37")
def test_without_maps_and_labels_there_are_neither_heatmaps_nor_performance(
    make_inspection: MakeInspection, tmp_path: Path
) -> None:
    tree = write_inference_tree(tmp_path / "out", make_inspection([("OK3.jpg", 1.0)]))
    assert files_of(tree.folder) == ALWAYS
    assert (tree.folder / "extra_output/inference/Patchcore/latest/images").is_dir()
    assert tree.summary.result == "OK"


@pytest.mark.spec("V5.04", "V5.09")
def test_with_labels_performance_is_saved(make_inspection: MakeInspection, tmp_path: Path) -> None:
    tree = write_inference_tree(tmp_path / "out", make_inspection(ROWS, labels=["good", "bad", "bad"]))
    score = pd.read_csv(tree.folder / "output/inference_score.csv").iloc[0]
    assert (score["tp"], score["fp"], score["tn"], score["fn"]) == (1, 0, 1, 1)
    assert (
        json.loads((tree.folder / "output/inference_classification_report.json").read_text())["by_label"]["bad"]["n"]
        == 2
    )
    assert (tree.folder / "output/inference_confusion_matrix.csv").is_file()


def test_broken_images_are_named_and_the_others_have_results(make_inspection: MakeInspection, tmp_path: Path) -> None:
    record = make_inspection([*ROWS, ("cut.png", 0.0)], broken=("cut.png", "empty.png"))
    tree = write_inference_tree(tmp_path / "out", record)
    table = pd.read_csv(tree.output, keep_default_na=False).set_index("image_path")
    table.index = [path.removeprefix("./") for path in table.index]
    assert table["predicted"].to_dict() == {
        "NG2.jpg": "NG",
        "OK3.jpg": "OK",
        "OK4.jpg": "OK",
        "cut.png": "",
        "empty.png": "",
    }
    assert [bool(table.loc[name, "problem"]) for name in ("OK3.jpg", "cut.png", "empty.png")] == [False, True, True]
    assert "not inspected" in (tree.folder / "log/pipeline.log").read_text()
    assert tree.summary.note.startswith("3 inspected; 2 not: ")
    assert len(tree.summary.note) <= 100


def test_images_that_fail_while_they_are_scored_are_named_too(make_inspection: MakeInspection, tmp_path: Path) -> None:
    from dataclasses import replace

    record = make_inspection(ROWS)
    gone = record.predictions.iloc[0]
    failed = pd.DataFrame(
        [{"row": gone["row"], "image_path": gone["image_path"], "rule": "unreadable_image", "reason": "it vanished"}]
    )
    tree = write_inference_tree(
        tmp_path / "out", replace(record, predictions=record.predictions.iloc[1:], failed=failed)
    )
    table = pd.read_csv(tree.output, keep_default_na=False)
    assert table.loc[table["image_path"] == gone["image_path"], "problem"].tolist() == ["it vanished"]


@pytest.mark.spec("V12.05", "V6.17")
def test_doubtful_images_are_copied_too_and_beyond_the_cap_only_marked(
    make_inspection: MakeInspection, tmp_path: Path
) -> None:
    rows = [("a/n.png", 9.0), ("b/n.png", 8.0), ("c/n.png", 7.0), ("d/doubt.png", 3.9), ("e/sure.png", 0.0)]
    record = make_inspection(rows)
    tree = write_inference_tree(tmp_path / "all", record)
    assert {f.name for f in (tree.folder / "output").iterdir()} == {
        "output.csv", "n.png", "b-n.png", "c-n.png", "doubt.png",
    }  # fmt: skip
    capped = write_inference_tree(tmp_path / "capped", record, most_review_copies=2)
    assert len(capped.review_copies) == 2
    table = pd.read_csv(capped.output, keep_default_na=False)
    assert table["review"].tolist() == ["yes", "yes", "yes", "yes", ""]
    assert table["review_copy"].tolist() == ["n.png", "b-n.png", "", "", ""]
    assert "4 for review, 2 copied" in capped.summary.note
    assert "4 images are worth a look, 2 were copied" in (capped.folder / "log/pipeline.log").read_text()


def test_review_copies_and_heatmaps_are_made_of_the_bytes_that_were_scored_or_not_at_all(
    make_inspection: MakeInspection, tmp_path: Path
) -> None:
    record = make_inspection([("a.png", 9.0), ("b.png", 8.0), ("c.png", 7.0)])
    changed, linked, kept = (Path(file) for file in record.predictions["file"])
    changed.write_bytes(kept.read_bytes())
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    linked.unlink()
    linked.symlink_to(secret)
    tree = write_inference_tree(tmp_path / "out", record, maps=maps_for(record.predictions))
    assert [file.name for file in tree.review_copies.values()] == [kept.name]
    assert (tree.folder / "output" / kept.name).read_bytes() == kept.read_bytes()
    assert [file.name for file in tree.heatmaps.values()] == [kept.name]
    table = pd.read_csv(tree.output, keep_default_na=False)
    assert table["review"].tolist() == ["yes"] * 3
    assert "another image lies in its place now" in (tree.folder / "log/pipeline.log").read_text()


@pytest.mark.spec("V8.13", "V12.06")
def test_heatmaps_of_equal_names_do_not_overwrite_each_other(make_inspection: MakeInspection, tmp_path: Path) -> None:
    record = make_inspection([("a/x.png", 1.0), ("b/x.png", 2.0), ("b/X.PNG", 3.0), ("x.jpg", 1.0)])
    tree = write_inference_tree(tmp_path / "out", record, maps=maps_for(record.predictions))
    names = {
        file.name.casefold() for file in (tree.folder / "extra_output/inference/Patchcore/latest/images").iterdir()
    }
    assert len(names) == 4
    assert len(set(tree.heatmaps.values())) == 4
    assert all(file.is_file() for file in tree.heatmaps.values())


def test_an_inspection_of_nothing_readable_still_leaves_a_whole_tree(
    make_inspection: MakeInspection, tmp_path: Path
) -> None:
    record = make_inspection(ROWS)
    nothing = InspectionRecord(
        dataset=record.dataset, predictions=record.predictions.iloc[:0], model_name="fastflow", version="1"
    )
    tree = write_inference_tree(tmp_path / "out", nothing)
    assert files_of(tree.folder) == ALWAYS
    assert (tree.folder / "extra_output/inference/Fastflow/latest/images").is_dir()
    assert set(pd.read_csv(tree.output)["problem"]) == {"not inspected"}
