"""Which rows of a memory bank can be nearest, found in bfloat16 with a bound on its error; the rest is decided exactly.

Some processors multiply bfloat16 numbers several times as fast as float32 ones; others need much longer for them, so
which search is taken is measured. Half the squared
distance k of a query q and a row b, both with the bank's mean taken off, comes out of one product whose columns also
hold both half norms (each as a sum of three bfloat16 numbers): k = |q|^2/2 + |b|^2/2 - q.b. What it lies off by at most
is known: with q' and b' the rounded vectors,

    |q.b - q'.b'|  <=  |q - q'| |b|  +  |q'| |b - b'|

from norms that are computed, the rounding of a float32 sum of n terms (sqrt(n) units with a factor of 4 for safety:
Higham and Mary, https://doi.org/10.1137/18M1226312), and the rounding of the result to 8 bits. Whoever cannot be the
answer within these bounds is left out, and the others are computed in float32: the answer is that of the full search.

With ``terms`` 2 each vector is the sum of two bfloat16 parts, three products are taken, and the first two bounds fall
by a factor of some 250.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

ROUNDING = 2.0**-8
"""Relative rounding error of bfloat16."""
GROUP = 16
"""Rows whose smallest value is taken first; the smallest are then looked at row by row."""
PRODUCT_BYTES = 2**26
"""Of the matrix of products that is held at once."""
PROBES, PROBED_ROWS, PROBED_COLUMNS, ROUNDS = 256, 8192, 384, 5
"""Of the measurement, columns at most. Much smaller matrices are multiplied by other code, which tells nothing."""
HOPELESS = 0.4
"""Ratio at which the measurement ends, since it takes long where bfloat16 is slow."""
LEAST_GAIN = 1.2
"""Times faster that the products must be, since what they leave is searched as well."""
LEAST_ROWS = 1024
"""Below it the full search is as fast."""
_COLUMNS = 32
"""Columns are filled up to a multiple of it, as the matrix tiles like."""


class Bounds(NamedTuple):
    """Of half the squared distance to the nearest row; each (N,)."""

    low: torch.Tensor
    high: torch.Tensor


def is_worthwhile(rows: torch.Tensor) -> bool:
    """Tell whether screening is faster than the full search on this machine, for a bank (M, D); it is measured."""
    if rows.device.type != "cpu" or len(rows) < LEAST_ROWS:
        return False
    return _gain(min(rows.shape[1], PROBED_COLUMNS), torch.get_num_threads()) > LEAST_GAIN


@functools.cache
def _gain(columns: int, threads: int) -> float:
    """Return how many times faster the products of screening are here than those of the full search."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn((PROBED_ROWS, columns), generator=draw)
    queries = torch.randn((PROBES, columns), generator=draw)
    screen = Screen(rows, 1)

    def seconds(search: Callable[[], object]) -> float:
        start = time.perf_counter()
        search()
        return time.perf_counter() - start

    ratios: list[float] = []
    # side by side, so that other work on the machine slows both down alike
    while len(ratios) < ROUNDS and min(ratios, default=1.0) > HOPELESS:
        ratios.append(seconds(lambda: (queries @ rows.T).min(1)) / seconds(lambda: screen.bounds(queries)))
    return statistics.median(ratios)


