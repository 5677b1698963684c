"""The train step: from validated rows to a fitted detector and scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.training.conftest import prepare
from vad_lib.detectors.registry import load_detector
from vad_lib.errors import InputError, PlanError, ReadinessError, TrainingStopped, WeightsMissingError
from vad_lib.images.decoding import decode_image
from vad_lib.plan.arguments import TrainArguments, model_parameters
from vad_lib.preprocessing import Preprocessing
from vad_lib.progress import ProgressUpdate
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.tables import ValidationScores
from vad_lib.training import FittedDetector, create_detector, fit_detector, score_rows

pytestmark = pytest.mark.usefixtures("random_weights")


def patchcore(**arguments: Any) -> TrainArguments:
    parameters = model_parameters(patchcore_backbone="resnet18", patchcore_coreset_sampling_ratio=0.2)
    given = {"model_name": "patchcore", "img_size": (64, 64), "model_parameters": parameters, **arguments}
    return TrainArguments(**given)


@pytest.fixture(scope="module")
def fitted(dataset: ValidatedDataset, tmp_path_factory: pytest.TempPathFactory) -> FittedDetector:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        return fit_detector(dataset, patchcore(), weights_store=tmp_path_factory.mktemp("empty"))


@pytest.mark.spec("V4.01", "V4.02", "V4.03", "V14.09")
def test_patchcore_learns_from_the_normal_training_rows_alone(
    fitted: FittedDetector, dataset: ValidatedDataset
) -> None:
    assert fitted.detector.name == "patchcore"
    assert fitted.n_train == len(dataset.train_rows) == 14
    assert fitted.report.numbers["patches"] == 14 * 64
    assert fitted.history == ()
    assert fitted.preprocessing.image_size == (64, 64)
    assert fitted.weights.source == "random"


def test_the_bits_that_16_bit_images_use_are_found_in_training_kept_in_the_model_and_told(
    dataset: ValidatedDataset, tmp_path: Path
) -> None:
    def of_12_bits(file: Path) -> None:
        Image.fromarray(np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16 + 15).save(file)

    deep = prepare(tmp_path / "line", then=of_12_bits)
    fitted = fit_detector(deep, patchcore(), weights_store=tmp_path / "none")
    assert fitted.preprocessing.grey_bits == 12
    assert any("use 12 bits: the value 4095 is white" in notice for notice in fitted.notices)
    assert Preprocessing.from_json(fitted.preprocessing.to_json()) == fitted.preprocessing
    file = Path(deep.train_rows["file"].iloc[0])
    seen = fitted.preprocessing.prepare(decode_image(file).values)
    assert len(np.unique(seen.numpy())) > 64
    assert float(seen.max()) > 0.3
    assert fit_detector(dataset, patchcore(), weights_store=tmp_path / "none").preprocessing.grey_bits == 16


def test_scores_are_a_valid_table_in_the_order_of_the_rows(fitted: FittedDetector, dataset: ValidatedDataset) -> None:
    maps: dict[int, np.ndarray] = {}
    rows = dataset.valid_rows
    scores = score_rows(fitted.detector, fitted.preprocessing, rows, 3, on_map=lambda row, one: maps.update({row: one}))
    ValidationScores.validate(scores)
    assert scores["row"].tolist() == rows["row"].tolist()
    assert scores.attrs["unreadable"] == []
    assert sorted(maps) == sorted(rows["row"])
    assert {one.shape for one in maps.values()} == {(64, 64)}
    assert scores.groupby("is_anomalous")["raw_score"].mean().is_monotonic_increasing


@pytest.mark.spec("V14.10", "V14.13")
@pytest.mark.parametrize("size", [(64, 64), 48])
def test_the_same_data_and_seed_give_the_same_scores_at_every_batch_size(
    dataset: ValidatedDataset, tmp_path: Path, size: int | tuple[int, int]
) -> None:
    found = []
    for batch_size in (1, 5):
        one = fit_detector(dataset, patchcore(batch_size=batch_size, img_size=size), weights_store=tmp_path)
        found.append(score_rows(one.detector, one.preprocessing, dataset.valid_rows, batch_size)["raw_score"].tolist())
    assert found[0] == found[1]


def test_an_unreadable_row_is_left_out_of_the_scores_and_listed(
    fitted: FittedDetector, dataset: ValidatedDataset, tmp_path: Path
) -> None:
    rows = dataset.valid_rows.copy()
    rows.iloc[1, rows.columns.get_loc("file")] = str(tmp_path / "gone.png")
    scores = score_rows(fitted.detector, fitted.preprocessing, rows)
    assert len(scores) == len(rows) - 1
    assert scores.attrs["unreadable"][0]["row"] == rows["row"].iloc[1]
    with pytest.raises(InputError, match="None of the 1 images"):
        score_rows(fitted.detector, fitted.preprocessing, rows.iloc[1:2])
    with pytest.raises(InputError, match="no label"):
        score_rows(fitted.detector, fitted.preprocessing, rows.assign(is_anomalous=pd.NA))


@pytest.mark.spec("V4.02", "V4.13", "V4.15", "V14.14", "V14.16")
def test_fastflow_takes_256_pixels_whatever_the_plan_says_and_records_the_change(
    dataset: ValidatedDataset, tmp_path: Path
) -> None:
    small = dataset.rows.groupby("split").head(3)
    few = _with_rows(dataset, small)
    train = TrainArguments(img_size=(64, 96), max_epochs=1, model_parameters=model_parameters(fastflow_flow_steps=1))
    updates: list[ProgressUpdate] = []
    fitted = fit_detector(few, train, weights_store=tmp_path, progress=updates.append)
    assert fitted.preprocessing.image_size == (256, 256)
    change = fitted.changes[0]
    assert (change.argument, change.old, change.new) == ("img_size", [64, 96], [256, 256])
    assert fitted.arguments.img_size == (256, 256)
    assert len(fitted.history) == 1
    assert math.isfinite(fitted.history[0].loss)
    assert {update.task for update in updates} == {"Extracting features", "Training FastFlow"}


def test_training_stops_before_it_starts_where_weights_are_missing(
    dataset: ValidatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vad_lib.encoders.weights as module

    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(module, "fallback_backbone", lambda: None)
    updates: list[ProgressUpdate] = []
    with pytest.raises(WeightsMissingError, match="vad weights fetch resnet18"):
        fit_detector(dataset, patchcore(), weights_store=tmp_path, progress=updates.append)
    assert updates == []


@pytest.mark.parametrize("task", ["Extracting features", "Choosing the memory bank"])
def test_a_stopped_fit_leaves_no_file(dataset: ValidatedDataset, tmp_path: Path, task: str) -> None:
    def stop(update: ProgressUpdate) -> None:
        if update.task == task:
            raise TrainingStopped

    with pytest.raises(TrainingStopped):
        fit_detector(
            dataset, patchcore(), weights_store=tmp_path / "weights", progress=stop, work_folder=tmp_path / "work"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_finished_fit_is_saved_where_asked(dataset: ValidatedDataset, tmp_path: Path) -> None:
    fitted = fit_detector(dataset, patchcore(), weights_store=tmp_path, work_folder=tmp_path / "work")
    again = load_detector(tmp_path / "work" / "detector")
    ours = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)
    theirs = score_rows(again, fitted.preprocessing, dataset.valid_rows)
    assert ours["raw_score"].tolist() == theirs["raw_score"].tolist()


@pytest.mark.spec("V14.27")
def test_augmentation_reaches_the_training_images_and_no_others(
    dataset: ValidatedDataset, tmp_path: Path, fitted: FittedDetector
) -> None:
    train = patchcore(augmentation_list=("brightness", "hue"), augmentation_choice=2)
    augmented = fit_detector(dataset, train, weights_store=tmp_path)
    assert any("grey" in notice for notice in augmented.notices)
    ours = score_rows(augmented.detector, augmented.preprocessing, dataset.valid_rows)["raw_score"]
    plain = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)["raw_score"]
    assert ours.tolist() != plain.tolist()
    # Scoring draws nothing: a second look gives the same.
    again = score_rows(augmented.detector, augmented.preprocessing, dataset.valid_rows)["raw_score"]
    assert ours.tolist() == again.tolist()


@pytest.mark.spec("V14.15", "P2.10")
def test_a_gpu_that_is_not_there_is_refused_before_the_fit(
    dataset: ValidatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match="no CUDA device"):
        fit_detector(dataset, patchcore(accelerator="gpu"), weights_store=tmp_path)


@pytest.mark.spec("V4.14", "V14.14")
def test_epochs_and_metric_have_no_effect_on_patchcore(
    dataset: ValidatedDataset, tmp_path: Path, fitted: FittedDetector
) -> None:
    other = fit_detector(dataset, patchcore(max_epochs=99, monitor_metric="image_F1Score"), weights_store=tmp_path)
    ours = score_rows(other.detector, other.preprocessing, dataset.valid_rows)["raw_score"]
    plain = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)["raw_score"]
    assert ours.tolist() == plain.tolist()


@pytest.mark.spec("V4.02")
def test_another_model_name_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'padim'; it can be .*fastflow or patchcore"):
        create_detector(TrainArguments().model_copy(update={"model_name": "padim"}))


def test_without_a_training_row_nothing_is_fitted(dataset: ValidatedDataset, tmp_path: Path) -> None:
    with pytest.raises(ReadinessError, match="no normal training image"):
        fit_detector(_with_rows(dataset, dataset.valid_rows), patchcore(), weights_store=tmp_path)


def _with_rows(dataset: ValidatedDataset, rows: pd.DataFrame) -> ValidatedDataset:
    import dataclasses

    return dataclasses.replace(dataset, rows=rows.reset_index(drop=True))
