"""What all embedding detectors have in common: images are encoded once, a head learns from the vectors and judges.

On image level a detector judges one vector of each image and makes no maps. On patch level it judges the vector of each
patch: the image's score is the mean of the strangest hundredth of its patches (Damm et al., "AnomalyDINO",
https://arxiv.org/abs/2405.14529), and the patches' scores are its map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import sklearn
import torch
from torch import nn

from vad_lib.detectors.base import Detector, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.embedding.features import Features
from vad_lib.detectors.embedding.heads import ForestHead, Head, LofHead, MahalanobisHead, NearestHead
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.k_centre_greedy import coreset_indices
from vad_lib.detectors.maps import MapMaker
from vad_lib.encoders.build import fitting_layers
from vad_lib.encoders.encoder import Encoder, create_encoder, default_layers
from vad_lib.encoders.weight_file import BackboneWeights, part_of
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded

TOP_SHARE = 0.01
"""Of an image's patches, the strangest ones whose mean is the image's score."""
CANDIDATES = 5
"""Patches that are drawn from all images for each one that a head learns from, where it chooses among them."""


class EmbeddingDetector(Detector):
    """An encoder and a head.

    Args:
        weights: the encoder's.
        layers: of the encoder; those that suit it where empty.
        patch_level: whether patches are judged, or the whole image.
        options: the arguments of the head.
        seed: of everything that is drawn.
        batch_size: images read at once.
        accelerator: cpu or gpu; where the encoder computes.

    Attributes:
        head_type: what judges.
        head_: the fitted head; None before a fit.
    """

    head_type: ClassVar[type[Head]]

    def __init__(
        self,
        weights: BackboneWeights,
        layers: Sequence[str] = (),
        patch_level: bool = False,
        options: dict[str, Any] | None = None,
        seed: int = 42,
        batch_size: int = 4,
        accelerator: str = "cpu",
    ) -> None:
        super().__init__(weights, accelerator)
        self.layers = fitting_layers(weights, layers) if layers else default_layers(weights)
        self.patch_level = patch_level
        self.options = dict(options or {})
        self.seed = seed
        self.batch_size = batch_size
        with seeded(seed):  # random weights, where they are allowed, come from the seed too
            self.features = Features(self._encoders(), patch_level).to(self.device).eval()
        self.map_maker = MapMaker()
        self.head_: Head | None = None

    def _encoders(self) -> list[Encoder]:
        return [create_encoder(self.weights, self.layers, text=False)]

    @classmethod
    def create(cls, arguments: Any, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; ``arguments`` are ``EmbeddingArguments``."""
        return cls(
            settings.weights,
            arguments.value("layers"),
            arguments.value("patch_level"),
            arguments.of_head(),
            settings.seed,
            settings.batch_size,
            settings.accelerator,
        )

    def new_head(self) -> Head:
        """Return an unfitted head with the options of this detector."""
        return self.head_type(**self.options, seed=self.seed)

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Encode each training image once and learn; ``validation`` has no part in it. See ``base.Detector.fit``.

        Raises:
            InputError: no training image can be read, or too few.
        """
        with seeded(self.seed):
            self.head_, self.report = self._learn(images, progress)
        return self

    def _learn(self, images: ImageDataset, progress: Progress) -> tuple[Head, FitReport]:
        head = self.new_head()
        rows = self._rows(images, head, progress)
        head.fit(rows)
        held_out = torch.empty(0) if self.patch_level else self._held_out(head, rows)
        return head, report_of(head, len(rows), held_out)

    @staticmethod
    def _held_out(head: Head, rows: torch.Tensor) -> torch.Tensor:
        """Return scores of the training images by heads that have not seen them; none where they are too few."""
        return head.held_out(rows) if len(rows) >= 2 * head.least_rows else torch.empty(0)

    def _rows(self, images: ImageDataset, head: Head, progress: Progress) -> torch.Tensor:
        """Return what the head learns from, float32 (n, D) on the CPU: a row of each image, or a choice of patches."""
        meter = ProgressMeter(progress, "Extracting features", len(images))
        if not self.patch_level:
            found = {index: vectors[0] for index, vectors in self._each(images, meter)}
            return torch.stack([found[index] for index in sorted(found)])
        wanted = head.most_rows * (CANDIDATES if head.spread else 1)
        share = math.ceil(wanted / len(images))
        parts = {index: draw_rows(patches, share, [self.seed, index]) for index, patches in self._each(images, meter)}
        rows = torch.cat([parts[index] for index in sorted(parts)])
        if len(rows) > head.most_rows and head.spread:
            return rows[coreset_indices(rows, 1.0, progress, most=head.most_rows)]
        return draw_rows(rows, head.most_rows, [self.seed])

    def _each(self, images: ImageDataset, meter: ProgressMeter) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the index and the vectors (n, D) of each readable image, on the CPU.

        Raises:
            InputError: there is none.
        """
        any_read = False
        for batch in images.batches(self.batch_size):
            for index, image in zip(batch.indices, batch.images, strict=True):
                any_read = True
                yield index, self._encode(image[None]).flatten(0, -2)
            meter.advance(len(batch.indices))
        if not any_read:
            raise InputError(f"None of the {len(images)} training images can be read; there is nothing to learn from.")

    @torch.inference_mode()
    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        """Return the vectors of one image (1, 3, H, W), on the CPU: (1, D), or (1, rows, columns, D)."""
        if self.runner is not None:
            return self.runner(image)[0]
        found: torch.Tensor = self.features(image.to(self.device))
        return found.cpu()

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1; see ``base.Detector.score``.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        head = self._head()
        return join_scores([self._score(head, image[None], with_maps) for image in batch])

    def _score(self, head: Head, image: torch.Tensor, with_maps: bool) -> Scores:
        vectors = self._encode(image)
        scores = head.score(vectors.flatten(0, -2))
        if not self.patch_level:
            return Scores(scores.numpy(), None)
        top = scores.topk(max(1, round(TOP_SHARE * len(scores)))).values.mean()
        maps = None
        if with_maps:
            size = (image.shape[2], image.shape[3])
            maps = self.map_maker(scores.view(vectors.shape[:3]), size).numpy()
        return Scores(top[None].numpy(), maps)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the encoders and of the head."""
        return {
            **{f"features.{name}": tensor for name, tensor in self.features.state_dict().items()},
            **{f"head.{name}": tensor for name, tensor in self._head().tensors().items()},
        }

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of such a detector.
        """
        try:
            self.features.load_state_dict(part_of(tensors, "features."))
            self.head_ = self.new_head().load(part_of(tensors, "head."))
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this {self.name}: {error}") from error
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded detector is made with."""
        return {
            "layers": list(self.layers),
            "patch_level": self.patch_level,
            "options": self.options,
            "seed": self.seed,
        }

    def describe(self) -> dict[str, Any]:
        """Return what ``from_description`` needs, and the version of scikit-learn that a head learnt with."""
        return {**super().describe(), "scikit-learn": sklearn.__version__}

    def compiled_part(self) -> nn.Module:
        """Return the encoders: the head stays ours."""
        return _OneOutput(self.features)

    def _head(self) -> Head:
        if self.head_ is None:
            raise ModelFormatError(f"This {self.name} has not been fitted: fit or load it first.")
        return self.head_


class _OneOutput(nn.Module):
    """The features as a network with a tuple of outputs, as compiled parts are."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.features(images),)


