"""Adding confirmed normal images to a model without fitting it again, on small real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.detectors.tile_images import write_tiles
from vad_lib.errors import InputError
from vad_lib.extending import extend_model, find_images, sort_out
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.plan.arguments import TrainArguments, model_parameters
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import choose_threshold, learn_calibration, learn_threshold
from vad_lib.training import fit_detector, score_rows

pytestmark = pytest.mark.usefixtures("random_weights")


@pytest.fixture(scope="module")
def model(dataset: ValidatedDataset, tmp_path_factory: pytest.TempPathFactory) -> InspectionModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        parameters = model_parameters(patchcore_backbone="resnet18", patchcore_coreset_sampling_ratio=0.2)
        train = TrainArguments(model_name="patchcore", img_size=(64, 64), model_parameters=parameters)
        fitted = fit_detector(dataset, train, weights_store=tmp_path_factory.mktemp("empty"))
    scores = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)
    raw, flags = scores["raw_score"], scores["is_anomalous"]
    threshold = learn_threshold(raw, flags)
    info = ModelInfo.of_fit(fitted, "good")
    return InspectionModel(
        fitted.detector, fitted.preprocessing, threshold, learn_calibration(raw, flags, threshold), info
    )


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three normal images of another look: stripes."""
    folder = tmp_path_factory.mktemp("strange")
    for number in range(3):
        stripes = np.tile((np.arange(64) * (7 + number) % 256).astype(np.uint8), (64, 1))
        Image.fromarray(stripes).save(folder / f"stripes{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.spec("X1.01")
def test_new_looks_are_learnt_and_no_map_grows(
    model: InspectionModel, dataset: ValidatedDataset, strange: list[Path], tmp_path: Path
) -> None:
    rows_before = model.detector.state_dict()["memory_bank"].clone()
    extension = extend_model(model, strange, dataset, extended_from="vad-x/1")
    assert extension.rows_before == len(rows_before)
    assert 0 < extension.rows_added <= np.ceil(3 * 64 * 0.2)
    rows_after = extension.model.detector.state_dict()["memory_bank"]
    assert rows_after[: len(rows_before)].equal(rows_before)
    assert model.detector.state_dict()["memory_bank"].equal(rows_before)
    assert (extension.scores["after"] < extension.scores["before"]).all()
    files = [*strange, *map(Path, dataset.valid_rows["file"])]
    for old, new in zip(
        model.predict_files(files, with_maps=True), extension.model.predict_files(files, with_maps=True), strict=True
    ):
        assert old.map is not None
        assert new.map is not None
        assert (new.map <= old.map + 1e-4).all()
    assert extension.before.n == extension.after.n == extension.kept.n == len(dataset.valid_rows)
    assert extension.model.info.n_train == model.info.n_train + 3
    (past,) = extension.model.info.extra["extensions"]
    assert (past["from"], past["images"], past["rows_added"]) == ("vad-x/1", 3, extension.rows_added)
    extension.model.save(tmp_path)
    loaded = InspectionModel.load(tmp_path)
    assert [one.raw_score for one in loaded.predict_files(strange)] == extension.scores["after"].tolist()
    with pytest.raises(InputError, match="3 images were known already"):
        extend_model(loaded, strange, dataset)


@pytest.mark.spec("X1.02")
def test_what_must_not_be_learnt_from_is_refused_by_name_and_what_is_known_is_passed_over(
    model: InspectionModel, dataset: ValidatedDataset, strange: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    valid = dataset.valid_rows
    validates = Path(valid.loc[~valid["is_anomalous"].astype(bool), "file"].iloc[0])
    bad = Path(valid.loc[valid["is_anomalous"].astype(bool), "file"].iloc[0])
    known = Path(dataset.train_rows["file"].iloc[0])
    found = sort_out([strange[0], strange[0], broken, validates, bad, known], dataset.rows)
    assert found.files == (strange[0],)
    assert found.known == (strange[0], known)
    assert set(found.refused) == {str(broken), str(validates), str(bad)}
    assert "validation" in found.refused[str(validates)]
    assert "'bad'" in found.refused[str(bad)]
    # A table that has grown since the training says nothing about what the model knows.
    grown = sort_out([validates, bad, known], dataset.rows, learnt_from_table=False)
    assert grown.files == (known,)
    assert set(grown.refused) == {str(validates), str(bad)}
    with pytest.raises(InputError, match=r"no new image(?s:.*)broken\.png"):
        extend_model(model, [broken, known], dataset)


def test_images_like_those_that_were_learnt_add_almost_nothing(
    model: InspectionModel, dataset: ValidatedDataset, tmp_path: Path
) -> None:
    again = tmp_path / "saved_again.png"
    with Image.open(dataset.train_rows["file"].iloc[0]) as picture:
        picture.save(again, compress_level=1)
    extension = extend_model(model, [again], dataset)
    assert extension.rows_added <= 2
    assert extension.threshold_before.method == "F1"


def test_what_one_extension_had_no_room_for_the_next_still_learns(
    model: InspectionModel, dataset: ValidatedDataset, strange: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector: Any = model.detector
    monkeypatch.setattr(detector, "coreset_sampling_ratio", 1 / 64)  # one row of each image's 64
    first = extend_model(model, strange[:1], dataset)
    assert first.rows_added == 1
    assert any("does not cover all" in notice for notice in first.notices)
    record = first.model.detector.describe()["memory_bank"]
    assert record["covering_radius"] == detector.bank_record["covering_radius"] < record["uncovered_radius"]
    again = extend_model(first.model, strange[1:2], dataset)
    assert again.rows_added == 1


def test_a_full_memory_bank_is_said_to_be_full(
    model: InspectionModel, dataset: ValidatedDataset, strange: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.detector, "bank_cap_rows", len(model.detector.state_dict()["memory_bank"]))
    with pytest.raises(InputError, match=r"memory bank is full.*patchcore_bank_cap_rows"):
        extend_model(model, strange, dataset)


@pytest.mark.spec("X1.03")
def test_a_threshold_that_a_person_chose_stays(
    model: InspectionModel, dataset: ValidatedDataset, strange: list[Path]
) -> None:
    chosen = model.with_threshold(choose_threshold(model.threshold.value * 1.1, model.threshold, "Miss nothing."))
    extension = extend_model(chosen, strange[:1], dataset)
    assert extension.model.threshold == chosen.threshold
    assert extension.kept == extension.after
    assert "a person chose" in extension.notices[0]


def test_images_are_found_in_folders_and_a_wrong_path_is_named(tmp_path: Path) -> None:
    write_tiles(tmp_path / "new" / "deeper", 2)
    assert len(find_images([tmp_path / "new"])) == 2
    with pytest.raises(InputError, match="nowhere"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        find_images([tmp_path / "empty"])
