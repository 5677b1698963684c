"""Prompts that are learnt for a local language model: what learns, what stays, what is refused, what is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests.detectors.tile_images import as_dataset, write_tiles
from tests.words.tiny_vlm import train_tokenizer
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.fallback import NAME
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.progress import ProgressUpdate
from vad_lib.randomness import seeded
from vad_lib.words.places import PLACES, place_in, place_of
from vad_lib.words.prompter import language_model as module
from vad_lib.words.prompter.dialogue import NORMAL_ANSWER, QUESTION, Reading, answer_about, read_answer
from vad_lib.words.prompter.language_model import LanguageModel, require_plain_folder
from vad_lib.words.prompter.network import MapPrompter
from vad_lib.words.prompter.prompted import Prompted
from vad_lib.words.prompter.training import (
    PRESETS,
    Check,
    Example,
    Preset,
    Trained,
    check,
    example_batches,
    train_prompter,
)

RESNET = BackboneWeights("resnet18", None, "random", "")
SIDE = 56


@pytest.fixture(scope="module")
def language_model(tiny_vlm: Path) -> LanguageModel:
    return LanguageModel(tiny_vlm)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """8 normal tiles, two of which are held back from learning."""
    return as_dataset(write_tiles(tmp_path_factory.mktemp("prompter_tiles"), 8, side=SIDE), SIDE)


@pytest.fixture(scope="module")
def picture(images: ImageDataset) -> Image.Image:
    with Image.open(images.files[0]) as opened:
        return opened.convert("RGB")


def learn(images: ImageDataset, language_model: LanguageModel, epochs: int) -> Trained:
    return train_prompter(images, RESNET, language_model, Preset(epochs, 8), layers=("layer1",), stages=2, seed=1)


@pytest.fixture(scope="module")
def trained(images: ImageDataset, language_model: LanguageModel) -> Trained:
    return learn(images, language_model, 5)


@pytest.mark.spec("P4.01", "P4.03")
def test_the_losses_of_words_and_map_fall_and_only_decoder_and_prompter_change(
    trained: Trained, images: ImageDataset, language_model: LanguageModel, tiny_vlm: Path
) -> None:
    """Everything that must stay is compared to the last bit with what it was before."""
    first, last = trained.passes[0], trained.passes[-1]
    assert last.words_loss < first.words_loss - 0.05
    assert last.map_loss < first.map_loss - 0.05

    untouched = LanguageModel(tiny_vlm).model.state_dict()
    found = language_model.model.state_dict()
    assert found.keys() == untouched.keys()
    assert all(torch.equal(value, untouched[name]) for name, value in found.items())

    short = learn(images, language_model, 1).prompted.network
    names = {name for name, value in short.named_parameters() if value.requires_grad}
    now = trained.prompted.network.state_dict()
    changed = {name for name, value in short.state_dict().items() if not torch.equal(value, now[name])}
    assert changed == names
    assert {name.split(".")[0] for name in changed} == {"decoder", "prompter"}


def test_the_same_seed_gives_the_same_prompts(
    trained: Trained, images: ImageDataset, language_model: LanguageModel
) -> None:
    again = learn(images, language_model, 5).prompted.network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in trained.prompted.network.state_dict().items())


@pytest.mark.spec("P4.04")
def test_the_runs_of_the_study_are_presets_and_adam_sees_each_image_undamaged_and_damaged(
    images: ImageDataset, language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {name: (one.epochs, one.batch_size) for name, one in PRESETS.items()} == {
        "15-8": (15, 8),
        "15-16": (15, 16),
        "20-16": (20, 16),
    }
    assert module.LONGEST_PROMPT == 1024
    rates, adam = [], torch.optim.Adam

    def optimiser(parameters: list[torch.Tensor], rate: float) -> torch.optim.Adam:
        rates.append(rate)
        return adam(parameters, rate)

    monkeypatch.setattr(torch.optim, "Adam", optimiser)
    learn(images, language_model, 1)
    assert rates == [1e-3]
    batches = [[bool(one.mask.any()) for one in batch] for batch in example_batches(images, range(8), 8, (1, 1))]
    assert batches == [[False] * 4 + [True] * 4] * 2


@pytest.mark.spec("P4.01")
def test_a_map_becomes_a_vector_for_each_of_nine_places_and_base_vectors_that_do_not_depend_on_it() -> None:
    with seeded(0):
        prompter = MapPrompter(width=6, stages=2, base=4)
    maps = torch.zeros(1, 28, 28)
    marked = maps.clone()
    marked[0, -1, -1] = 1.0
    plain, corner = prompter(maps)[0], prompter(marked)[0]
    assert plain.shape == (prompter.count, 6) == (13, 6)
    changed = [index for index in range(13) if not torch.equal(plain[index], corner[index])]
    assert PLACES.index("bottom right") in changed
    assert PLACES.index("top left") not in changed
    assert max(changed) == 8
    assert prompter(torch.zeros(2, 64, 40)).shape == (2, 13, 6)


@pytest.mark.spec("P4.01")
def test_vectors_take_the_place_of_words_as_if_they_were_handed_in_as_inputs_embeds(
    tmp_path: Path, picture: Image.Image
) -> None:
    """A language model without eyes, and without a chat template; the loss is computed by hand beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer()
    tokenizer.chat_template = None
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with seeded(3):
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
        vectors = torch.randn(3, 32, requires_grad=True)
    tokenizer.save_pretrained(tmp_path)
    model = LanguageModel(tmp_path)
    assert not model.sees

    loss = model.loss(picture, QUESTION, "No.", vectors)
    question, answer = (tokenizer(text, return_tensors="pt").input_ids for text in (QUESTION, "No."))
    answer = torch.cat([answer, torch.tensor([[tokenizer.eos_token_id]])], 1)
    words = model.model.get_input_embeddings()
    logits = model.model(inputs_embeds=torch.cat([vectors[None], words(question), words(answer)], 1)).logits
    wanted = functional.cross_entropy(logits[0, -answer.shape[1] - 1 : -1], answer[0])
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)

    loss.backward()
    assert vectors.grad is not None
    assert (vectors.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in model.model.parameters())
    assert isinstance(model.answer(picture, QUESTION, vectors), str)
    assert not words._forward_hooks