def draw_rows(rows: torch.Tensor, most: int, seed: Sequence[int]) -> torch.Tensor:
    """Return at most ``most`` of rows (n, D), drawn by a generator of its own."""
    if len(rows) <= most:
        return rows
    number = sum(part * 1_000_003**place for place, part in enumerate(seed)) % 2**63
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(number))[:most]]


def report_of(head: Head, rows: int, held_out: torch.Tensor, **numbers: float) -> FitReport:
    """Return the report of a fit, with what the rules that were set by hand say of normal images.

    Args:
        head: fitted.
        rows: that it learnt from.
        held_out: scores (n,) of normal images by heads that have not seen them.
        numbers: further ones.
    """
    found: dict[str, float] = {"rows_learnt": float(rows), **numbers}
    if not len(held_out):
        return FitReport(numbers=found)
    found["held_out_normals"] = float(len(held_out))
    found |= {f"held_out_score_{name}": float(held_out.quantile(q)) for name, q in (("median", 0.5), ("p95", 0.95))}
    flagged = {rule: int((held_out.double() > limit).sum()) for rule, limit in head.rules().items()}
    found |= {f"held_out_ng_share_{rule}": count / len(held_out) for rule, count in flagged.items()}
    notices: tuple[str, ...] = ()
    if flagged:
        said = ", ".join(f"{rule.replace('_', ' ')}: {count}" for rule, count in flagged.items())
        notices = (
            f"Rules that were set by hand elsewhere would call some of {len(held_out)} normal training images NG, each "
            f"judged by a model that had not seen it ({said}). They are not used: the threshold is learnt.",
        )
    return FitReport(notices=notices, numbers=found)


class ClipKnn(EmbeddingDetector):
    """Mean cosine distance to the nearest normal vectors."""

    name = "clip_knn"
    head_type = NearestHead


class ClipMahalanobis(EmbeddingDetector):
    """Distance to the normal mean in the metric of the shrunk covariance."""

    name = "clip_mahalanobis"
    head_type = MahalanobisHead


class ClipIsolationForest(EmbeddingDetector):
    """How easily random cuts isolate a vector."""

    name = "clip_isolation_forest"
    head_type = ForestHead


class ClipLof(EmbeddingDetector):
    """How much less dense it is around a vector than around its normal neighbours."""

    name = "clip_lof"
    head_type = LofHead
