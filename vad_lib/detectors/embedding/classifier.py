"""Two linear layers on the features, trained to tell normal images from images that were made anomalous.

What is anomalous is made from the training images: colours are changed and the image is blurred, as the report did, or
defects are drawn. A classifier knows what it was shown: the report of the fit says how well it tells one kind of drawn
defect that it was never shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from vad_lib.augmentation import Augmentation
from vad_lib.detectors.base import FitReport, FitSettings
from vad_lib.detectors.drawn_defects import seed_of, with_defect
from vad_lib.detectors.embedding.detector import EmbeddingDetector, draw_rows, report_of
from vad_lib.detectors.embedding.heads import FOLDS, Head
from vad_lib.detectors.embedding.plan_arguments import ClassifierArguments
from vad_lib.detectors.images import ImageDataset
from vad_lib.errors import InputError
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import SEED_LIMIT, seeded
from vad_lib.synthetic import DEFECT_KINDS, DefectKind

HIDDEN = 256
DROPOUT = 0.2
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
BATCH = 32
LEAST_BATCHES = 64
"""Rows are put into larger batches where there are so many that an epoch would have more steps."""
PATIENCE = 5
UNSEEN: DefectKind = "letters"
"""The kind of drawn defect that is never trained on."""
SEEN = tuple(kind for kind in DEFECT_KINDS if kind != UNSEEN)
COLOUR_AND_BLUR = ("brightness", "contrast", "saturation", "hue", "blur")
DEGREE, HUE, BLUR = 0.4, 0.2, 9
PATCHES = 64
"""Patches that are learnt from in each image, normal or made anomalous."""
COVERED = 0.5
"""Share of a patch that a drawn defect covers where the patch is taken for anomalous."""


@dataclass
class Examples:
    """What the classifier learns from.

    Attributes:
        rows: float32 (n, D).
        anomalous: bool (n,).
        image: int64 (n,), the position of the training image that a row comes from; it decides the fold.
    """

    rows: torch.Tensor
    anomalous: torch.Tensor
    image: torch.Tensor


class ClassifierHead(Head):
    """Five small networks on standardised rows; the score is the mean of their logit differences, anomalous - normal.

    Each network learns from four fifths of the images and stops by the rest, so that each image can be judged by one
    that has not learnt from it.

    Args:
        max_epochs: most passes over the rows.
        seed: of the first network; the others take the next ones.
    """

    def __init__(self, max_epochs: int = 15, seed: int = 42) -> None:
        super().__init__(seed)
        self.max_epochs = max_epochs
        self.mean = self.deviation = torch.empty(0)
        self.members: list[nn.Sequential] = []
        self.held_out_loss = self.epochs = 0.0

    def _fit(self, rows: torch.Tensor) -> None:
        raise TypeError("A classifier learns from examples of both classes: call fit_examples.")

    def fit_examples(self, examples: Examples, progress: Progress = silent) -> Self:
        """Train the networks.

        Args:
            examples: of both classes.
            progress: told of every network.
        """
        self.mean = examples.rows.mean(0)
        self.deviation = examples.rows.std(0, correction=0).clamp(min=1e-6)
        rows = (examples.rows - self.mean) / self.deviation
        labels = examples.anomalous.long()
        weight = len(labels) / (2.0 * torch.bincount(labels, minlength=2).clamp(min=1))
        meter = ProgressMeter(progress, "Training classifiers", FOLDS, "networks")
        found = []
        for fold in range(FOLDS):
            apart = self.apart(examples.image, fold)
            with seeded(self.seed + fold):
                found.append(self._train(rows, labels, apart if apart.any() and not apart.all() else None, weight))
            meter.advance()
        self.members = [network for network, _, _ in found]
        self.held_out_loss = float(np.mean([loss for _, loss, _ in found]))
        self.epochs = float(np.mean([epochs for _, _, epochs in found]))
        return self

    def apart(self, image: torch.Tensor, fold: int) -> torch.Tensor:
        """Return the rows that network number ``fold`` does not learn from, bool (n,), by their images (n,)."""
        return (image + self.seed % SEED_LIMIT) % FOLDS == fold

    def _train(
        self, rows: torch.Tensor, labels: torch.Tensor, apart: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[nn.Sequential, float, int]:
        """Return the network of the best epoch, its loss on the rows held apart, and the epochs that were run."""
        train = torch.arange(len(rows)) if apart is None else (~apart).nonzero()[:, 0]
        judge = train if apart is None else apart.nonzero()[:, 0]
        network = new_network(rows.shape[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        size = max(BATCH, len(train) // LEAST_BATCHES)
        best, best_epoch, epoch = float("inf"), 0, 0
        state = network.state_dict()
        for epoch in range(1, self.max_epochs + 1):
            network.train()
            for batch in train[torch.randperm(len(train))].split(size):
                loss = functional.cross_entropy(network(rows[batch]), labels[batch], weight)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            network.eval()
            with torch.no_grad():
                judged = float(functional.cross_entropy(network(rows[judge]), labels[judge], weight))
            if judged < best:
                best, best_epoch = judged, epoch
                state = {name: value.clone() for name, value in network.state_dict().items()}
            elif epoch - best_epoch >= PATIENCE:
                break
        network.load_state_dict(state)
        return network.eval(), best, epoch

    @torch.no_grad()
    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean logit difference (n,) of rows (n, D)."""
        return torch.stack([self._difference(member, rows) for member in self.members]).mean(0)

    @torch.no_grad()
    def score_held_out(self, rows: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return the logit difference of each row by the network that has not learnt from its image."""
        found = torch.zeros(len(rows))
        for fold, member in enumerate(self.members):
            apart = self.apart(image, fold)
            found[apart] = self._difference(member, rows[apart])
        return found

    def _difference(self, member: nn.Sequential, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = member((rows - self.mean) / self.deviation)
        return logits[:, 1] - logits[:, 0]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return mean, deviation, and the weights of each network."""
        members = nn.ModuleList(self.members).state_dict()
        return {"mean": self.mean, "deviation": self.deviation, **members}

    def load(self, tensors: dict[str, torch.Tensor]) -> Self:
        """See ``Head.load``."""
        weights = dict(tensors)
        self.mean, self.deviation = weights.pop("mean"), weights.pop("deviation")
        self.members = [new_network(len(self.mean)).eval() for _ in range(FOLDS)]
        nn.ModuleList(self.members).load_state_dict(weights)
        return self

    def rules(self) -> dict[str, float]:
        """Return the rule that the more probable class is taken."""
        return {"more_probable": 0.0}


def new_network(channels: int) -> nn.Sequential:
    """Return the two linear layers."""
    return nn.Sequential(nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 2))


