"""The model that inspects: one folder, the same results from it, and no image that spoils the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vad_lib.detectors.storage import write_checkpoint
from vad_lib.errors import ModelFormatError
from vad_lib.images.decoding import decode_image
from vad_lib.models import ImageResult, InspectionModel, ModelInfo
from vad_lib.plan.arguments import TrainArguments, model_parameters
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import choose_threshold, learn_calibration, learn_threshold
from vad_lib.training import fit_detector, score_rows


@pytest.fixture(scope="module")
def model(dataset: ValidatedDataset, tmp_path_factory: pytest.TempPathFactory) -> InspectionModel:
    parameters = model_parameters(patchcore_backbone="resnet18", patchcore_coreset_sampling_ratio=0.2)
    train = TrainArguments(model_name="patchcore", img_size=48, model_parameters=parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        fitted = fit_detector(dataset, train, weights_store=tmp_path_factory.mktemp("empty"))
    scores = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)
    threshold = learn_threshold(scores["raw_score"], scores["is_anomalous"])
    calibration = learn_calibration(scores["raw_score"], scores["is_anomalous"], threshold)
    info = ModelInfo.of_fit(fitted, dataset.ok_class, line="bricks")
    return InspectionModel(fitted.detector, fitted.preprocessing, threshold, calibration, info)


@pytest.fixture(scope="module")
def files(dataset: ValidatedDataset) -> list[Path]:
    return [Path(file) for file in dataset.valid_rows["file"]]


def scores_of(results: list[ImageResult]) -> list[float | None]:
    return [result.raw_score for result in results]


@pytest.mark.spec("V5.01", "V5.02", "V5.03")
def test_a_saved_model_gives_the_same_results(model: InspectionModel, files: list[Path], tmp_path: Path) -> None:
    model.save(tmp_path)
    again = InspectionModel.load(tmp_path)
    assert scores_of(list(again.predict_files(files))) == scores_of(list(model.predict_files(files)))
    assert again.info == model.info
    assert again.threshold == model.threshold
    assert again.threshold.version == model.threshold.version
    assert again.calibration == model.calibration
    assert again.info.extra == {"line": "bricks"}


@pytest.mark.spec("V5.02")
def test_a_fresh_process_gives_the_same_results_without_any_weights(
    model: InspectionModel, files: list[Path], tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from vad_lib.models import InspectionModel; "
        "m = InspectionModel.load(Path(sys.argv[1])); "
        "print([r.raw_score for r in m.predict_files([Path(f) for f in sys.argv[2:]])])"
    )
    environment = {**os.environ, "VAD_WEIGHTS": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}
    environment.pop("VAD_ALLOW_RANDOM_WEIGHTS", None)
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "model"), *map(str, files[:3])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = np.array(eval(done.stdout.strip().splitlines()[-1]))
    # The thread count differs: sums are taken in another order.
    np.testing.assert_allclose(found, scores_of(list(model.predict_files(files[:3]))), rtol=1e-5)


@pytest.mark.spec("V4.18")
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_batch_size_changes_no_result_and_the_order_is_kept(
    model: InspectionModel, files: list[Path], batch_size: int
) -> None:
    results = list(model.predict_files(files, batch_size))
    assert [result.index for result in results] == list(range(len(files)))
    assert scores_of(results) == scores_of(list(model.predict_files(files, 4)))


@pytest.mark.spec("D1", "D2", "D3")
def test_decision_and_certainty_follow_the_threshold(model: InspectionModel, files: list[Path]) -> None:
    for result in model.predict_files(files):
        assert result.raw_score is not None
        assert (result.predicted == "NG") == (result.raw_score >= model.threshold.value)
        assert result.p is not None
        assert 0 < result.p < 1
        assert result.certainty is not None
        assert 0 <= result.certainty <= 1
    strict = [result.predicted for result in model.predict_files(files, inference_threshold=0.0)]
    assert set(strict) == {"NG"}


def test_scores_of_validation_and_of_inspection_are_one(
    model: InspectionModel, files: list[Path], dataset: ValidatedDataset
) -> None:
    validated = score_rows(model.detector, model.preprocessing, dataset.valid_rows)["raw_score"].tolist()
    assert scores_of(list(model.predict_files(files))) == validated
    pixels = [decode_image(file).pixels for file in files]
    assert [result.raw_score for result in model.predict_pixels(pixels)] == validated


def test_one_bad_image_takes_nothing_from_the_others(model: InspectionModel, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    half = tmp_path / "half.png"
    half.write_bytes(files[0].read_bytes()[:600])
    given = [files[0], tmp_path / "text.png", half, files[1], tmp_path / "gone.png", tmp_path / "empty.jpg", files[2]]
    results = list(model.predict_files(given, batch_size=3))
    assert [result.index for result in results] == list(range(7))
    assert [bool(result.error) for result in results] == [False, True, True, False, True, True, False]
    assert all(result.raw_score is None and result.predicted is None for result in results if result.error)
    good = [result.raw_score for result in results if not result.error]
    assert good == scores_of(list(model.predict_files(files[:3])))


def test_an_image_on_which_the_detector_fails_is_named_and_the_others_are_scored(
    model: InspectionModel, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = model.detector.score
    poison = model.preprocessing.prepare(decode_image(files[1]).pixels)

    def fail_on_one(batch, *, with_maps=True):  # type: ignore[no-untyped-def]
        if any(bool((image == poison).all()) for image in batch):
            raise RuntimeError("out of cheese")
        return original(batch, with_maps=with_maps)

    monkeypatch.setattr(model.detector, "score", fail_on_one)
    results = list(model.predict_files(files[:4], batch_size=4))
    assert [result.error for result in results] == [None, "could not be scored (out of cheese)", None, None]


@pytest.mark.spec("V5.06", "V14.37")
def test_maps_are_made_only_when_asked_for_and_have_the_size_that_was_scored(
    model: InspectionModel, files: list[Path]
) -> None:
    assert next(iter(model.predict_files(files))).map is None
    with_map = next(iter(model.predict_files(files, with_maps=True))).map
    assert with_map is not None
    assert with_map.shape == (48, 48)
    assert with_map.dtype == np.float32


@pytest.mark.spec("V4.21")
def test_another_threshold_needs_no_new_fit(model: InspectionModel, files: list[Path]) -> None:
    raw = [result.raw_score for result in model.predict_files(files)]
    middle = float(np.median([score for score in raw if score is not None]))
    moved = model.with_threshold(choose_threshold(middle, model.threshold, "middle"))
    predicted = [result.predicted for result in moved.predict_files(files)]
    assert predicted == ["NG" if score is not None and score >= middle else "OK" for score in raw]


def test_a_checkpoint_is_the_whole_model(model: InspectionModel, files: list[Path], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "patchcore_model.ckpt", model.detector.state_dict(), model.describe())
    again = InspectionModel.load_checkpoint(tmp_path / "patchcore_model.ckpt")
    assert scores_of(list(again.predict_files(files[:2]))) == scores_of(list(model.predict_files(files[:2])))


def test_a_detector_without_a_threshold_is_not_a_model(model: InspectionModel, tmp_path: Path) -> None:
    model.detector.save(tmp_path)
    with pytest.raises(ModelFormatError, match="description is incomplete"):
        InspectionModel.load(tmp_path)


def test_the_model_tells_which_versions_its_scores_depend_on(model: InspectionModel) -> None:
    assert {"vad", "torch", "anomalib", "timm", "numpy"} <= set(model.info.versions)
    assert model.info.backbone["source"] == "random"
    assert model.info.ok_class == "good"
