"""Learning prompts: on normal images of a line, and on the same images with drawn defects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from vad_lib.detectors.anomalygpt.detector import Moments, hold_back, new_decoder
from vad_lib.detectors.drawn_defects import random_defect, seed_of
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.losses import local_loss
from vad_lib.encoders.encoder import create_encoder, default_layers
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded
from vad_lib.words.places import place_of
from vad_lib.words.prompter.dialogue import QUESTION, answer_about, read_answer
from vad_lib.words.prompter.language_model import LanguageModel
from vad_lib.words.prompter.network import BASE_VECTORS, STAGES, MapPrompter, PromptNetwork
from vad_lib.words.prompter.prompted import Prompted, as_picture

LEARNING_RATE = 1e-3
MARKED_SHARE = 0.1
"""Of a map's pixels, the largest ones, that mark where it sees something."""


@dataclass(frozen=True)
class Preset:
    """How long to learn: passes over the images, and images in a step, half of them with a drawn defect."""

    epochs: int
    batch_size: int


PRESETS = {"15-8": Preset(15, 8), "15-16": Preset(15, 16), "20-16": Preset(20, 16)}
"""The runs of the study: epochs, then images in a step. Prompts have 1024 tokens at most (``LONGEST_PROMPT``)."""


@dataclass(frozen=True)
class Pass:
    """What one pass over the images gave: the mean losses of the words and of the map, and its seconds."""

    number: int
    words_loss: float
    map_loss: float
    seconds: float


@dataclass(frozen=True)
class Check:
    """Answers about ``of`` images that were held back, each undamaged and with a drawn defect.

    Attributes:
        right: answers that say rightly yes or no, of 2 ``of``.
        places: answers about the damaged ones that name the right place, of ``of``.
        places_by_map: of the same, how often the largest part of the map's upper tenth lies at the right place: what
            a sentence made without a language model would say.
    """

    of: int
    right: int
    places: int
    places_by_map: int


@dataclass(frozen=True)
class Trained:
    """A language model with learnt prompts, and how that went."""

    prompted: Prompted
    passes: tuple[Pass, ...]
    check: Check

    def save(self, folder: Path) -> None:
        """Write what ``Prompted.load`` reads, with passes and check beside it."""
        history = {"passes": [asdict(one) for one in self.passes], "check": asdict(self.check)}
        self.prompted.save(folder, history)


@dataclass(frozen=True)
class Example:
    """One image to learn from or to ask about: float32 (3, H, W) in 0..1, and the mask of its defect, bool (H, W)."""

    image: torch.Tensor
    mask: torch.Tensor

    @property
    def answer(self) -> str:
        """What should be said about it."""
        return answer_about(self.mask.numpy())


