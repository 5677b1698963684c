"""Images that are there twice: byte for byte, or to the eye."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

NEAR_DISTANCE = 2
"""Perceptual hashes of 64 bits that differ in at most so many bits count as near duplicates. Strict on purpose: good
parts in front of one camera look alike, and measured on 209 photographs of good bottles a distance of 8 already joins
most of them (204)."""


def exact_duplicates(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the readable rows of a ``check_images`` table whose bytes occur more than once.

    Returns:
        The rows with all their columns and ``copy_of``: the index of the first row with the same bytes (its own for
        that row), sorted by it.
    """
    readable = facts[facts["readable"]]
    twice = readable[readable["sha256"].duplicated(keep=False)]
    first = pd.Series(twice.index, index=twice.index).groupby(twice["sha256"]).transform("first")
    return twice.assign(copy_of=first).sort_values("copy_of", kind="stable")


def near_duplicates(facts: pd.DataFrame, max_distance: int = NEAR_DISTANCE) -> pd.DataFrame:
    """Return the readable rows that have a near duplicate with other bytes among them.

    Returns:
        Columns near_to (index of the nearest other row) and distance (bits, 0 to ``max_distance``), in the order of
        ``facts``. One row an image, however many look like it.
    """
    distinct = facts[facts["readable"]].drop_duplicates("sha256")
    return near_between(distinct, distinct, max_distance)


def near_between(queries: pd.DataFrame, references: pd.DataFrame, max_distance: int = NEAR_DISTANCE) -> pd.DataFrame:
    """Return, for the rows of ``queries``, the nearest row of ``references`` with another index, as above."""
    empty = pd.DataFrame({"near_to": pd.Series(dtype="int64"), "distance": pd.Series(dtype="int64")})
    if queries.empty or references.empty:
        return empty
    nearest, distance = nearest_hashes(
        hash_bits(queries["phash"]),
        hash_bits(references["phash"]),
        queries.index.to_numpy(),
        references.index.to_numpy(),
    )
    found = distance <= max_distance
    if not found.any():
        return empty
    return pd.DataFrame(
        {"near_to": references.index.to_numpy()[nearest[found]], "distance": distance[found].astype(np.int64)},
        index=queries.index[found],
    )


def hash_bits(phash: pd.Series) -> npt.NDArray[np.uint64]:
    """Return hashes of 16 hexadecimal digits as uint64 (N,)."""
    return np.fromiter((int(text, 16) for text in phash), dtype=np.uint64, count=len(phash))


def nearest_hashes(
    queries: npt.NDArray[np.uint64],
    references: npt.NDArray[np.uint64],
    query_keys: npt.NDArray[np.int64],
    reference_keys: npt.NDArray[np.int64],
    block: int = 128,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the nearest reference of each query by the number of differing bits.

    Exact, in blocks of xor and bit counts: no index of the hashes helps where thousands of them are nearly equal, and
    50,000 against 50,000 take seconds.

    Args:
        queries: uint64 (N,).
        references: uint64 (M,), M > 0.
        query_keys: (N,); a reference with the query's own key is passed over.
        reference_keys: (M,), no key twice.
        block: Queries compared at a time; memory is about ``block`` x M x 9 bytes.

    Returns:
        Positions of the nearest references (N,), the first where several are equally near, and distances (N,) in
        bits; the distance is 65 where there is no other reference.
    """
    position_of_key = pd.Index(reference_keys)
    own = position_of_key.get_indexer(pd.Index(query_keys))
    nearest = np.zeros(len(queries), dtype=np.int64)
    distance = np.full(len(queries), 65, dtype=np.int64)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        bits = np.bitwise_count(queries[part, np.newaxis] ^ references[np.newaxis, :])
        rows = np.flatnonzero(own[part] >= 0)
        bits[rows, own[part][rows]] = 65
        nearest[part] = bits.argmin(axis=1)
        distance[part] = bits[np.arange(len(bits)), nearest[part]]
    return nearest, distance
