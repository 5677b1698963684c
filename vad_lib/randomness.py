"""Seeds in one place: everything that a fit draws is drawn inside ``seeded``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SEED_LIMIT = 2**32
"""numpy takes seeds below this; larger or negative ones are folded into the range."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch inside the block, and give their states back afterwards.

    A fit must not change what the rest of the process draws, and must not depend on what was drawn before. Images are
    read by threads, but nothing is drawn in them from these global states: augmentation draws from a generator of its
    own for each image and epoch (see ``vad_lib.augmentation``), so the number of readers changes nothing.

    On the CPU the same seed, data, thread count and library versions give the same bits. Where there is a GPU, torch is
    asked for deterministic kernels; where it has none, it warns and goes on. Without a GPU it is not asked: there the
    request changes no result, but some of its kernels are many times slower.
    """
    import torch

    folded = seed % SEED_LIMIT
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - scikit-learn's sampling below anomalib draws from it
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng():
        random.seed(folded)
        np.random.seed(folded)  # noqa: NPY002 - as above
        torch.manual_seed(folded)
        if torch.cuda.is_available():
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic, warn_only=was_warn_only)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 - as above