class ClipClassifier(EmbeddingDetector):
    """Two linear layers on the features, trained on normal images and on what was made anomalous of them.

    Its ``options`` may hold 'anomalies', 'anomalies_per_image' and 'max_epochs'.
    """

    name = "clip_classifier"
    head_type = ClassifierHead

    @classmethod
    def create(cls, arguments: ClassifierArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        detector = super().create(arguments, settings)
        detector.options["max_epochs"] = settings.max_epochs
        return detector

    def new_head(self) -> ClassifierHead:
        """Return an unfitted head with the options of this detector."""
        return ClassifierHead(self.options.get("max_epochs", 15), self.seed)

    def _learn(self, images: ImageDataset, progress: Progress) -> tuple[Head, FitReport]:
        meter = ProgressMeter(progress, "Extracting features", len(images))
        parts: list[Examples] = []
        unseen: list[Examples] = []
        for batch in images.batches(self.batch_size):
            for index, image in zip(batch.indices, batch.images, strict=True):
                parts.append(self._example(image, None, index, anomalous=False))
                parts += [self._example(made, mask, index) for made, mask in self._anomalies(image, index)]
                if not self.patch_level:
                    unseen.append(self._example(*with_defect(image, UNSEEN, seed_of(self.seed, index, 1000)), index))
            meter.advance(len(batch.indices))
        if not parts:
            raise InputError(f"None of the {len(images)} training images can be read; there is nothing to learn from.")
        examples = _join(parts)
        head = self.new_head().fit_examples(examples, progress)
        numbers = {"held_out_loss": head.held_out_loss, "epochs_of_a_network": head.epochs}
        if len(unseen) < FOLDS:
            return head, report_of(head, len(examples.rows), torch.empty(0), **numbers)
        held_out = head.score_held_out(examples.rows, examples.image)
        normal, seen = held_out[~examples.anomalous], held_out[examples.anomalous]
        others = _join(unseen)
        numbers["held_out_auroc_seen_kinds"] = _auroc(normal, seen)
        numbers["held_out_auroc_unseen_kind"] = _auroc(normal, head.score_held_out(others.rows, others.image))
        return head, report_of(head, len(examples.rows), normal, **numbers)

    def _anomalies(self, image: torch.Tensor, index: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Yield images that were made anomalous, and the defect's mask (H, W); None where it is the whole image."""
        kinds = {"both": (False, True), "drawn": (True,), "colour_and_blur": (False,)}
        drawing = kinds[self.options.get("anomalies", "both")]
        change = Augmentation(COLOUR_AND_BLUR, len(COLOUR_AND_BLUR), 0.0, DEGREE, DEGREE, DEGREE, HUE, BLUR, self.seed)
        for number in range(self.options.get("anomalies_per_image", 4)):
            if drawing[number % len(drawing)]:
                seed = seed_of(self.seed, index, number)
                yield with_defect(image, SEEN[seed % len(SEEN)], seed)
            else:
                yield change.apply(image, index=index, epoch=number), None

    def _example(
        self, image: torch.Tensor, mask: torch.Tensor | None, index: int, *, anomalous: bool = True
    ) -> Examples:
        vectors = self._encode(image[None])
        rows = vectors.flatten(0, -2)
        if mask is not None and self.patch_level:
            covered = functional.interpolate(mask[None, None].float(), size=vectors.shape[1:3], mode="area").flatten()
            rows = rows[covered >= min(COVERED, float(covered.max()))]
        rows = draw_rows(rows, PATCHES, [self.seed, index])
        return Examples(rows, torch.full((len(rows),), anomalous), torch.full((len(rows),), index))


def _join(parts: list[Examples]) -> Examples:
    """Put examples together in the order of their images, whatever the order of reading was."""
    ordered = sorted(parts, key=lambda part: int(part.image[0]))
    return Examples(*(torch.cat([getattr(part, field.name) for part in ordered]) for field in fields(Examples)))


def _auroc(normal: torch.Tensor, anomalous: torch.Tensor) -> float:
    labels = [0] * len(normal) + [1] * len(anomalous)
    return float(roc_auc_score(labels, torch.cat([normal, anomalous]).numpy()))