def train_prompter(
    images: ImageDataset,
    weights: BackboneWeights,
    language_model: LanguageModel,
    preset: Preset = PRESETS["15-8"],
    *,
    layers: Sequence[str] = (),
    object_name: str = "object",
    stages: int = STAGES,
    base: int = BASE_VECTORS,
    seed: int = 42,
    progress: Progress = silent,
) -> Trained:
    """Teach an image decoder and a prompter; encoder and language model stay as they are, to the last bit.

    The loss is the language model's cross-entropy on the answer, and focal and dice loss of the map. In each pass each
    image is seen twice, undamaged and with a defect that is drawn anew.

    Args:
        images: normal ones, all prepared to one shape.
        weights: of the encoder.
        language_model: that will answer.
        preset: how long to learn.
        layers: of the encoder; those that suit it where empty.
        object_name: what the images show, for an encoder with a text tower.
        stages: of the prompter; see ``MapPrompter``.
        base: its vectors that do not depend on the image.
        seed: of the start, the order and the defects.
        progress: told of every step; an exception raised in it stops the work.

    Raises:
        InputError: no image can be read, one has a side below 16 pixels, or a prompt is too long.
    """
    with seeded(seed):
        chosen = tuple(layers) or default_layers(weights)
        encoder = create_encoder(weights, chosen, text=False).to(language_model.device)
        moments, readable = Moments(), []
        meter = ProgressMeter(progress, "Looking at the images", len(images))
        for batch in images.batches(preset.batch_size):
            with torch.no_grad():
                moments.add(encoder.eval()(batch.images.to(language_model.device)).patches)
            readable += batch.indices
            meter.advance(len(batch.indices))
        if not readable:
            raise InputError(f"None of the {len(images)} images can be read; there is nothing to learn from.")
        held_out, rest = hold_back(sorted(readable))
        prompter = MapPrompter(language_model.width, language_model.spread, stages, base)
        network = PromptNetwork(encoder, new_decoder(weights, object_name, moments), prompter)
        network.to(language_model.device).train()
        encoder.eval()
        optimiser = torch.optim.Adam(network.learnt(), LEARNING_RATE)
        passes = []
        meter = ProgressMeter(progress, "Learning prompts", preset.epochs * len(rest))
        for number in range(1, preset.epochs + 1):
            start = time.monotonic()
            order = [rest[place] for place in torch.randperm(len(rest)).tolist()]
            losses = []
            for examples in example_batches(images, order, preset.batch_size, (seed, number)):
                losses.append(learn_step(network, language_model, optimiser, examples))
                meter.advance(len(examples) // 2, f"pass {number}")
            words, of_map = (float(np.mean(part)) for part in zip(*losses, strict=True))
            passes.append(Pass(number, words, of_map, time.monotonic() - start))
        prompted = Prompted(network, chosen, images.preprocessing, language_model)
        held = example_batches(images, held_out, 2, (seed, 0))
        return Trained(prompted, tuple(passes), check(prompted, held, len(held_out), progress))


def example_batches(
    images: ImageDataset, order: Sequence[int], batch_size: int, seeds: tuple[int, int]
) -> Iterator[list[Example]]:
    """Yield batches: first some images undamaged, then the same ones each with a drawn defect."""
    for batch in images.batches(max(1, batch_size // 2), order):
        drawn = [
            Example(*random_defect(image, seed_of(*seeds, index)))
            for index, image in zip(batch.indices, batch.images, strict=True)
        ]
        yield [*(Example(image, torch.zeros_like(drawn[0].mask)) for image in batch.images), *drawn]


def learn_step(
    network: PromptNetwork, language_model: LanguageModel, optimiser: torch.optim.Optimizer, examples: list[Example]
) -> tuple[float, float]:
    """Take one step, and return the mean loss of the answers and that of the maps before it.

    The language model reads one prompt at a time, so its memory does not grow with the batch.
    """
    device = language_model.device
    levels, vectors = network(torch.stack([one.image for one in examples]).to(device))
    of_map = local_loss(levels, torch.stack([one.mask for one in examples]).to(device))
    told = vectors.detach().requires_grad_()
    words = 0.0
    for one, own in zip(examples, told, strict=True):
        loss = language_model.loss(as_picture(one.image), QUESTION, one.answer, own) / len(examples)
        loss.backward()
        words += float(loss.detach())
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward([of_map, vectors], [None, told.grad])
    optimiser.step()
    return words, float(of_map.detach())


def check(prompted: Prompted, examples: Iterable[Sequence[Example]], total: int, progress: Progress = silent) -> Check:
    """Ask about images that nothing was learnt from, with defects that were not seen before.

    Args:
        prompted: that is asked.
        examples: pairs of an undamaged image and the same one with a defect.
        total: how many pairs there are.
        progress: told of each pair.
    """
    right = places = by_map = of = 0
    meter = ProgressMeter(progress, "Asking about images held back", total)
    for pair in examples:
        said = [read_answer(prompted.answer(as_picture(one.image))) for one in pair]
        right += sum(one.anomaly == bool(example.mask.any()) for one, example in zip(said, pair, strict=True))
        damaged = pair[-1]
        truth = place_of(damaged.mask)
        places += said[-1].anomaly is True and said[-1].place == truth
        found = prompted.map_of(as_picture(damaged.image))
        by_map += place_of(found >= np.quantile(found, 1 - MARKED_SHARE)) == truth
        of += 1
        meter.advance()
    return Check(of, int(right), int(places), int(by_map))
