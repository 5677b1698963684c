"""The tree of a training: names, contents, and what is left out when."""

from __future__ import annotations

import json
import logging
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.artifacts.conftest import MakeTraining, maps_for
from vad_lib.artifacts import collect_logs, write_train_tree
from vad_lib.artifacts.pictures import rows_with_heatmaps
from vad_lib.artifacts.tables import write_csv
from vad_lib.tables import ThresholdTable

ONLY_NORMAL = [(f"good/v{n}.png", "good", 1.0 + n / 10) for n in range(5)]


def files_of(folder: Path) -> set[str]:
    place = folder.resolve()
    return {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()}


ALWAYS = {
    "models/readiness/readiness_config.json",
    "models/train/train_config.json",
    "models/train/patchcore_model.ckpt",
    "models/train/best_model_path.json",
    "log/experimental_history.json",
    "log/pipeline.log",
    "log/process.log",
    "output/output.csv",
    "report/report.html",
}
PERFORMANCE = {
    "extra_output/train/threshold_test_result.png",
    "extra_output/train/threshold_test_result.csv",
    "output/validation_classification_report.json",
    "output/validation_confusion_matrix.csv",
    "output/validation_score.csv",
}


@pytest.mark.spec("V11.01", "V11.02", "V11.03", "V11.04", "V11.05", "V11.06", "V11.07", "V11.08", "V11.11", "V11.12")
@pytest.mark.spec("V11.13", "V11.14", "V11.15", "V11.16", "V4.07", "V4.10", "V4.19", "V4.20", "V11.09", "V11.10")
def test_a_training_with_anomalous_rows_leaves_exactly_the_guides_tree(
    make_training: MakeTraining, tmp_path: Path
) -> None:
    record = make_training()
    tree = write_train_tree(tmp_path / "train_artifacts", record, maps=maps_for(record.rows))
    images = {
        "good_NG_v2.png",  # false alarm
        "scratch_NG_v0.png",
        "scratch_NG_v1.jpg",
        "hole_NG_v2.png",
        "hole_OK_v3.png",  # miss
    }
    assert files_of(tree.folder) == ALWAYS | PERFORMANCE | {f"extra_output/train/images/{name}" for name in images}
    assert (tree.folder / "score").is_dir()
    assert [file.name for file in tree.heatmaps.values()] == [
        "hole_OK_v3.png", "good_NG_v2.png", "hole_NG_v2.png", "scratch_NG_v1.jpg", "scratch_NG_v0.png",
    ]  # fmt: skip
    assert all(file.is_file() for file in (tree.checkpoint, tree.report, tree.output, *tree.heatmaps.values()))


@pytest.mark.spec("V4.08", "V4.10", "V2.02", "V8.08")
def test_without_anomalous_rows_no_performance_files_are_written(make_training: MakeTraining, tmp_path: Path) -> None:
    record = make_training(ONLY_NORMAL)
    tree = write_train_tree(tmp_path / "out", record, maps=maps_for(record.rows))
    assert files_of(tree.folder) == ALWAYS | {"extra_output/train/images/good_NG_v4.png"}
    assert tree.threshold_graph is None
    assert "nothing is known about what this model finds" in tree.report.read_text()


@pytest.mark.spec("V4.19", "V14.17")
def test_heatmaps_can_be_left_out(make_training: MakeTraining, tmp_path: Path) -> None:
    record = make_training()
    tree = write_train_tree(tmp_path / "out", record, maps=None)
    assert files_of(tree.folder) == ALWAYS | PERFORMANCE
    worth_one = record.rows[rows_with_heatmaps(record.rows["is_anomalous"], record.rows["predicted"])]
    assert worth_one["image_path"].tolist() == [
        "good/v2.png", "bad/v0.png", "bad/v1.jpg", "bad/v2.png", "bad/v3.png",
    ]  # fmt: skip


@pytest.mark.spec("V4.09", "V4.11", "V7.04", "V11.12")
def test_output_csv_holds_the_users_columns_and_ours_for_the_validation_rows(
    make_training: MakeTraining, tmp_path: Path
) -> None:
    record = make_training(extra="predicted")  # the user has taken one of our names
    tree = write_train_tree(tmp_path / "out", record, maps=maps_for(record.rows))
    table = pd.read_csv(tree.output, float_precision="round_trip")
    assert list(table.columns) == [
        "image_path", "label", "phase", "predicted",
        "split", "vad_predicted", "probability", "certainty", "raw_score", "heatmap",
    ]  # fmt: skip
    assert len(table) == 7
    assert set(table["split"]) == {"valid"}
    assert (table["predicted"] == "'=1+1").all()  # text, which no spreadsheet computes
    assert table["vad_predicted"].tolist() == ["OK", "OK", "NG", "NG", "NG", "NG", "OK"]
    assert table["probability"].tolist() == record.rows["p"].tolist()  # to the last bit
    assert table.loc[table["label"] == "good", "heatmap"].fillna("").tolist() == ["", "", "good_NG_v2.png"]


