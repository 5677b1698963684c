"""A model folder is whole, or it is refused with what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vad_lib.detectors.registry import load_detector
from vad_lib.detectors.storage import (
    read_checkpoint,
    read_model_folder,
    write_checkpoint,
    write_model_folder,
)
from vad_lib.errors import ModelFormatError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model", {"a": torch.arange(4.0), "view": torch.eye(3)[:, 1]}, {"note": "naïve"})
    return tmp_path / "model"


def test_tensors_and_description_come_back_and_nothing_else_is_left(folder: Path) -> None:
    tensors, description = read_model_folder(folder)
    assert torch.equal(tensors["a"], torch.arange(4.0))
    assert description["note"] == "naïve"
    assert sorted(file.name for file in folder.iterdir()) == ["detector.json", "model.safetensors"]


def test_damaged_tensors_are_refused(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFormatError, match="damaged or belongs to another model"):
        read_model_folder(folder)


def test_a_description_changed_by_hand_is_refused(folder: Path) -> None:
    content = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps({**content, "note": "changed"}))
    with pytest.raises(ModelFormatError, match="changed after it was written"):
        read_model_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"contents_sha256": "", "format_version": 99}'])
def test_what_is_no_description_is_refused(folder: Path, text: str) -> None:
    (folder / "detector.json").write_text(text)
    with pytest.raises(ModelFormatError, match=r"cannot be read|not the description|is of format 99"):
        read_model_folder(folder)


@pytest.mark.parametrize("name", ["detector.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFormatError, match=f"has no {name}"):
        read_model_folder(folder)


def test_a_write_that_fails_leaves_the_model_that_was_there(folder: Path) -> None:
    with pytest.raises(TypeError):
        write_model_folder(folder, {"a": torch.zeros(1)}, {"not json": object()})
    assert torch.equal(read_model_folder(folder)[0]["a"], torch.arange(4.0))
    assert sorted(file.name for file in folder.iterdir()) == ["detector.json", "model.safetensors"]


def test_a_folder_of_an_unknown_detector_is_refused(tmp_path: Path) -> None:
    backbone = {"name": "resnet18", "source": "store", "sha256": "", "create_kwargs": {}, "mean": [0], "std": [1]}
    description = {"name": "crystal_ball", "backbone": {**backbone, "asked_for": "resnet18"}, "arguments": {}}
    write_model_folder(tmp_path, {"a": torch.zeros(1)}, {"detector": description})
    with pytest.raises(ModelFormatError, match=r"'crystal_ball', which is not installed here; there are .*patchcore"):
        load_detector(tmp_path)


@pytest.mark.spec("V11.03", "V11.04")
def test_a_checkpoint_is_read_by_torch_without_unpickling(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models" / "patchcore_model.ckpt", {"a": torch.ones(2)}, {"note": "x"})
    content = torch.load(tmp_path / "models" / "patchcore_model.ckpt", weights_only=True)
    assert torch.equal(content["state_dict"]["a"], torch.ones(2))
    assert read_checkpoint(tmp_path / "models" / "patchcore_model.ckpt")[1]["note"] == "x"
    (tmp_path / "other.ckpt").write_bytes(b"nothing")
    with pytest.raises(ModelFormatError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "other.ckpt")
