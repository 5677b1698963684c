"""CLIP folders: the numbers of open_clip, from a folder or a fitted model alone, and nothing from anywhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional
from typer.testing import CliRunner

from tests.encoders.tiny_clip import config_with
from vad_dagster.cli.weights import app
from vad_lib.comparison.random_clip import CONFIG, write_random_clip
from vad_lib.encoders.clip import OpenClipEncoder, clip_layer_names
from vad_lib.encoders.clip_folder import TENSORS_FILE, warning_of
from vad_lib.encoders.encoder import TimmEncoder, create_encoder, default_layers
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import add_weights, fetch_weights, list_weights, resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError, PlanError, WeightsMissingError

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a random CLIP, and open_clip's own network."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    return folder, write_random_clip(folder)


@pytest.fixture(scope="module")
def encoder(clip: tuple[Path, Any]) -> OpenClipEncoder:
    found = create_encoder(resolve_backbone_weights(str(clip[0])), ("blocks.1", "blocks.3"))
    assert isinstance(found, OpenClipEncoder)
    return found


def images(side: int = 32, count: int = 2) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(side))


def test_vectors_patches_and_texts_are_those_of_open_clip(clip: tuple[Path, Any], encoder: OpenClipEncoder) -> None:
    from open_clip.tokenizer import tokenize

    _, model = clip
    with torch.no_grad():
        found = encoder(images())
        prepared = (images() - MEAN) / STD
        blocks = model.visual.forward_intermediates(prepared, indices=[1, 3], normalize_intermediates=True)
        torch.testing.assert_close(found.vectors, model.encode_image(prepared))
        for ours, theirs in zip(found.patches, blocks["image_intermediates"], strict=True):
            assert ours.shape == (2, 32, 4, 4)
            torch.testing.assert_close(ours, theirs)
        texts = ["a photo of a bottle", "a photo of a damaged bottle"]
        torch.testing.assert_close(encoder.encode_text(texts), model.encode_text(tokenize(texts), normalize=True))


def test_images_of_another_size_get_stretched_positions(clip: tuple[Path, Any], encoder: OpenClipEncoder) -> None:
    large, _ = clip[1], None
    positions = large.visual.positional_embedding.detach()
    square = positions[1:].T.reshape(1, 32, 4, 4)
    square = functional.interpolate(square, size=(6, 6), mode="bilinear", align_corners=False)
    config = config_with(vision_cfg={"image_size": 48})
    from open_clip.model import CLIP

    model = CLIP(**config).eval()
    state = large.state_dict()
    state["visual.positional_embedding"] = torch.cat([positions[:1], square.reshape(1, 32, 36)[0].T])
    model.load_state_dict(state)
    with torch.no_grad():
        found = encoder(images(48))
        torch.testing.assert_close(found.vectors, model.encode_image((images(48) - MEAN) / STD))
    assert found.patches[0].shape == (2, 32, 6, 6)
    assert encoder(images(48)[:, :, :32]).patches[0].shape == (2, 32, 4, 6)


def test_the_patches_of_the_last_block_are_compared_with_texts(
    clip: tuple[Path, Any], encoder: OpenClipEncoder
) -> None:
    with torch.no_grad():
        last = encoder(images()).patches[-1]
        found = encoder.patches_beside_text(last)
    assert found.shape == (2, 16, 4, 4)
    torch.testing.assert_close(found[1, :, 2, 3], last[1, :, 2, 3] @ clip[1].visual.proj)


def test_a_fitted_model_builds_the_image_tower_without_the_folder(encoder: OpenClipEncoder) -> None:
    described = json.loads(json.dumps(encoder.weights.to_json()))
    weights = BackboneWeights.from_json(described)
    assert (weights.library, weights.file) == ("open_clip", None)
    again = create_encoder(weights, ("blocks.1", "blocks.3"), text=False)
    tensors = {key: value for key, value in encoder.state_dict().items() if not key.startswith("text.")}
    again.load_state_dict(tensors)
    with torch.no_grad():
        torch.testing.assert_close(again(images()).vectors, encoder(images()).vectors, rtol=0, atol=0)
    with pytest.raises(PlanError, match="has no text tower"):
        again.encode_text(["a bottle"])


@pytest.mark.parametrize(
    "config",
    [
        config_with(custom_text=True, text_cfg={"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
        config_with(vision_cfg={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}),
        config_with(
            custom_text=True, vision_cfg={"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}
        ),
        config_with(vision_cfg={"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}),
        config_with(vision_cfg={"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}),
    ],
    ids=["own text tower", "residual network", "tower of timm", "attention pool", "mean of patches"],
)
def test_every_kind_of_tower_gives_the_vectors_of_open_clip(tmp_path: Path, config: dict[str, Any]) -> None:
    from open_clip.tokenizer import tokenize

    model: Any = write_random_clip(tmp_path / "clip", config)
    found = create_encoder(resolve_backbone_weights(str(tmp_path / "clip")))
    side = config["vision_cfg"]["image_size"]
    with torch.no_grad():
        embedding = found(images(side))
        torch.testing.assert_close(embedding.vectors, model.encode_image((images(side) - MEAN) / STD))
        theirs = model.encode_text(tokenize(["a bottle"]), normalize=True)
        torch.testing.assert_close(found.encode_text(["a bottle"]), theirs)
    assert all(layer.ndim == 4 and len(layer) == 2 for layer in embedding.patches)


def test_a_transformer_of_timm_in_a_folder_takes_images_of_any_size(tmp_path: Path) -> None:
    config = config_with(vision_cfg={"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160})
    write_random_clip(tmp_path / "clip", {**config, "custom_text": True})
    found = create_encoder(resolve_backbone_weights(str(tmp_path / "clip")))
    assert found(images(96)).patches[0].shape[2:] == (6, 6)


def test_a_residual_tower_of_another_size_is_refused_with_its_own(tmp_path: Path) -> None:
    write_random_clip(tmp_path / "rn", config_with(vision_cfg={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}))
    found = create_encoder(resolve_backbone_weights(str(tmp_path / "rn")), ("layer2", "layer3"))
    with pytest.raises(PlanError, match=r"cannot take images of 96 x 96 pixels .*own size is 64"):
        found(images(96))


def test_half_precision_weights_are_computed_in_single_precision(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "half"
    write_random_clip(folder)
    save_file({key: value.half() for key, value in clip[1].state_dict().items()}, folder / TENSORS_FILE)
    found = create_encoder(resolve_backbone_weights(str(folder)))
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32}


def test_layers_are_named_and_an_unknown_one_lists_them(clip: tuple[Path, Any]) -> None:
    weights = resolve_backbone_weights(str(clip[0]))
    assert clip_layer_names(weights) == [f"blocks.{number}" for number in range(4)]
    assert set(default_layers(weights)) <= set(clip_layer_names(weights))
    with pytest.raises(PlanError, match=r"'layer2', but the layers of tiny are blocks\.0, blocks\.1"):
        create_encoder(weights, ("layer2",))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("text_cfg", "hf_model_name"), "roberta-base"),
        (("vision_cfg", "timm_model_name"), "hf-hub:somebody/network"),
        (("vision_cfg", "timm_model_name"), "local-dir:/tmp/network"),
        (("vision_cfg", "pretrained"), True),
        (("multimodal_cfg", "width"), 8),
        (("vision_cfg", "norm_kwargs"), {"file": "/tmp/x"}),
        (("text_cfg", "pool_type"), "../x"),
    ],
)
def test_a_configuration_that_names_another_place_is_refused_from_a_folder_and_a_model(
    tmp_path: Path, place: tuple[str, str], value: Any
) -> None:
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    config.setdefault(place[0], {})[place[1]] = value
    folder = tmp_path / "clip"
    write_random_clip(folder)
    described = resolve_backbone_weights(str(folder)).to_json()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ModelFormatError, match=f"has {place[0]}.{place[1]}"):
        resolve_backbone_weights(str(folder))
    with pytest.raises(ModelFormatError, match=f"has {place[0]}.{place[1]}"):
        BackboneWeights.from_json({**described, "model_config": config})
    with pytest.raises(ModelFormatError, match="library is 'transformers'"):
        BackboneWeights.from_json({**described, "library": "transformers"})


def test_names_of_tokenizers_and_pretrained_weights_are_left_out(tmp_path: Path) -> None:
    config = config_with(text_cfg={"hf_tokenizer_name": "somebody/words"}, vision_cfg={"timm_model_pretrained": True})
    write_random_clip(tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    found = resolve_backbone_weights(str(tmp_path / "clip"))
    assert found.model_config == CONFIG


def test_a_folder_without_safetensors_is_told_what_to_take(tmp_path: Path) -> None:
    write_random_clip(tmp_path / "clip")
    (tmp_path / "clip" / TENSORS_FILE).rename(tmp_path / "clip" / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match=r"It has open_clip_pytorch_model\.bin, .* Take open_clip_model\.safetensors"):
        resolve_backbone_weights(str(tmp_path / "clip"))
    with pytest.raises(InputError, match=r"has no open_clip_config\.json"):
        resolve_backbone_weights(str(tmp_path))


def test_tensors_that_do_not_fit_are_refused(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    write_random_clip(folder)
    state = clip[1].state_dict()
    save_file({key: value for key, value in state.items() if "blocks.3" not in key}, folder / TENSORS_FILE)
    with pytest.raises(ModelFormatError, match="lacks 12 weights"):
        create_encoder(resolve_backbone_weights(str(folder)))
    save_file({**state, "visual.proj": torch.zeros(2, 2)}, folder / TENSORS_FILE)
    with pytest.raises(ModelFormatError, match="does not fit its configuration"):
        add_weights(folder, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_text_tower_with_another_vocabulary_needs_its_own_tokenizer(tmp_path: Path) -> None:
    write_random_clip(tmp_path / "clip", config_with(text_cfg={"vocab_size": 100}))
    found = create_encoder(resolve_backbone_weights(str(tmp_path / "clip")))
    with pytest.raises(PlanError, match=r"has 100 words, CLIP has 49,408: it needs tokenizer\.json"):
        found.encode_text(["a bottle"])


def test_a_folder_with_words_of_its_own_reads_texts_by_its_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=100, special_tokens=["<pad>", "<eos>", "<unk>"])
    words.train_from_iterator(["a photo of a scratched bottle", "a photo of a bottle"], trainer)
    text = {"vocab_size": 100, "context_length": 16, "hf_tokenizer_name": "somebody/words", "pool_type": "last"}
    model: Any = write_random_clip(tmp_path / "clip", config_with(text_cfg={**text, "no_causal_mask": True}))
    words.save(str(tmp_path / "clip" / "tokenizer.json"))
    (tmp_path / "clip" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"})
    )
    found = create_encoder(resolve_backbone_weights(str(tmp_path / "clip"))).encode_text(["a scratched bottle"])
    numbers = words.encode("a scratched bottle").ids
    tokens = torch.tensor([[*numbers, *[0] * (16 - len(numbers))]])
    with torch.no_grad():
        torch.testing.assert_close(found, model.encode_text(tokens, normalize=True))


def test_the_commands_add_and_list_a_folder_and_a_plan_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("VAD_WEIGHTS", str(store))
    write_random_clip(tmp_path / "tiny")
    (tmp_path / "tiny" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (tmp_path / "tiny" / "pickled.bin").write_text("not copied")
    assert CliRunner().invoke(app, ["add", str(tmp_path / "tiny"), "--name", "our_clip"]).exit_code == 0
    assert sorted(file.name for file in (store / "our_clip").iterdir()) == [
        "README.md",
        "open_clip_config.json",
        TENSORS_FILE,
    ]
    found = resolve_backbone_weights("our_clip")
    assert (found.name, found.source, found.licence, len(found.sha256)) == ("our_clip", "store", "apache-2.0", 64)
    assert found.mean == (0.4, 0.5, 0.6)
    assert found in list_weights()
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "300"}).output
    assert "our_clip" in listed
    assert "apache-2.0" in listed


def test_fetching_a_folder_without_a_network_says_how_to_bring_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match=r"switched off .*`vad weights add FOLDER"):
        fetch_weights("somebody/clip", store=tmp_path)


def test_weights_of_openai_without_quick_gelu_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path / "store"))
    folder = tmp_path / "vit_tiny_clip.openai"
    write_random_clip(folder, config_with(quick_gelu=False))
    weights = resolve_backbone_weights(str(folder))
    assert "QuickGELU" in warning_of(weights)
    told = CliRunner().invoke(app, ["add", str(folder)]).output
    assert "features would be slightly wrong" in told.replace("\n", " ")
    write_random_clip(folder)
    assert warning_of(resolve_backbone_weights(str(folder))) == ""
    write_random_clip(tmp_path / "laion", config_with(quick_gelu=False))
    assert warning_of(resolve_backbone_weights(str(tmp_path / "laion"))) == ""
    (tmp_path / "laion" / "README.md").write_text("Weights of OpenAI's CLIP.")
    assert "QuickGELU" in warning_of(resolve_backbone_weights(str(tmp_path / "laion")))


@pytest.mark.parametrize("name", ["vit_xsmall_patch16_clip_224", "test_vit"])
def test_a_clip_tower_of_timm_is_an_encoder_without_texts(name: str) -> None:
    found = create_encoder(BackboneWeights(name, None, "random", ""))
    assert isinstance(found, TimmEncoder)
    with torch.no_grad():
        embedding = found(images(64))
    assert embedding.vectors.shape == (2, sum(layer.shape[1] for layer in embedding.patches))
    assert {layer.shape[2:] for layer in embedding.patches} == {(4, 4)}
    assert timm.is_model(name)
    with pytest.raises(PlanError, match="no text tower"):
        found.encode_text(["a bottle"])