@pytest.mark.spec("V11.14", "V11.15", "V11.17", "P5.04")
def test_the_performance_files_say_the_numbers(make_training: MakeTraining, tmp_path: Path) -> None:
    tree = write_train_tree(tmp_path / "out", make_training())
    matrix = pd.read_csv(tree.folder / "output/validation_confusion_matrix.csv", index_col=0)
    assert matrix.to_numpy().tolist() == [[2, 1], [1, 3]]
    score = pd.read_csv(tree.folder / "output/validation_score.csv").iloc[0]
    assert (score["tp"], score["fp"], score["tn"], score["fn"], score["n"]) == (3, 1, 2, 1, 7)
    assert score[["accuracy", "precision", "recall", "F1-score"]].tolist() == pytest.approx([5 / 7, 0.75, 0.75, 0.75])
    assert score["AUROC"] == pytest.approx(8 / 12)
    report = json.loads((tree.folder / "output/validation_classification_report.json").read_text())
    assert report["by_label"]["hole"]["rate_NG"] == 0.5
    table = pd.read_csv(tree.folder / "extra_output/train/threshold_test_result.csv")
    assert len(ThresholdTable.validate(table)) == 8
    with Image.open(tree.threshold_graph) as graph:
        assert graph.format == "PNG"


@pytest.mark.spec("V3.24", "V11.01", "V11.02", "D4")
def test_the_configs_hold_the_resolved_arguments_and_the_threshold(make_training: MakeTraining, tmp_path: Path) -> None:
    record = make_training(ONLY_NORMAL)
    tree = write_train_tree(tmp_path / "out", record)
    readiness = json.loads((tree.folder / "models/readiness/readiness_config.json").read_text())
    assert {change["argument"]: change["new"] for change in readiness["automatic_changes"]} == {
        "threshold_method": "Percentile",
        "monitor_metric": "loss",
    }
    train = json.loads((tree.folder / "models/train/train_config.json").read_text())
    assert train["threshold"]["value"] == record.learnt.threshold.value
    assert train["threshold"]["version"] == record.learnt.threshold.version
    assert train["calibration"]["scale"] == record.learnt.calibration.scale
    assert train["heatmap_scale"] == {"low": 0.0, "high": 8.0, "contour": 3.5}
    assert train["arguments"]["img_size"] == [256, 256]
    assert train["class_names"] == {"OK": "good", "NG": []}
    assert train["allow_small_dataset"] is False


@pytest.mark.spec("V11.04", "V11.05", "V4.12", "D5")
def test_the_checkpoint_loads_without_unpickling_from_a_moved_tree_and_holds_the_model(
    make_training: MakeTraining, tmp_path: Path
) -> None:
    import torch

    from vad_lib.detectors.storage import read_checkpoint, read_model_folder
    from vad_lib.errors import ModelFormatError

    record = make_training()
    tree = write_train_tree(tmp_path / "out", record)
    moved = tmp_path / "elsewhere"
    tree.folder.resolve().rename(moved)
    best = json.loads((moved / "models/train/best_model_path.json").read_text())["best_model_path"]
    checkpoint = moved / "models/train" / best
    assert best == "patchcore_model.ckpt"
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["bank"].shape == (2, 3)
    tensors, description = read_checkpoint(checkpoint)
    saved_tensors, saved_description = read_model_folder(record.model_folder)
    assert torch.equal(tensors["bank"], saved_tensors["bank"])
    assert description == saved_description
    checkpoint.write_bytes(checkpoint.read_bytes()[:-300])
    with pytest.raises(ModelFormatError):
        read_checkpoint(checkpoint)


@pytest.mark.spec("V8.13", "V11.10")
def test_names_neither_escape_nor_overwrite_each_other(make_training: MakeTraining, tmp_path: Path) -> None:
    valid = [
        ("good/v0.png", "good", 1.0),
        ("good/v1.png", "good", 1.1),
        ("a/image0.png", "../../evil", 5.0),
        ("b/image0.png", "../../evil", 5.1),
        ("b/image0.jpg", "../../evil", 5.2),
        ("c/image0.png", "x/y", 5.3),
        ("d/image0.png", "x/y", 5.4),
        ("e/a'b ü.png", "." * 300 + "q" * 300, 5.5),
    ]
    record = make_training(valid)
    tree = write_train_tree(tmp_path / "deep" / "out", record, maps=maps_for(record.rows))
    names = {file.name for file in (tree.folder / "extra_output/train/images").iterdir()}
    assert names == {
        "evil_NG_image0.png",
        "evil_NG_b-image0.png",
        "evil_NG_image0.jpg",
        "x-y_NG_image0.png",
        "x-y_NG_d-image0.png",
        "q" * 60 + "_NG_a'b ü.png",
    }
    assert {path.name for path in tmp_path.rglob("*") if "evil" in path.name} <= names


