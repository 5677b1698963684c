"""Weights are found in one order, checked, and never random by accident."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import vad_lib.encoders.weights as module
from vad_lib.encoders.build import create_backbone
from vad_lib.encoders.weights import (
    BackboneWeights,
    add_weights,
    fetch_weights,
    list_weights,
    resolve_backbone_weights,
)
from vad_lib.errors import InputError, ModelFormatError, WeightsMissingError

SMALL = "mobilenetv3_small_050"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VAD_ALLOW_RANDOM_WEIGHTS", raising=False)
    monkeypatch.setattr(module, "fallback_backbone", lambda: None)


@pytest.fixture(scope="session")
def small_state() -> dict[str, torch.Tensor]:
    """The state of a small network, as a stand-in for pretrained weights."""
    return timm.create_model(SMALL, pretrained=False).state_dict()


def put(folder: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder / name


@pytest.mark.spec("V14.30", "V14.33")
def test_missing_weights_are_explained_with_file_place_and_command(tmp_path: Path, offline: None) -> None:
    start = time.monotonic()
    with pytest.raises(WeightsMissingError) as caught:
        resolve_backbone_weights("wide_resnet50_2", tmp_path / "weights")
    text = str(caught.value)
    assert "wide_resnet50_2.safetensors" in text
    assert str(tmp_path / "weights") in text
    assert "vad weights fetch wide_resnet50_2" in text
    assert "vad weights add FILE" in text
    assert "HF_HUB_OFFLINE" in text
    assert time.monotonic() - start < 20


def test_without_a_network_a_download_fails_quickly(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "getproxies", dict)

    def no_network(address: tuple[str, int], timeout: float) -> None:
        assert timeout == module.CONNECT_SECONDS
        raise TimeoutError("timed out")

    monkeypatch.setattr(module.socket, "create_connection", no_network)
    with pytest.raises(WeightsMissingError, match=r"there is no network \(timed out\)"):
        fetch_weights("resnet18", store=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [f"{SMALL}.pth", f"{SMALL}.safetensors", f"{SMALL}_of_our_plant.pth", f"{SMALL}.lamb_in1k.pt"]
)
def test_the_store_serves_a_model_by_the_beginning_of_the_files_name(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor], name: str
) -> None:
    file = put(tmp_path, name, small_state)
    found = resolve_backbone_weights(SMALL, tmp_path)
    assert (found.name, found.file, found.source) == (SMALL, file, "store")
    assert len(found.sha256) == 64
    network = create_backbone(found, [1, 2])
    assert torch.equal(network.state_dict()["conv_stem.weight"], small_state["conv_stem.weight"])


def test_a_file_of_another_model_with_the_same_beginning_is_not_taken(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor]
) -> None:
    put(tmp_path, "resnet18d.pth", small_state)
    put(tmp_path, "vit_small_patch16_224.pth", small_state)
    for name in ("resnet18", "vit_small"):
        with pytest.raises((WeightsMissingError, InputError)):
            resolve_backbone_weights(name, tmp_path)


def test_the_store_is_the_folder_of_the_environment(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path / "w"))
    put(tmp_path / "w", f"{SMALL}.pth", small_state)
    assert resolve_backbone_weights(SMALL).source == "store"
    assert [weights.name for weights in list_weights()] == [SMALL]


def test_two_files_for_one_model_are_an_error_that_names_both(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor]
) -> None:
    put(tmp_path, f"{SMALL}_a.pth", small_state)
    put(tmp_path, f"{SMALL}_b.pth", small_state)
    with pytest.raises(InputError, match=f"{SMALL}_a.pth, {SMALL}_b.pth"):
        resolve_backbone_weights(SMALL, tmp_path)
    put(tmp_path, f"{SMALL}.pth", small_state)
    assert resolve_backbone_weights(SMALL, tmp_path).file == tmp_path / f"{SMALL}.pth"


def test_a_path_in_the_plan_goes_first_and_a_sidecar_names_the_architecture(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor]
) -> None:
    file = put(tmp_path / "else where", "ours.pth", small_state)
    with pytest.raises(InputError, match=r"ours\.pth does not say which timm model"):
        resolve_backbone_weights(str(file), tmp_path)
    sidecar = {"architecture": SMALL, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    file.with_name("ours.pth.json").write_text(json.dumps(sidecar))
    found = resolve_backbone_weights(str(file), tmp_path)
    assert (found.name, found.source, found.mean, found.std) == (SMALL, "plan", (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(WeightsMissingError, match="which is not there"):
        resolve_backbone_weights(str(tmp_path / "gone.pth"), tmp_path)


@pytest.mark.spec("P6.02")
def test_a_checksum_that_does_not_match_is_refused(
    tmp_path: Path, offline: None, small_state: dict[str, torch.Tensor]
) -> None:
    added = add_weights(put(tmp_path / "usb", f"{SMALL}.pth", small_state), store=tmp_path / "store")
    assert added.file is not None
    assert resolve_backbone_weights(SMALL, tmp_path / "store").sha256 == added.sha256
    with added.file.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"damage")
    with pytest.raises(ModelFormatError, match="its sha256 is"):
        resolve_backbone_weights(SMALL, tmp_path / "store")


def test_a_pickle_is_never_read(tmp_path: Path, offline: None) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "harmed"),))

    file = tmp_path / f"{SMALL}.pth"
    torch.save({"weight": Harmful()}, file)
    with pytest.raises(ModelFormatError, match="cannot be read as weights"):
        add_weights(file, store=tmp_path / "store")
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"version https://git-lfs.github.com/spec/v1"])
def test_a_damaged_weight_file_is_refused(tmp_path: Path, offline: None, content: bytes) -> None:
    (tmp_path / f"{SMALL}.pth").write_bytes(content)
    with pytest.raises(ModelFormatError, match="cannot be read as weights"):
        create_backbone(resolve_backbone_weights(SMALL, tmp_path), [1])


def test_a_name_that_timm_does_not_know_is_answered_with_the_nearest(tmp_path: Path, offline: None) -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        resolve_backbone_weights("resnet-18", tmp_path)


def test_random_weights_are_given_only_where_they_are_allowed(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
    assert resolve_backbone_weights("resnet18", tmp_path).source == "random"
    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "0")
    with pytest.raises(WeightsMissingError):
        resolve_backbone_weights("resnet18", tmp_path)


def test_the_fallback_backbone_stands_in_and_says_what_was_asked_for(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch, small_state: dict[str, torch.Tensor]
) -> None:
    file = put(tmp_path, "package.pth", small_state)
    ours = BackboneWeights(SMALL, file, "package", "0" * 64, asked_for=SMALL, layers=("blocks.1", "blocks.2"))
    monkeypatch.setattr(module, "fallback_backbone", lambda: ours)
    monkeypatch.setenv("VAD_FALLBACK_BACKBONE", "1")
    found = resolve_backbone_weights("resnet18", tmp_path / "empty")
    assert (found.name, found.source, found.asked_for) == (SMALL, "package", "resnet18")
    assert resolve_backbone_weights(SMALL, tmp_path / "empty").asked_for == SMALL
    assert list_weights(tmp_path / "empty") == [ours]


def test_resnet18_without_its_last_stage_serves_the_layers_it_has(shared_data: Path) -> None:
    found = resolve_backbone_weights("resnet18", shared_data / "weights")
    assert found.source == "store"
    network = create_backbone(found, ["layer1", "layer2", "layer3"])
    assert [feature.shape[1] for feature in network(torch.zeros(1, 3, 64, 64))] == [64, 128, 256]
    with pytest.raises(ModelFormatError, match=r"lacks .* such as layer4.*Use a shallower layer"):
        create_backbone(found, ["layer3", "layer4"])


def test_mobilenet_weights_bring_their_own_padding_and_normalisation(shared_data: Path) -> None:
    found = resolve_backbone_weights("mobilenetv2_100", shared_data / "weights")
    assert (found.create_kwargs, found.mean, found.std) == ({"pad_type": "same"}, (0.5,) * 3, (0.5,) * 3)
    network = create_backbone(found, ["blocks.1", "blocks.2"])
    assert [feature.shape[1] for feature in network(torch.zeros(1, 3, 64, 64))] == [24, 32]


def test_weights_of_another_architecture_are_refused(tmp_path: Path, shared_data: Path) -> None:
    source = next((shared_data / "weights").glob("resnet18*"))
    target = tmp_path / "resnet34.pth"
    target.write_bytes(source.read_bytes())
    with pytest.raises(ModelFormatError, match=r"lacks \d+ of \d+ weights"):
        create_backbone(resolve_backbone_weights("resnet34", tmp_path), ["layer2"])


def test_what_a_model_says_of_its_backbone_is_read_back(shared_data: Path) -> None:
    found = resolve_backbone_weights("mobilenetv2_100", shared_data / "weights")
    again = BackboneWeights.from_json(json.loads(json.dumps(found.to_json())))
    assert (again.name, again.sha256, again.create_kwargs, again.mean) == (
        found.name,
        found.sha256,
        found.create_kwargs,
        found.mean,
    )
