"""WinCLIP as a detector: the words decide, and a few normal images where they are asked for.

Paper: Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023,
https://arxiv.org/abs/2303.14814
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch.nn import functional

from vad_lib.detectors.base import Detector, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.fit_forecast import sample_of
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.winclip.plan_arguments import WinClipArguments
from vad_lib.detectors.winclip.windows import SCALES, Seen, WindowEncoder, few_shot, zero_shot
from vad_lib.encoders.clip import OpenClipEncoder, class_vectors
from vad_lib.encoders.encoder import create_encoder
from vad_lib.encoders.weight_file import BackboneWeights, part_of
from vad_lib.errors import InputError, ModelFormatError, PlanError
from vad_lib.progress import Progress, ProgressMeter, silent

TEMPERATURE = 0.07
"""Of the softmax over normal and abnormal, as CLIP was trained."""


class WinClip(Detector):
    """Compares an image, its windows and its patches with texts and, where asked for, with a few normal images.

    A fitted model holds the two vectors of the texts: it needs no text encoder.

    Args:
        weights: of a CLIP folder.
        sentences: that describe a normal object, and an abnormal one; empty for a model that is loaded.
        shots: normal images that are remembered.
        accelerator: cpu or gpu.

    Raises:
        PlanError: the encoder is no CLIP with a vision transformer.
    """

    name = "winclip"

    def __init__(
        self,
        weights: BackboneWeights,
        sentences: Sequence[Sequence[str]] = ((), ()),
        shots: int = 4,
        accelerator: str = "cpu",
    ) -> None:
        super().__init__(weights, accelerator)
        if weights.library != "open_clip":
            raise PlanError(
                f"WinCLIP compares images with texts, and {weights.name} has no text tower. Name a CLIP folder in "
                "winclip_encoder: `vad weights fetch OWNER/NAME` or `vad weights add FOLDER` brings one into the store."
            )
        self.sentences = tuple(tuple(texts) for texts in sentences)
        self.shots = shots
        encoder = create_encoder(weights, (), text=False)
        assert isinstance(encoder, OpenClipEncoder)
        self.network = WindowEncoder(encoder).to(self.device).eval()
        self.texts_: torch.Tensor | None = None
        self.memory_: dict[str, torch.Tensor] = {}

    @classmethod
    def create(cls, arguments: WinClipArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        return cls(settings.weights, arguments.sentences(), arguments.winclip_shots, settings.accelerator)

    @torch.inference_mode()
    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Encode the texts, and remember a few images, evenly spread over all. See ``base.Detector.fit``.

        Raises:
            InputError: images are wanted and none can be read.
            PlanError: the folder has no text tower that can be used.
        """
        texts = class_vectors(self.weights, self.sentences).to(self.device)
        chosen = sample_of(images, self.shots) if self.shots and len(images) else None
        seen = [] if chosen is None else self._look_at(chosen, progress)
        if chosen is not None:
            if not seen:
                raise InputError(f"None of the {len(chosen)} training images that were chosen can be read.")
            # the training's own count of unreadable files is by position in the whole set
            places = {file: place for place, file in enumerate(images.files)}
            images.unreadable |= {places[chosen.files[number]]: why for number, why in chosen.unreadable.items()}
        self.texts_, self.memory_ = texts, _memory_of(seen)
        self.report = FitReport(
            numbers={"texts": float(sum(map(len, self.sentences))), "images_remembered": float(len(seen))}
        )
        return self

    def _look_at(self, images: ImageDataset, progress: Progress) -> list[Seen]:
        meter = ProgressMeter(progress, "Remembering images", len(images))
        found = {}
        for batch in images.batches(1):
            found[batch.indices[0]] = self.network(batch.images.to(self.device))
            meter.advance()
        return [found[index] for index in sorted(found)]

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1; see ``base.Detector.score``. Scores and maps are 0..1.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        texts = self._texts()
        return join_scores([self._score(image[None].to(self.device), texts, with_maps) for image in batch])

    def _score(self, image: torch.Tensor, texts: torch.Tensor, with_maps: bool) -> Scores:
        seen = self.network(image)
        score, patches = zero_shot(seen, texts, TEMPERATURE)
        if self.memory_:
            windows = tuple(self.memory_[f"windows_{scale}"] for scale in SCALES)
            strange = few_shot(seen, self.memory_["patches"], windows)
            score, patches = (score + strange.max()) / 2, (patches + strange) / 2
        maps = None
        if with_maps:
            maps = functional.interpolate(patches[None, None], size=image.shape[2:], mode="bilinear")[0].cpu().numpy()
        return Scores(score[None].cpu().numpy(), maps)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the image tower, the vectors of the texts, and what is remembered."""
        tower = {f"visual.{name}": tensor for name, tensor in self.network.visual.state_dict().items()}
        memory = {f"memory.{name}": tensor for name, tensor in self.memory_.items()}
        return {"texts": self._texts(), **memory, **tower}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of a WinCLIP with this encoder.
        """
        try:
            self.network.visual.load_state_dict(part_of(tensors, "visual."))
            self.texts_ = tensors["texts"].to(self.device)
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this WinCLIP: {error}") from error
        self.memory_ = {name: value.to(self.device) for name, value in part_of(tensors, "memory.").items()}
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded WinCLIP is made with; the texts are for people."""
        return {"sentences": [list(texts) for texts in self.sentences], "shots": self.shots}

    def _texts(self) -> torch.Tensor:
        if self.texts_ is None:
            raise ModelFormatError("This winclip has not been fitted: fit or load it first.")
        return self.texts_


def _memory_of(seen: Sequence[Seen]) -> dict[str, torch.Tensor]:
    if not seen:
        return {}
    windows = {f"windows_{scale}": torch.cat([one.windows[n] for one in seen]) for n, scale in enumerate(SCALES)}
    return {"patches": torch.cat([one.patches for one in seen]), **windows}
