"""Which backend scores: the fastest that decides alike, recorded; torch wherever anything is in doubt."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.exported_models import bottles, fitted_model
from vad_lib.compiled import backends, choosing, load_for_scoring
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, PlanError
from vad_lib.models import InspectionModel


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> BackboneWeights:
    return resolve_backbone_weights("resnet18", shared_data / "weights")


@pytest.fixture(scope="module")
def model(weights: BackboneWeights, shared_data: Path) -> InspectionModel:
    return fitted_model("patchcore", weights, shared_data, (96, 128))


@pytest.fixture(scope="module")
def folder(model: InspectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    model.save(place)
    return place


@pytest.fixture(scope="module")
def files(shared_data: Path) -> list[Path]:
    return bottles(shared_data)[1][::12]


def scores(model: InspectionModel, files: list[Path]) -> list[float | None]:
    return [result.raw_score for result in model.predict_files(files)]


@pytest.mark.parametrize("setting", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_backend_that_is_asked_for_scores_as_torch_does_and_is_recorded(
    setting: str, model: InspectionModel, folder: Path, files: list[Path], tmp_path: Path
) -> None:
    found, choice = load_for_scoring(folder, images=files, cache=tmp_path, setting=setting)
    assert choice.backend == setting
    assert found.detector.runner is not None  # type: ignore[attr-defined]
    assert choice.parity[setting].passed
    assert choice.parity[setting].images == len(files)
    assert set(choice.milliseconds) == {"torch", setting}
    np.testing.assert_allclose(scores(found, files), scores(model, files), rtol=1e-4)
    maps = [next(iter(each.predict_files(files[:1], with_maps=True))).map for each in (found, model)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3, atol=1e-4)


@pytest.mark.spec("E1.05")
def test_the_choice_is_made_once_and_followed_afterwards(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*arguments: Any) -> None:
        made.append(arguments)
        honest(*arguments)

    made: list[Any] = []
    honest = backends.write_network
    monkeypatch.setattr(backends, "write_network", written)
    assert load_for_scoring(folder, cache=tmp_path, measure=False)[1].reason == "nothing was measured yet"
    _, first = load_for_scoring(folder, images=files[:2], cache=tmp_path)
    _, second = load_for_scoring(folder, images=files[:2], cache=tmp_path, measure=False)
    assert first == second
    assert len(made) == 1


@pytest.mark.spec("E1.04")
def test_a_backend_that_decides_otherwise_does_not_score(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = backends.load_network

    def lying(backend: Any, place: Path) -> Any:
        run = honest(backend, place)
        return lambda images: tuple(found * 1.1 for found in run(images))

    monkeypatch.setattr(backends, "load_network", lying)
    found, choice = load_for_scoring(folder, images=files, cache=tmp_path, setting="openvino")
    assert choice.backend == "torch"
    assert "openvino differs" in choice.reason
    assert found.detector.runner is None  # type: ignore[attr-defined]


@pytest.mark.spec("E1.04")
def test_a_runtime_that_fails_leaves_torch_and_says_why(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such plugin")

    monkeypatch.setattr(backends, "load_network", broken)
    found, choice = load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    assert (choice.backend, choice.reason) == ("torch", "openvino cannot: no such plugin")
    assert len(scores(found, files[:2])) == 2


def test_a_backend_that_failed_is_tried_again_by_the_next_who_measures(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise MemoryError("for a moment")

    with monkeypatch.context() as patched:
        patched.setattr(backends, "write_network", out_of_memory)
        assert load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")[1].backend == "torch"
    _, looked = load_for_scoring(folder, cache=tmp_path, setting="openvino", measure=False)
    assert looked.reason == "openvino cannot: for a moment"
    assert load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")[1].backend == "openvino"


def test_a_choice_that_is_broken_off_leaves_no_record_of_the_one_before(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(_: Any, __: Any, ___: Any, place: Path) -> None:
        (place / "network.xml").write_text("half of i")
        raise KeyboardInterrupt

    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    monkeypatch.setattr(backends, "write_network", broken_off)
    with pytest.raises(KeyboardInterrupt):
        load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino", again=True)
    choice = load_for_scoring(folder, cache=tmp_path, setting="openvino", measure=False)[1]
    assert choice.reason == "nothing was measured yet"


def test_a_cache_that_cannot_be_written_to_leaves_torch_and_says_why(
    folder: Path, files: list[Path], tmp_path: Path
) -> None:
    in_the_way = tmp_path / "compiled"
    in_the_way.write_text("not a folder")
    found, choice = load_for_scoring(folder, images=files[:1], cache=in_the_way)
    assert choice.backend == "torch"
    assert re.match(f"the cache {in_the_way}/.* cannot be used: .*Not a directory", choice.reason)
    assert len(scores(found, files[:1])) == 1


def test_a_disk_that_is_full_when_the_choice_is_recorded_leaves_torch(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(choosing, "write_whole", full)
    found, choice = load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    assert choice.backend == "torch"
    assert "No space left on device" in choice.reason
    assert found.detector.runner is None  # type: ignore[attr-defined]


def test_a_network_is_loaded_while_nobody_else_may_write_it(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, others_must_wait = backends.load_network, []

    def watched(backend: Any, place: Path) -> Any:
        with (place.parent / f"{place.name}.lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                others_must_wait.append(False)
            except BlockingIOError:
                others_must_wait.append(True)
        return honest(backend, place)

    monkeypatch.setattr(backends, "load_network", watched)
    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    assert others_must_wait == [True, True, True]  # measured, taken, and taken again


def test_a_network_that_is_made_anew_is_another_file_than_the_one_that_others_have_mapped(
    folder: Path, files: list[Path], tmp_path: Path
) -> None:
    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    (weights,) = tmp_path.rglob("network.bin")
    with weights.open("rb") as mapped:
        load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino", again=True)
        assert not os.path.samestat(os.fstat(mapped.fileno()), weights.stat())


def test_a_damaged_network_in_the_cache_leaves_torch(folder: Path, files: list[Path], tmp_path: Path) -> None:
    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    (network,) = tmp_path.rglob("network.xml")
    network.write_text("no more")
    found, choice = load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    assert choice.backend == "torch"
    assert "cannot be loaded" in choice.reason
    assert len(scores(found, files[:1])) == 1


@pytest.mark.spec("E1.05")
def test_a_choice_of_another_machine_is_not_followed(
    folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_for_scoring(folder, images=files[:1], cache=tmp_path, setting="openvino")
    monkeypatch.setattr(choosing, "_processor", lambda: "another")
    choice = load_for_scoring(folder, cache=tmp_path, setting="openvino", measure=False)[1]
    assert choice.reason == "nothing was measured yet"


def test_the_switch_is_the_environment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_SCORING_BACKEND", "torch")
    assert load_for_scoring(folder, cache=tmp_path)[1].reason == "asked for"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("VAD_SCORING_BACKEND", "tensorrt")
    with pytest.raises(InputError, match=r"VAD_SCORING_BACKEND is 'tensorrt'.*'openvino' or 'onnx'"):
        load_for_scoring(folder, cache=tmp_path)
    monkeypatch.delenv("VAD_SCORING_BACKEND")
    with pytest.raises(PlanError, match="auto, torch, openvino, onnx"):
        load_for_scoring(folder, cache=tmp_path, setting="tensorrt")


def test_images_that_keep_their_aspect_are_scored_by_torch(
    weights: BackboneWeights, shared_data: Path, tmp_path: Path
) -> None:
    fitted_model("patchcore", weights, shared_data, 64).save(tmp_path / "model")
    choice = load_for_scoring(tmp_path / "model", cache=tmp_path / "cache")[1]
    assert choice.backend == "torch"
    assert "aspect" in choice.reason


@pytest.mark.slow
def test_fastflow_scores_through_openvino_as_through_torch(
    weights: BackboneWeights, shared_data: Path, files: list[Path], tmp_path: Path
) -> None:
    model = fitted_model("fastflow", weights, shared_data, (96, 96))
    model.save(tmp_path / "model")
    found, choice = load_for_scoring(tmp_path / "model", images=files, cache=tmp_path, setting="openvino")
    assert choice.backend == "openvino"
    np.testing.assert_allclose(scores(found, files), scores(model, files), rtol=1e-4)
