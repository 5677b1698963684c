"""The largest similarity to reference images, in the joined features of two encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from vad_lib.detectors.base import FitReport, FitSettings
from vad_lib.detectors.embedding.detector import EmbeddingDetector, report_of
from vad_lib.detectors.embedding.heads import Head, SimilarityHead
from vad_lib.detectors.embedding.plan_arguments import SimilarityArguments
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.encoder import Encoder, create_encoder, default_layers
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError
from vad_lib.images.decoding import decode_image
from vad_lib.progress import Progress, ProgressMeter, silent


class ClipSimilarity(EmbeddingDetector):
    """One minus the largest cosine similarity to a reference, in features of which each encoder has half.

    Args:
        weights: the encoder's.
        second: weights of the second encoder, or what their ``to_json`` gave; none joins nothing.
        second_layers: of the second encoder; those that suit it where empty.
        references: the images that others are compared with, as the plan names them; all training images where empty.
        arguments: of ``EmbeddingDetector``.
    """

    name = "clip_similarity"
    head_type: ClassVar[type[Head]] = SimilarityHead

    def __init__(
        self,
        weights: BackboneWeights,
        *arguments: Any,
        second: BackboneWeights | dict[str, Any] | None = None,
        second_layers: Sequence[str] = (),
        references: Sequence[str] = (),
        **named: Any,
    ) -> None:
        given = BackboneWeights.from_json(second) if isinstance(second, dict) else second
        self._is_twice_the_same = given is not None and _are_same(weights, given)
        self.second = None if self._is_twice_the_same else given
        self.second_layers = tuple(second_layers)
        if self.second is not None and not self.second_layers:
            self.second_layers = default_layers(self.second)
        self.references = tuple(references)
        super().__init__(weights, *arguments, **named)

    def _encoders(self) -> list[Encoder]:
        both = super()._encoders()
        if self.second is not None:
            both.append(create_encoder(self.second, self.second_layers, text=False))
        return both

    @classmethod
    def create(cls, arguments: SimilarityArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        second = None
        if wanted := arguments.clip_similarity_second_encoder:
            second = resolve_backbone_weights(wanted, settings.weights_store)
            second = replace(second, precision=settings.weights.precision)
        return cls(
            settings.weights,
            arguments.clip_similarity_layers,
            arguments.clip_similarity_patch_level,
            {},
            settings.seed,
            settings.batch_size,
            settings.accelerator,
            second=second,
            references=arguments.clip_similarity_references,
        )

    def _learn(self, images: ImageDataset, progress: Progress) -> tuple[Head, FitReport]:
        if not self.references:
            head, report = super()._learn(images, progress)
        else:
            chosen, rest = _split(images, self.references)
            head, report = super()._learn(chosen, silent)
            if not self.patch_level and len(rest):
                meter = ProgressMeter(progress, "Extracting features", len(rest))
                others = torch.cat([vectors for _, vectors in self._each(rest, meter)])
                report = report_of(head, len(chosen), head.score(others))
        return head, replace(report, notices=(*self._notices(), *report.notices))

    def _notices(self) -> tuple[str, ...]:
        if self._is_twice_the_same:
            return (f"Both encoders are {self.weights.name}, so its features stand alone.",)
        if self.second is None or self.second.asked_for in ("", self.second.name) or self.second.source == "plan":
            return ()
        return (f"Instead of {self.second.asked_for}, {self.second.name} was used as the second encoder.",)

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded detector is made with."""
        second = None if self.second is None else self.second.to_json()
        return {
            **super().init_arguments(),
            "second": second,
            "second_layers": list(self.second_layers),
            "references": list(self.references),
        }


def _are_same(one: BackboneWeights, other: BackboneWeights) -> bool:
    return (one.name, one.sha256) == (other.name, other.sha256)


def _split(images: ImageDataset, references: Sequence[str]) -> tuple[ImageDataset, ImageDataset]:
    """Return the reference images, and the training images that are none.

    Raises:
        InputError: a reference is neither a training image nor an absolute path of a file.
    """
    chosen: list[int] = []
    files: list[Path] = []
    for name in references:
        ends = Path(name).parts
        found = [number for number, file in enumerate(images.files) if file.parts[-len(ends) :] == ends]
        if not found and not (Path(name).is_absolute() and Path(name).is_file()):
            raise InputError(
                f"clip_similarity_references names {name}, which is neither the end of the path of a training image "
                "nor the absolute path of a file."
            )
        chosen += found
        files += [] if found else [Path(name)]
    rest = sorted(set(range(len(images))) - set(chosen))
    shapes = [images.prepared_shapes[number] for number in chosen]
    shapes += [decode_image(file).pixels.shape[:2] for file in files]
    references_of_line = ImageDataset([*(images.files[n] for n in chosen), *files], images.preprocessing, shapes=shapes)
    others = ImageDataset(
        [images.files[number] for number in rest],
        images.preprocessing,
        shapes=[images.prepared_shapes[number] for number in rest],
        augmentation=images.augmentation,
    )
    return references_of_line, others