@pytest.mark.spec("V11.06")
def test_the_history_grows_over_trainings_and_the_logs_hold_the_earlier_steps(
    make_training: MakeTraining, tmp_path: Path
) -> None:
    record = make_training()
    with collect_logs(tmp_path / "logs"):
        logging.getLogger("vad_lib.readiness").info("the readiness step said this")
        logging.getLogger("other").error("not ours")
    target = tmp_path / "out"
    write_train_tree(target, record, log_folder=tmp_path / "logs")
    write_train_tree(target, record, log_folder=tmp_path / "logs")
    history = json.loads((target / "log/experimental_history.json").read_text())
    assert [entry["metrics"]["f1"] for entry in history] == [0.75, 0.75]
    assert history[0]["line"] == "bottles"
    for name in ("pipeline.log", "process.log"):
        log = (target / "log" / name).read_text()
        assert "the readiness step said this" in log
        assert "trained patchcore on 6 images" in log
        assert "not ours" not in log
    (target / "log/experimental_history.json").write_text("{broken")
    write_train_tree(target, record)
    assert len(json.loads((target / "log/experimental_history.json").read_text())) == 1


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "src":
                self.sources.append(value or "")
            if name == "href":
                self.links.append(value or "")


@pytest.mark.spec("V11.16")
def test_the_report_stands_alone_and_shows_misses_before_false_alarms(
    make_training: MakeTraining, tmp_path: Path
) -> None:
    record = make_training(
        [
            ("good/v0.png", "good", 1.0),
            ("good/v1.png", "good", 7.5),
            *((f"good/w{n}.png", "good", 1.1 + n / 10) for n in range(3)),
            ("bad/v0.png", "<script>alert(1)</script>", 8.0),
            ("bad/v1.png", "<script>alert(1)</script>", 0.2),
            ("bad/v2.png", "<script>alert(1)</script>", 7.0),
        ]
    )
    tree = write_train_tree(tmp_path / "out", record, maps=maps_for(record.rows))
    text = tree.report.read_text(encoding="utf-8")
    page = _Links()
    page.feed(text)
    assert "script" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources)
    assert len(page.sources) == 5  # the graph and four heatmaps
    from urllib.parse import unquote

    names = [Path(unquote(link)).name for link in page.links]
    assert [("_OK_" in name, name.startswith("good_NG")) for name in names[:2]] == [(True, False), (False, True)]
    assert all((tree.report.parent / unquote(link)).is_file() for link in page.links)
    for told in (
        "bottles",
        "1 min 15 s",
        "resnet18",
        "misses (fn)",
        "Confusion matrix",
        "no miss, fewest false alarms",
    ):
        assert told in text


@pytest.mark.parametrize(
    ("source", "is_fallback", "told"), [("random", False, "do not inspect with it"), ("package", True, "better model")]
)
def test_the_report_warns_of_weights_that_are_not_those_of_the_plan(
    source: str, is_fallback: bool, told: str, make_training: MakeTraining, tmp_path: Path
) -> None:
    from dataclasses import replace

    weights = {"name": "resnet18", "source": source, "is_fallback": is_fallback}
    record = replace(make_training(ONLY_NORMAL), weights=weights)
    assert told in write_train_tree(tmp_path / "out", record).report.read_text()


def test_a_damaged_model_publishes_nothing(make_training: MakeTraining, tmp_path: Path) -> None:
    from dataclasses import replace

    from vad_lib.errors import ModelFormatError

    record = make_training(ONLY_NORMAL)
    write_train_tree(tmp_path / "out", record)
    before = (tmp_path / "out").resolve()
    with pytest.raises(ModelFormatError):
        write_train_tree(tmp_path / "out", replace(record, model_folder=tmp_path))
    assert (tmp_path / "out").resolve() == before
    assert not list(before.parent.glob("*.partial"))


@pytest.mark.parametrize("cell", ["=1+1", "+SUM(A1)", "-x", "@cmd", "\t=1", "-1+1"])
def test_what_a_spreadsheet_would_compute_is_written_as_text(cell: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"text": [cell, "a=b", "-1.5"], "number": [-1.5, 2.0, 3.0], "=head": ["x", None, "z"]})
    write_csv(table, tmp_path / "table.csv")
    read = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, dtype=str)
    assert list(read.columns) == ["text", "number", "'=head"]
    assert read["text"].tolist() == [f"'{cell}", "a=b", "-1.5"]
    assert read["number"].tolist() == ["-1.5", "2.0", "3.0"]
