"""The structure of AnomalyGPT as a detector, without its language model.

Written from the paper: Gu et al., "AnomalyGPT: Detecting Industrial Anomalies Using Large Vision-Language Models",
AAAI 2024, https://arxiv.org/abs/2308.15366. Neither code nor weights of the authors are used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.anomalygpt.network import ImageDecoder, MapNetwork, Memory, logistic_curve
from vad_lib.detectors.anomalygpt.plan_arguments import AnomalyGPTArguments, MapName
from vad_lib.detectors.base import Detector, Epoch, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.drawn_defects import random_defect, seed_of
from vad_lib.detectors.epochs import PATIENCE, BestEpoch
from vad_lib.detectors.fit_forecast import (
    FitForecast,
    Part,
    bytes_of,
    memory_problems,
    sample_of,
    seconds_an_image,
    spread_evenly,
)
from vad_lib.detectors.images import ImageDataset, group_by_shape
from vad_lib.detectors.losses import local_loss
from vad_lib.detectors.winclip.plan_arguments import WinClipArguments
from vad_lib.encoders.build import fitting_layers
from vad_lib.encoders.clip import class_vectors
from vad_lib.encoders.encoder import create_encoder, default_layers
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.machine import PeakMemory
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded
from vad_lib.thresholds import learn_threshold

LEARNING_RATE = 1e-3
WIDTH = 256
"""Numbers in the vectors that patches are compared with, where they are learnt; texts bring their own width."""
FEATURE_BUDGET = 2**30
"""Bytes that undamaged images and their features may take between epochs."""
HELD_OUT_SHARE, HELD_OUT_LEAST, HELD_OUT_MOST = 0.1, 2, 50
"""Of the images: held back from learning, to stop in time and to calibrate the map."""
DRAWN_FOR_CALIBRATION = 4
"""Defects that are drawn on each image that is held back."""


@dataclass
class Normals:
    """What one look at the undamaged images found.

    Attributes:
        readable: positions of the images that can be read.
        moments: of their patches.
        kept: prepared image (3, H, W) and its patches by position, as far as there is room for them.
    """

    readable: list[int]
    moments: Moments
    kept: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=dict)


class AnomalyGPT(Detector):
    """A frozen encoder, an image decoder that learns from drawn defects, and a memory of a few normal images.

    Args:
        weights: the encoder's.
        layers: of the encoder; those that suit it where empty.
        shots: normal images that are remembered; 0 for none.
        map_name: which map decides; see ``AnomalyGPTArguments``.
        object_name: what the images show, for an encoder with a text tower.
        max_epochs: most passes over the training images.
        batch_size: images in a step, each of them undamaged and with a defect.
        seed: of the decoder's start, the order of the images and the defects.
        accelerator: cpu or gpu.

    Attributes:
        network: None before a fit.
    """

    name = "anomalygpt"

    def __init__(
        self,
        weights: BackboneWeights,
        layers: Sequence[str] = (),
        shots: int = 4,
        map_name: MapName = "mean",
        object_name: str = "object",
        max_epochs: int = 15,
        batch_size: int = 4,
        seed: int = 42,
        accelerator: str = "cpu",
    ) -> None:
        super().__init__(weights, accelerator)
        self.layers = fitting_layers(weights, layers) if layers else default_layers(weights)
        self.shots = shots
        self.map_name: MapName = map_name if shots else "decoder"
        self.object_name = object_name
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.seed = seed
        with seeded(seed):  # random weights, where they are allowed, come from the seed too
            self.encoder = create_encoder(weights, self.layers, text=False).to(self.device).eval()
        self.network: MapNetwork | None = None

    @classmethod
    def create(cls, arguments: AnomalyGPTArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        return cls(
            settings.weights,
            arguments.anomalygpt_layers,
            arguments.anomalygpt_shots,
            arguments.anomalygpt_map,
            arguments.anomalygpt_object,
            settings.max_epochs,
            settings.batch_size,
            settings.seed,
            settings.accelerator,
        )

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Teach the decoder with defects that are drawn anew in each epoch; ``validation`` has no part in it.

        Raises:
            InputError: no training image can be read, or one has a side below 16 pixels.
        """
        with seeded(self.seed):
            self.network, self.report = self._fit(images, progress)
        return self

    def _fit(self, images: ImageDataset, progress: Progress) -> tuple[MapNetwork, FitReport]:
        normals = self._look_at(images, progress)
        held_out, rest = hold_back(normals.readable)
        decoder = None
        if self.map_name != "memory":
            decoder = new_decoder(self.weights, self.object_name, normals.moments).to(self.device)
        memory = self._new_memory(images, normals, rest) if self.map_name != "decoder" else None
        network = MapNetwork(self.encoder, decoder, memory).to(self.device).eval()
        epochs = [] if decoder is None else self._train(decoder, images, normals, rest, held_out, progress)
        numbers, notices = self._calibrate(network, images, normals, held_out)
        numbers |= {"images_learnt_from": float(len(rest)), "images_remembered": float(min(self.shots, len(rest)))}
        if epochs:
            best = max(epoch.number for epoch in epochs if epoch.best)
            numbers |= {"epochs": float(len(epochs)), "best_epoch": float(best)}
        stopped_early = 0 < len(epochs) < self.max_epochs
        return network, FitReport(tuple(epochs), "loss" if epochs else "", stopped_early, notices, numbers)

    @torch.no_grad()
    def _look_at(self, images: ImageDataset, progress: Progress) -> Normals:
        """Read each image once, and keep its patches for the epochs where they are the same in each.

        Raises:
            InputError: no image can be read.
        """
        meter = ProgressMeter(progress, "Extracting features", len(images))
        readable: list[int] = []
        kept: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
        room = FEATURE_BUDGET if images.augmentation is None else 0
        moments = Moments()
        for batch in images.batches(self.batch_size):
            levels = self._encode(batch.images)
            moments.add(levels)
            for index, image, *one in zip(batch.indices, batch.images, *levels, strict=True):
                readable.append(index)
                room -= bytes_of((image, *one))
                # a file that was changed since it was checked may have another shape now: it is read anew
                if room >= 0 and tuple(image.shape[1:]) == images.prepared_shapes[index]:
                    kept[index] = image.clone(), [level.clone() for level in one]
            meter.advance(len(batch.indices))
        if not readable:
            raise InputError(f"None of the {len(images)} training images can be read; there is nothing to learn from.")
        return Normals(sorted(readable), moments, kept)

    def _new_memory(self, images: ImageDataset, normals: Normals, rest: Sequence[int]) -> Memory:
        """Remember the patches of a few images, evenly spread over those that are learnt from."""
        chosen = [levels for _, _, levels in self._batches(images, spread_evenly(rest, self.shots), normals)]
        rows = [torch.cat([one.movedim(1, -1).flatten(0, 2) for one in level]) for level in zip(*chosen, strict=True)]
        return Memory([functional.normalize(level, dim=1) for level in rows])

    def _train(
        self,
        decoder: ImageDecoder,
        images: ImageDataset,
        normals: Normals,
        rest: list[int],
        held_out: list[int],
        progress: Progress,
    ) -> list[Epoch]:
        """Teach the decoder and leave it as it was in the epoch with the smallest loss on images held back."""
        learnt = [one for one in decoder.parameters() if one.requires_grad]
        optimiser = torch.optim.Adam(learnt, LEARNING_RATE)
        best, state = BestEpoch("loss"), decoder.state_dict()
        epochs: list[Epoch] = []
        meter = ProgressMeter(progress, "Training the image decoder", self.max_epochs * len(rest))
        for number in range(1, self.max_epochs + 1):
            start = time.monotonic()
            images.epoch = number
            order = [rest[place] for place in torch.randperm(len(rest)).tolist()]
            losses = []
            for levels, masks in self._pairs(images, order, normals, number):
                loss = local_loss(decoder(levels, _size_of(masks)), masks)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
                meter.advance(len(masks) // 2, f"epoch {number}")
            with torch.no_grad():
                held = [
                    float(local_loss(decoder(levels, _size_of(masks)), masks))
                    for levels, masks in self._pairs(images, held_out, normals, 0)
                ]
            loss_held_out = float(np.mean(held))
            better = best.is_better(loss_held_out, loss_held_out)
            epochs.append(Epoch(number, float(np.mean(losses)), loss_held_out, better, time.monotonic() - start))
            if better:
                best.best = epochs[-1]
                state = {name: value.detach().clone() for name, value in decoder.state_dict().items()}
            if best.should_stop:
                break
        decoder.load_state_dict(state)
        return epochs

    def _pairs(
        self, images: ImageDataset, order: Sequence[int], normals: Normals, number: int
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Yield patches and masks, bool (2 N, H, W), of N images: first undamaged, then each with a drawn defect.

        Args:
            images: to draw on.
            order: positions of the images.
            normals: whose features may be known.
            number: another one gives other defects.
        """
        for indices, pictures, sound in self._batches(images, order, normals):
            made = [self._draw(image, index, number) for index, image in zip(indices, pictures, strict=True)]
            damaged = self._encode(torch.stack([image for image, _ in made]))
            masks = torch.stack([mask for _, mask in made]).to(self.device)
            levels = [torch.cat(both) for both in zip(sound, damaged, strict=True)]
            yield levels, torch.cat([torch.zeros_like(masks), masks])

    def _batches(
        self, images: ImageDataset, order: Sequence[int], normals: Normals
    ) -> Iterator[tuple[list[int], Sequence[torch.Tensor], list[torch.Tensor]]]:
        """Yield positions, undamaged images and their patches; read anew unless all of them are kept."""
        if any(index not in normals.kept for index in order):
            for batch in images.batches(self.batch_size, order):
                yield batch.indices, [*batch.images], self._encode(batch.images)
            return
        for indices in group_by_shape(order, images.prepared_shapes, self.batch_size):
            pictures, levels = zip(*(normals.kept[index] for index in indices), strict=True)
            yield indices, pictures, [torch.stack(level) for level in zip(*levels, strict=True)]

    def _draw(self, image: torch.Tensor, index: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return random_defect(image, seed_of(self.seed, index, number))

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(self.encoder(images.to(self.device)).patches)

    @torch.no_grad()
    def _calibrate(
        self, network: MapNetwork, images: ImageDataset, normals: Normals, held_out: list[int]
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Have the map cross 0.5 between normal images and drawn defects; say how well that and a threshold do.

        The two are compared by halves: what decides on one half of the images was found on the other half.
        """

        def largest(fused: bool) -> tuple[torch.Tensor, torch.Tensor]:
            """Return the largest values of the maps, of normal images (n, parts) and of drawn defects (m, parts)."""
            sound, damaged = [], []
            for number in range(DRAWN_FOR_CALIBRATION):
                for levels, masks in self._pairs(images, held_out, normals, -1 - number):
                    maps = network.part_maps(levels, _size_of(masks))
                    found = (network.fuse(maps)[None] if fused else maps).amax((2, 3)).T.cpu()
                    damaged.append(found[len(masks) // 2 :])
                    if not number:
                        sound.append(found[: len(masks) // 2])
            return torch.cat(sound), torch.cat(damaged)

        both = torch.cat(largest(fused=False))
        network.set_calibration(centre=both.mean(0), spread=both.std(0, correction=0).clamp(min=1e-6))
        sound, damaged = (one[:, 0] for one in largest(fused=True))
        slope, offset = logistic_curve(sound, damaged)
        network.set_calibration(slope=slope, offset=offset)
        return compare_decisions(sound, damaged)

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images by the largest value of their map, 0..1; see ``base.Detector.score``.

        From 0.5 on the map itself says that an image is damaged.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        network = self.graph()
        parts = []
        for part in batch.split(1 if self.device.type == "cpu" else max(1, len(batch))):
            scores, maps = (self.runner or network)(part.to(self.device))
            parts.append(Scores(scores.cpu().numpy(), maps.cpu().numpy() if with_maps else None))
        return join_scores(parts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors of encoder, decoder, memory and calibration; no text tower is needed any more."""
        return self.graph().state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of such a detector.
        """
        try:
            decoder, memory = None, None
            levels = range(len(self.layers))
            if self.map_name != "memory":
                channels = [len(tensors[f"decoder.levels.{level}.mean"]) for level in levels]
                decoder = ImageDecoder(channels, tensors["decoder.vectors"], learnt=False)
            if self.map_name != "decoder":
                memory = Memory([tensors[f"memory.rows.{level}"] for level in levels])
            network = MapNetwork(self.encoder, decoder, memory)
            network.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this AnomalyGPT: {error}") from error
        self.network = network.to(self.device).eval()
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded AnomalyGPT is made with."""
        return {
            "layers": list(self.layers),
            "shots": self.shots,
            "map_name": self.map_name,
            "object_name": self.object_name,
            "seed": self.seed,
        }

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast a fit by two epochs on a few of the images; see ``base.Detector.forecast``.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        epochs, self.max_epochs = self.max_epochs, min(2, self.max_epochs)  # the first one is slower
        sample = sample_of(images)
        with PeakMemory() as peak:
            start = time.perf_counter()
            self.fit(sample)
            spent = time.perf_counter() - start
            score_seconds = seconds_an_image(sample, self.device, lambda batch: self.score(batch, with_maps=False), 1)
        found = self.report.epochs
        once = (spent - sum(epoch.seconds for epoch in found)) * len(images) / len(sample)
        epoch = found[-1].seconds * len(images) / len(sample) if found else 0.0
        with torch.no_grad():
            blank = torch.zeros((1, 3, *images.prepared_shapes[0]))
            kept = min(FEATURE_BUDGET, len(images) * bytes_of((blank, *self._encode(blank))))
        expected = peak.peak_bytes + (kept if self.device.type == "cpu" and images.augmentation is None else 0)
        name = f"training the image decoder, {epochs} epochs at most"
        least = min(epochs, PATIENCE + 1) * epoch
        return FitForecast(
            parts=(
                Part.of("extracting features and calibrating", once),
                Part(name=name, seconds=epochs * epoch, least_seconds=least),
            ),
            ms_per_image=1000 * score_seconds,
            peak_memory_bytes=expected,
            model_bytes=bytes_of(self.state_dict().values()),
            problems=memory_problems("AnomalyGPT needs about {} of memory", expected, memory_bytes),
        )

    def graph(self) -> nn.Module:
        """Return the fitted network; see ``base.Detector.graph``."""
        if self.network is None:
            raise ModelFormatError("This AnomalyGPT has not been fitted: fit or load it first.")
        return self.network


class Moments:
    """Mean and deviation of each channel, over all patches of the images that were added; all images weigh the same."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: list[torch.Tensor] = []

    def add(self, levels: Sequence[torch.Tensor]) -> None:
        """Add images: their patches (N, C, rows, columns), for each level."""
        more = [torch.stack([level.double().pow(power).mean((2, 3)).sum(0) for power in (1, 2)]) for level in levels]
        self.sums = more if not self.sums else [total + one for total, one in zip(self.sums, more, strict=True)]
        self.images += len(levels[0])

    def result(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return mean and deviation, float32 (C,), of each level."""
        means = [total / self.images for total in self.sums]
        deviations = [(square - mean.square()).clamp(min=0).sqrt().clamp(min=1e-6) for mean, square in means]
        return [(mean.float(), deviation.float()) for (mean, _), deviation in zip(means, deviations, strict=True)]


def new_decoder(weights: BackboneWeights, object_name: str, moments: Moments) -> ImageDecoder:
    """Return a decoder that has learnt nothing yet.

    Args:
        weights: of the encoder. Where it has a text tower, texts about the object give the vectors, which stay; else
            they are drawn at random and learn.
        object_name: what the images show.
        moments: of normal patches.
    """
    has_texts = weights.library == "open_clip"
    if has_texts:
        with torch.no_grad():
            vectors = class_vectors(weights, WinClipArguments(winclip_object=object_name).sentences())
    else:
        vectors = functional.normalize(torch.randn(2, WIDTH), dim=1)
    found = moments.result()
    decoder = ImageDecoder([len(mean) for mean, _ in found], vectors, learnt=not has_texts)
    for level, (mean, deviation) in zip(decoder.levels, found, strict=True):
        level.load_state_dict({"mean": mean, "deviation": deviation}, strict=False)
    return decoder


def hold_back(readable: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return a tenth of the positions, evenly spread, and the others; all of them twice where there are below four."""
    if len(readable) < 2 * HELD_OUT_LEAST:
        return [*readable], [*readable]
    count = min(HELD_OUT_MOST, max(HELD_OUT_LEAST, round(HELD_OUT_SHARE * len(readable))))
    held_out = spread_evenly(readable, count)
    return held_out, [one for one in readable if one not in set(held_out)]


def compare_decisions(normal: torch.Tensor, damaged: torch.Tensor) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compare the map's own decision at 0.5 with a threshold that is learnt, on images that neither was found on.

    Args:
        normal: largest values of the maps of n normal images, (n,).
        damaged: of drawn defects on the same images, (m,), m a multiple of n.

    Returns:
        The numbers for the report, and one sentence.
    """
    numbers = {"held_out_normals": float(len(normal)), "held_out_drawn_defects": float(len(damaged))}
    if len(normal) < 2:
        return numbers, ("There are too few images to compare the map's own decision with a learnt threshold.",)
    half = torch.arange(len(normal)) % 2 == 0
    halves = half.repeat(len(damaged) // len(normal))
    counts = dict.fromkeys(("own_false_alarms", "own_misses", "learnt_false_alarms", "learnt_misses"), 0)
    for of_normal, of_damaged in ((half, halves), (~half, ~halves)):
        sound, broken = normal[of_normal], damaged[of_damaged]
        slope, offset = logistic_curve(sound, broken)
        values = torch.cat([sound, broken]).numpy()
        learnt = learn_threshold(values, [False] * len(sound) + [True] * len(broken)).value
        for rule, limit in (("own", -offset / slope), ("learnt", learnt)):
            counts[f"{rule}_false_alarms"] += int((normal[~of_normal] >= limit).sum())
            counts[f"{rule}_misses"] += int((damaged[~of_damaged] < limit).sum())
    said = (
        f"On {len(normal)} normal images that were held back, and {len(damaged)} defects drawn on them, the map's own "
        f"0.5 gives {counts['own_false_alarms']} false alarms and {counts['own_misses']} misses; a threshold that is "
        f"learnt gives {counts['learnt_false_alarms']} and {counts['learnt_misses']}. Drawn defects are not the "
        "defects of a production."
    )
    return numbers | {f"held_out_{name}": float(count) for name, count in counts.items()}, (said,)


def _size_of(masks: torch.Tensor) -> tuple[int, int]:
    return masks.shape[1], masks.shape[2]
