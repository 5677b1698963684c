"""Detectors beside one another: nothing is learnt from what is reported, and what cannot run says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vad_dagster.cli import app
from vad_lib.comparison.image_sets import ImageSet, drawn_set, folder_set, painting_sets
from vad_lib.comparison.pages import comparison_page, mean_table, not_run_table, recall_table, result_table
from vad_lib.comparison.running import Candidate, Compared, compare
from vad_lib.detectors.anomalyclip.learnt_file import Learnt
from vad_lib.encoders.fallback import NAME as FALLBACK
from vad_lib.encoders.store import sha256_of
from vad_lib.errors import InputError
from vad_lib.synthetic import make_demo_line
from vad_lib.synthetic.paintings import make_paintings, read_photographs

SIDE = 64


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> list[ImageSet]:
    made = make_paintings(tmp_path_factory.mktemp("paintings"), read_photographs(None), train=10, side=SIDE)
    return list(painting_sets(made))


@pytest.fixture(scope="module")
def result(paintings: list[ImageSet], tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compare(Candidate("patchcore"), paintings[0], size=SIDE, weights_store=tmp_path_factory.mktemp("store"))


@pytest.mark.spec("P6.04", "P7.09", "P7.06")
def test_no_image_is_both_learnt_from_and_reported_on(paintings: list[ImageSet], tmp_path: Path) -> None:
    drawn = drawn_set(make_demo_line(tmp_path, train_normal=10, valid_normal=3, valid_of_each_kind=1, side=SIDE))
    for images in (*paintings, drawn):
        fit, held_out, test = set(images.fit), set(images.held_out), {Path(file) for file in images.test["file"]}
        assert len(fit) + len(held_out) == 10
        assert not fit & held_out
        assert not (fit | held_out) & test
        assert all(file.is_file() for file in fit | held_out | test)


def test_a_folder_without_the_folders_of_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the folders train/good and test"):
        folder_set(tmp_path)


@pytest.mark.spec("P5.04", "P5.05", "P2.08", "P3.04", "P3.05", "P7.11")
def test_a_result_has_counts_intervals_and_recall_by_kind_and_contrast(result: Compared) -> None:
    found = result.evaluation
    assert found is not None
    assert found.tp + found.fp + found.tn + found.fn == found.n == 50
    (row,) = result_table([result]).to_dict("records")
    assert [row[name] for name in ("n", "tp", "fp", "tn", "fn")] == [
        str(each) for each in (found.n, found.tp, found.fp, found.tn, found.fn)
    ]
    assert " to " in row["accuracy (95 %)"]
    assert 0 < result.ms_per_image < 60_000
    assert 0.5 < (result.pixel_auroc or 0) <= 1
    low, high = result.interval or (1, 0)
    assert low <= (found.image_auroc or 0) <= high
    (recall,) = recall_table([result]).to_dict("records")
    assert recall["blur"].endswith("/2")
    assert recall["low contrast"].endswith("/10")
    assert sum(int(recall[kind].split("/")[0]) for kind in set(result.rows["kind"]) & set(recall)) == found.tp


def test_what_cannot_run_is_a_row_with_its_reason_and_has_no_part_in_means(
    result: Compared, paintings: list[ImageSet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAD_FALLBACK_BACKBONE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS", raising=False)
    missing = compare(Candidate("fastflow"), paintings[0], weights_store=tmp_path)
    assert missing.evaluation is None
    assert "Weights of the backbone" in missing.reason
    assert list(result_table([missing, result])["detector"]) == ["patchcore"]
    (row,) = not_run_table([result, missing, missing]).to_dict("records")
    assert row["sets"] == f"{paintings[0].name}, {paintings[0].name}"
    assert "Weights of the backbone" in row["why not"]
    assert list(mean_table([result, missing])["detector"]) == ["patchcore"]


@pytest.mark.spec("P4.08")
def test_accuracy_and_both_aurocs_are_told_for_each_painting_and_as_means(result: Compared) -> None:
    found = result.evaluation
    assert found is not None
    pearl, mona = (
        replace(result, images=name, pixel_auroc=pixel, evaluation=found.model_copy(update=numbers))
        for name, pixel, numbers in (
            ("pearl", 0.9, {"accuracy": 0.8, "image_auroc": 0.6, "n": 50}),
            ("mona", 0.7, {"accuracy": 0.6, "image_auroc": 0.8, "n": 40}),
        )
    )
    rows = result_table([pearl, mona])
    assert list(rows["set"]) == ["pearl", "mona"]
    assert [cell.split()[0] for cell in rows["accuracy (95 %)"]] == ["0.800", "0.600"]
    assert list(rows["pixel AUROC"]) == ["0.900", "0.700"]
    (means,) = mean_table([pearl, mona]).to_dict("records")
    assert [means[name] for name in ("sets", "n", "accuracy", "image AUROC", "pixel AUROC")] == [
        2,
        90,
        "0.700",
        "0.700",
        "0.800",
    ]
    # a mean over one of two sets would be compared with means over both
    assert mean_table([pearl, replace(mona, pixel_auroc=None)])["pixel AUROC"].item() == ""


def test_prompts_that_were_learnt_from_the_images_of_a_set_are_not_measured_on_it(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for kind, level in (("train/good", 60), ("test/good", 90), ("test/hole", 120), ("ground_truth/hole", 250)):
        (folder / kind).mkdir(parents=True)
        for number in range(5):
            name = f"{number}_mask.png" if "truth" in kind else f"{number}.png"
            Image.new("L", (SIDE, SIDE), level + number).save(folder / kind / name)
    learnt = Learnt("vectors", {"image": torch.ones(2, 4)}, {}, (sha256_of(folder / "test" / "hole" / "0.png"),))
    learnt.save(tmp_path / "ours.safetensors")
    arguments = {"anomalyclip_prompts": str(tmp_path / "ours.safetensors"), "anomalyclip_encoder": FALLBACK}
    made = compare(Candidate("anomalyclip", {**arguments, "anomalyclip_levels": (1,)}), folder_set(folder), size=SIDE)
    assert "1 images of this line were among those that the prompts were learnt from" in made.reason


def test_the_page_shows_pictures_and_escapes_what_it_is_told(result: Compared) -> None:
    page = comparison_page("Detectors", ["a <b> & c"], [result], {"Results": result_table([result])})
    assert "a &lt;b&gt; &amp; c" in page
    assert page.count('<img alt="') == 6


@pytest.mark.spec("P2.06", "P1.01", "P5.01", "P5.02", "P5.03", "P5.06")
def test_the_command_makes_images_tables_page_and_sorted_folders_and_a_run(
    vad_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "out"
    words = ["bench", "paintings", "--out", out, "--images", 10, "--detector", "patchcore", "--size", SIDE, "--sort"]
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == 0, answer.output
    table = pd.read_csv(out / "results.csv")
    assert list(table["n"]) == [50, 50]
    text = (out / "results.md").read_text()
    assert "Means over the paintings" in text
    for figure in ("41 of 49", "71.11", "pixel AUROC 62.3", "AnomalyCLIP"):
        assert figure in text
    assert (out / "index.html").stat().st_size > 10_000
    sorted_ = list((out / "sorted").rglob("*.png"))
    assert len(sorted_) == 100
    ng = [file for file in sorted_ if file.parent.name == "anomaly"]
    assert len(ng) == int((table["tp"] + table["fp"]).sum())
    assert "In MLflow: http" in answer.output


def test_few_images_of_a_large_set_are_spread_over_it(tmp_path: Path) -> None:
    for number in range(30):
        for folder in ("train/good", "test/good", "test/scratch"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{number:02d}.png").touch()
    images = folder_set(tmp_path, most_normal=10, most_of_each_kind=5)
    assert sorted(int(file.stem) for file in images.fit + images.held_out) == list(range(0, 30, 3))
    assert images.test.groupby("kind").size().to_dict() == {"good": 5, "scratch": 5}
    assert [int(Path(file).stem) for file in images.test["file"][:5]] == [0, 6, 12, 18, 24]


def test_arguments_that_are_set_go_to_the_detectors_that_have_them_and_are_checked_as_in_a_plan(tmp_path: Path) -> None:
    said = ["bench", "detectors", str(tmp_path), "--detector", "patchcore", "--set"]
    unknown = CliRunner().invoke(app, [*said, "winclip_shots=1"])
    assert "None of the detectors that run has an argument 'winclip_shots'" in unknown.output
    wrong = CliRunner().invoke(app, [*said, "patchcore_coreset_sampling_ratio=7"])
    assert "patchcore_coreset_sampling_ratio" in wrong.output
    assert "is refused" in wrong.output
