"""What is learnt from the vectors of normal images or patches, and how strange a new vector is.

A head takes rows, float32 (n, D), and gives scores, float32 (n,), larger for what is stranger. It is stored as numbers:
what scikit-learn has learnt is learnt again from the stored rows with the same seed, and compared with scores that were
stored beside them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import sklearn
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from torch.nn import functional

from vad_lib.errors import InputError, ModelFormatError
from vad_lib.randomness import SEED_LIMIT

TREES = 300
MOST_SAMPLES = 256
"""Rows that a tree of the forest is grown from, as in the paper."""
FOLDS = 5
CHUNK = 1024
"""Rows that are compared with all remembered ones at once."""
PROBES = 16
"""Remembered rows whose scores are stored, to see after loading whether the same was learnt again."""
SAME = 1e-6
"""Largest difference of a similarity from 1 that is rounding."""


class Head(ABC):
    """What is learnt from rows.

    Args:
        seed: of everything that is drawn.

    Attributes:
        least_rows: fewer cannot be learnt from.
        most_rows: patches that are learnt from, where there are more.
        spread: whether these are chosen to cover all patches, for heads that look at the nearest ones; else they are
            drawn, so that a density stays what it is.
    """

    least_rows: ClassVar[int] = 1
    most_rows: ClassVar[int] = 5_000
    spread: ClassVar[bool] = False

    def __init__(self, seed: int = 42) -> None:
        self.seed = seed

    def fit(self, rows: torch.Tensor) -> Self:
        """Learn from rows, float32 (n, D).

        Raises:
            InputError: fewer than ``least_rows``.
        """
        if len(rows) < self.least_rows:
            raise InputError(
                f"{len(rows)} normal images are too few for this detector: it needs {self.least_rows} at least."
            )
        self._fit(rows)
        return self

    @abstractmethod
    def _fit(self, rows: torch.Tensor) -> None: ...

    @abstractmethod
    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the scores (n,) of rows (n, D), larger for what is stranger."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the numbers that ``load`` needs."""

    @abstractmethod
    def load(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over what ``tensors`` returned.

        Raises:
            ModelFormatError: the same cannot be learnt again from it.
            KeyError: something is missing.
        """

    def held_out(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a score (n,) of each row by a head that has not seen it, in five folds."""
        folds = torch.from_numpy(np.random.default_rng(self.seed % SEED_LIMIT).permutation(len(rows)) % FOLDS)
        found = torch.zeros(len(rows))
        for fold in range(min(FOLDS, len(rows))):
            apart = folds == fold
            found[apart] = self.like_this().fit(rows[~apart]).score(rows[apart])
        return found

    def like_this(self) -> Self:
        """Return an unfitted head with the same arguments."""
        return type(self)(seed=self.seed)

    def rules(self) -> dict[str, float]:
        """Return the score above which an image is NG by each rule that the report set by hand; none by default."""
        return {}


class NearestHead(Head):
    """Mean cosine distance, 0..2, to the nearest of the remembered rows.

    Args:
        neighbours: nearest rows that count; all where there are fewer.
        seed: not used.
    """

    spread = True

    def __init__(self, neighbours: int = 1, seed: int = 42) -> None:
        super().__init__(seed)
        self.neighbours = neighbours
        self.rows = torch.empty((0, 0))

    def _fit(self, rows: torch.Tensor) -> None:
        self.rows = functional.normalize(rows, dim=1)

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``Head.score``."""
        return torch.cat([self._mean(part @ self.rows.T) for part in functional.normalize(rows, dim=1).split(CHUNK)])

    def held_out(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the score of each row by all the others."""
        if len(rows) < 2:
            return torch.zeros(0)
        unit = functional.normalize(rows, dim=1)
        return self._mean((unit @ unit.T).fill_diagonal_(-torch.inf), len(rows) - 1)

    def _mean(self, similarities: torch.Tensor, most: int | None = None) -> torch.Tensor:
        count = min(self.neighbours, most or similarities.shape[1])
        return (1.0 - similarities.topk(count, dim=1).values.mean(1)).clamp(min=0.0)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the remembered rows."""
        return {"rows": self.rows}

    def load(self, tensors: dict[str, torch.Tensor]) -> Self:
        """See ``Head.load``."""
        self.rows = tensors["rows"]
        return self


class SimilarityHead(NearestHead):
    """One minus the largest cosine similarity to the references; the report's rule asks for a similarity of 1."""

    def rules(self) -> dict[str, float]:
        """Return the rule that an image is OK from a similarity of 1 on."""
        return {"similarity_1": SAME}


class MahalanobisHead(Head):
    """Distance from the mean of the rows, in the metric of their covariance as Ledoit and Wolf shrink it.

    Paper: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    https://doi.org/10.1016/S0047-259X(03)00096-4
    """

    least_rows = 2
    most_rows = 20_000

    def __init__(self, seed: int = 42) -> None:
        super().__init__(seed)
        self.mean = self.whitening = torch.empty(0)

    def _fit(self, rows: torch.Tensor) -> None:
        found = LedoitWolf().fit(rows.double().numpy())
        self.mean = torch.from_numpy(found.location_).float()
        covariance = torch.from_numpy(found.covariance_)
        # Rows that are all alike have no covariance: any other one is then infinitely far, here very far.
        covariance += 1e-12 * torch.eye(len(covariance), dtype=covariance.dtype)
        factor = torch.linalg.cholesky(covariance)
        whitening = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=factor.dtype), upper=False)
        self.whitening = whitening.T.contiguous().float()

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """See ``Head.score``."""
        return torch.linalg.vector_norm((rows - self.mean) @ self.whitening, dim=1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the mean (D,) and a matrix (D, D): a row's distance is its length after both."""
        return {"mean": self.mean, "whitening": self.whitening}

    def load(self, tensors: dict[str, torch.Tensor]) -> Self:
        """See ``Head.load``."""
        self.mean, self.whitening = tensors["mean"], tensors["whitening"]
        return self


class RefittedHead(Head):
    """A head of scikit-learn: it is learnt again from the stored rows, which gives the same with the same seed."""

    least_rows = 3

    def __init__(self, seed: int = 42) -> None:
        super().__init__(seed)
        self.rows = torch.empty((0, 0))
        self.model: Any = None

    def _fit(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.model = self.estimator(len(rows)).fit(rows.numpy())

    @abstractmethod
    def estimator(self, count: int) -> Any:
        """Return the unfitted estimator of scikit-learn for this number of rows."""

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what scikit-learn calls ``score_samples``, with the other sign."""
        return torch.from_numpy(-self.model.score_samples(rows.numpy())).float()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the rows, and scores of some of them."""
        return {"rows": self.rows, "probes": self.score(self.rows[:PROBES])}

    def load(self, tensors: dict[str, torch.Tensor]) -> Self:
        """See ``Head.load``."""
        self._fit(tensors["rows"])
        if not torch.allclose(self.tensors()["probes"], tensors["probes"], rtol=1e-4, atol=1e-6):
            raise ModelFormatError(
                f"scikit-learn {sklearn.__version__} learns something else from the rows of this model than the "
                "version that it was trained with. Train again, or install that version, which detector.json names."
            )
        return self

    def seen(self) -> torch.Tensor:
        """Return the scores of the rows that were learnt from, as scikit-learn sets ``offset_`` by."""
        return self.score(self.rows)


class ForestHead(RefittedHead):
    """How few random cuts set a row apart from the others: 2 ** (-E(h) / c(n)), 0..1.

    Args:
        components: principal components that rows are reduced to and whitened before; 0 takes them as they are.
        seed: of the trees.

    Paper: Liu, Ting and Zhou, "Isolation Forest", https://doi.org/10.1109/ICDM.2008.17
    """

    most_rows = 10_000

    def __init__(self, components: int = 0, seed: int = 42) -> None:
        super().__init__(seed)
        self.components = components

    def like_this(self) -> Self:
        """See ``Head.like_this``."""
        return type(self)(self.components, self.seed)

    def estimator(self, count: int) -> Any:
        """See ``RefittedHead.estimator``."""
        samples = min(MOST_SAMPLES, count)
        forest = IsolationForest(n_estimators=TREES, max_samples=samples, random_state=self.seed % SEED_LIMIT)
        if not self.components:
            return forest
        return make_pipeline(PCA(min(self.components, count - 1), whiten=True, svd_solver="full"), forest)

    def rules(self) -> dict[str, float]:
        """Return the percentiles and contaminations that the report tried, as it counted them: on the rows learnt."""
        seen = self.seen().double()
        shares = {"percentile_10": 0.10, "percentile_60": 0.60, "contamination_20": 0.20, "contamination_40": 0.40}
        return {name: float(seen.quantile(1.0 - share)) for name, share in shares.items()}


class LofHead(RefittedHead):
    """How much less dense it is around a row than around its neighbours, by cosine distance; about 1 for normal ones.

    Args:
        neighbours: k; at most one less than there are rows.
        seed: not used.

    Paper: Breunig et al., "LOF: Identifying Density-Based Local Outliers", https://doi.org/10.1145/335191.335388
    """

    def __init__(self, neighbours: int = 20, seed: int = 42) -> None:
        super().__init__(seed)
        self.neighbours = neighbours

    def like_this(self) -> Self:
        """See ``Head.like_this``."""
        return type(self)(self.neighbours, self.seed)

    def estimator(self, count: int) -> Any:
        """See ``RefittedHead.estimator``."""
        return LocalOutlierFactor(n_neighbors=min(self.neighbours, count - 1), metric="cosine", novelty=True)

    def seen(self) -> torch.Tensor:
        """Return the factor of each row that was learnt from, itself not counted as its neighbour."""
        return torch.from_numpy(-self.model.negative_outlier_factor_).float()

    def rules(self) -> dict[str, float]:
        """Return the contamination that the report ended with."""
        return {"contamination_45": float(self.seen().double().quantile(1.0 - 0.45))}