class Screen:
    """A bank in bfloat16.

    Args:
        rows: float32 (M, D) on the CPU, M >= ``GROUP``.
        terms: bfloat16 numbers that a value is split into: 1 or 2.
    """

    def __init__(self, rows: torch.Tensor, terms: int) -> None:
        self.terms = terms
        self.mean = rows.mean(0)
        centred = rows - self.mean
        parts = _split(centred, terms)
        half = centred.square().sum(1).mul_(0.5)
        # of each row: b', or b', b' and b'' against q', q'' and q'
        blocks = [-part for part in ([parts[0]] if terms == 1 else [parts[0], parts[0], parts[1]])]
        self.matrix = _columns(blocks, half, first=True)
        self.longest = float(centred.norm(dim=1).max())
        self.lost = float((centred - sum(part.float() for part in parts)).norm(dim=1).max())
        self.small = float(parts[1].float().norm(dim=1).max()) if terms == 2 else 0.0
        self.largest_half = float(half.max())

    def chunk(self, queries: int) -> int:
        """Return how many queries are compared at once."""
        return max(1, min(queries, PRODUCT_BYTES // (2 * len(self.matrix))))

    def products(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return k in bfloat16 (M, N) for queries (N, D), and what it is off by at most before rounding, (N,)."""
        centred = queries - self.mean
        parts = _split(centred, self.terms)
        half = centred.square().sum(1).mul_(0.5)
        blocks = [parts[0]] if self.terms == 1 else [parts[0], parts[1], parts[0]]
        length = (2 * half).sqrt()
        lost = (centred - sum(part.float() for part in parts)).norm(dim=1)
        error = lost * self.longest + (length + lost) * self.lost
        if self.terms == 2:
            error += parts[1].float().norm(dim=1) * self.small
        total = half + self.largest_half + length * self.longest
        error += 4 * math.sqrt(self.matrix.shape[1]) * 2.0**-24 * total
        return self.matrix @ _columns(blocks, half, first=False).T, error

    def bounds(self, queries: torch.Tensor) -> Bounds:
        """Return bounds of half the squared distance to the nearest row for queries (N, D)."""
        low, high = [], []
        for part in queries.split(self.chunk(len(queries))):
            products, error = self.products(part)
            smallest, slack = _smallest(products)
            low.append((smallest - slack - error).clamp_(min=0.0))
            high.append(smallest + slack + error)
        return Bounds(torch.cat(low), torch.cat(high))

    def candidates(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (query, row) of all pairs that may be a query's nearest; each query occurs. For at most ``chunk``."""
        products, error = self.products(queries)
        smallest, slack = _smallest(products)
        # The nearest row's product is at most this much before it is rounded, and rounding keeps the order.
        limit = (smallest + slack + 2 * error).bfloat16().view(torch.int16)
        values = products.view(torch.int16)
        whole = len(values) // GROUP * GROUP
        groups = values[:whole].view(-1, GROUP, values.shape[1])
        group, query = (groups.amin(1) <= limit).nonzero(as_tuple=True)
        pair, within = (groups[group, :, query] <= limit[query][:, None]).nonzero(as_tuple=True)
        rest, rest_query = (values[whole:] <= limit).nonzero(as_tuple=True)
        return torch.cat([query[pair], rest_query]), torch.cat([group[pair] * GROUP + within, rest + whole])


def _split(values: torch.Tensor, terms: int) -> list[torch.Tensor]:
    """Return bfloat16 tensors whose sum is nearly ``values``."""
    parts = []
    for _ in range(terms):
        parts.append(values.bfloat16())
        values = values - parts[-1].float()
    return parts


def _columns(blocks: list[torch.Tensor], half: torch.Tensor, *, first: bool) -> torch.Tensor:
    """Put vectors, half norms and ones side by side, so that the product of two such rows adds both half norms."""
    norms = torch.stack(_split(half, 3), 1)
    ones = torch.ones_like(norms)
    width = sum(block.shape[1] for block in blocks) + 6
    filling = norms.new_zeros((len(half), -width % _COLUMNS))
    return torch.cat([*blocks, *((norms, ones) if first else (ones, norms)), filling], 1)


def _smallest(products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest value of each column as float32 (N,), and how far rounding may have moved it.

    bfloat16 numbers that are not negative are in the order of their bits, and integers are compared ten times as fast.
    A negative one can only be a rounded nothing: it counts as 0.
    """
    values = products.view(torch.int16)
    whole = len(values) // GROUP * GROUP
    smallest = values[:whole].view(-1, GROUP, values.shape[1]).amin(1).amin(0)
    if whole < len(values):
        smallest = torch.minimum(smallest, values[whole:].amin(0))
    found = smallest.view(torch.bfloat16).float().clamp_(min=0.0)
    return found, found * (ROUNDING * 1.01)