def test_what_is_learnt_is_kept_as_numbers_and_answers_the_same_after_loading(
    trained: Trained, language_model: LanguageModel, picture: Image.Image, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["detector.json", "model.safetensors"]
    loaded = Prompted.load(tmp_path, language_model)
    np.testing.assert_array_equal(loaded.map_of(picture), trained.prompted.map_of(picture))
    assert loaded.map_of(picture).shape == (SIDE, SIDE)
    assert loaded.answer(picture) == trained.prompted.answer(picture)
    assert loaded.ask([picture.rotate(90), picture], QUESTION) == loaded.answer(picture)
    history = json.loads((tmp_path / "detector.json").read_text())["history"]
    assert len(history["passes"]) == 5
    assert history["check"]["of"] == 2


def test_prompts_are_not_used_with_a_language_model_of_other_words(
    trained: Trained, language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path)
    monkeypatch.setattr(language_model, "fingerprint", "another")
    with pytest.raises(ModelFormatError, match="were learnt for the language model tiny-vlm"):
        Prompted.load(tmp_path, language_model)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("modeling_own.py", "", "brings code of its own"),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "own.Own"}}', "names code to run"),
        ("processor_config.json", '{"image_processor": {"auto_map": {}}}', "names code to run"),
        ("processor_config.json", "{", "cannot be read as JSON"),
        ("model.safetensors", "damaged", "transformers cannot read the language model"),
        ("adapter_config.json", "{}", "adapter of another model"),
    ],
)
def test_a_folder_that_would_run_code_or_is_damaged_is_refused(
    tiny_vlm: Path, tmp_path: Path, file: str, text: str, words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_vlm, folder)
    require_plain_folder(folder)
    (folder / file).write_text(text)
    with pytest.raises(ModelFormatError, match=words):
        LanguageModel(folder)


def test_weights_that_must_be_unpickled_and_folders_without_a_model_are_refused(tiny_vlm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_vlm, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match=r"no \.safetensors file"):
        LanguageModel(folder)
    with pytest.raises(InputError, match=r"no config\.json"):
        LanguageModel(tmp_path)


def test_a_prompt_that_is_too_long_is_refused_with_its_length(
    language_model: LanguageModel, picture: Image.Image
) -> None:
    with pytest.raises(InputError, match=r"\d{4} tokens, and at most 1024"):
        language_model.answer(picture, "Is there anything? " * 600, torch.zeros(3, language_model.width))


class KnowsEverything:
    """Is asked about white squares on black, and sees them."""

    def map_of(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.convert("L"), np.float32) / 255

    def answer(self, picture: Image.Image) -> str:
        return answer_about(self.map_of(picture) > 0.5)


class AlwaysTopLeft(KnowsEverything):
    def answer(self, picture: Image.Image) -> str:
        return "Yes, at the top left"


def test_the_check_counts_right_answers_places_and_those_of_the_map_alone() -> None:
    pairs = []
    for place in ("top left", "right", "bottom"):
        row, column = divmod(PLACES.index(place), 3)
        mask = torch.zeros(30, 30, dtype=torch.bool)
        mask[10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = True
        pairs.append(
            [
                Example(torch.zeros(3, 30, 30), torch.zeros_like(mask)),
                Example(mask.float().expand(3, -1, -1), mask),
            ]
        )
    told: list[ProgressUpdate] = []
    assert check(KnowsEverything(), pairs, 3, told.append) == Check(of=3, right=6, places=3, places_by_map=3)  # type: ignore[arg-type]
    assert told[-1].done == 3
    assert check(AlwaysTopLeft(), pairs, 3) == Check(of=3, right=3, places=1, places_by_map=3)  # type: ignore[arg-type]


def test_answers_name_the_place_with_most_of_the_defect_and_are_read_back() -> None:
    for number, place in enumerate(PLACES):
        mask = np.zeros((30, 60), bool)
        row, column = divmod(number, 3)
        mask[10 * row + 2 : 10 * row + 8, 20 * column + 3 : 20 * column + 12] = True
        assert place_of(mask) == place
        assert read_answer(answer_about(mask)) == Reading(True, place)
        assert Example(torch.zeros(3, 30, 60), torch.from_numpy(mask)).answer == answer_about(mask)
    assert read_answer(answer_about(np.zeros((9, 9), bool))) == Reading(False, None)
    assert read_answer("I cannot tell; nothing is known.") == Reading(None, None)
    assert place_in("In the upper right corner") == "top right"
    assert place_in("around the center, left of it") == "centre"


@pytest.mark.slow
@pytest.mark.spec("P4.01")
def test_a_language_model_that_follows_words_learns_to_follow_maps(tmp_path: Path) -> None:
    """It was taught to answer by a place that is said before the question; prompts then take the place of that word."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    taught = {place: f"Yes. There is an anomaly in the image, at the {place}." for place in PLACES}
    taught["none"] = NORMAL_ANSWER
    # of its own sentences: what the pages under docs say must not decide what is learnt
    tokenizer = train_tokenizer([QUESTION, *taught.values()])
    tokenizer.chat_template = None
    with seeded(0):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(200):
            hints = {place: f" {place}" * (1 + step % 6) for place in taught}
            texts = [f"{hints[place]} {QUESTION}{answer}{tokenizer.eos_token}" for place, answer in taught.items()]
            tokens = tokenizer(texts, padding=True, return_tensors="pt")
            labels = tokens.input_ids.masked_fill(tokens.attention_mask == 0, -100)
            loss = model(tokens.input_ids, attention_mask=tokens.attention_mask, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    images = as_dataset(write_tiles(tmp_path / "tiles", 40, side=64), 64)
    weights = resolve_backbone_weights(NAME, tmp_path)
    trained = train_prompter(images, weights, LanguageModel(tmp_path), Preset(12, 8), stages=3, seed=1)
    assert trained.passes[-1].words_loss < 0.5 * trained.passes[0].words_loss
    assert trained.check.right > trained.check.of
