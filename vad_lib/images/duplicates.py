"""Images that are there twice: byte for byte, or to the eye.

A perceptual hash finds candidates among many thousands of images. It is far too coarse to decide: the hashes of small
parts on an even ground are nearly all the same, with a scratch and without. So candidates are compared pixel by pixel,
at a size and with a measure that tell a scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.errors import UnreadableImageError
from vad_lib.images.checking import grey_pixels
from vad_lib.images.decoding import decode_image

NEAR_DISTANCE = 2
"""Perceptual hashes of 64 bits that differ in at most so many bits make two images candidates. Strict on purpose: good
parts in front of one camera look alike, and measured on 209 photographs of good bottles a distance of 8 already joins
most of them (204)."""
MOST_COMPARED = 400
"""Candidates that are compared by their pixels; of more, the rest is not spoken of."""
MOST_REMEMBERED = 8
"""Pictures that are remembered while candidates are compared."""
SIDE = 384
"""Longer side in pixels at which two images are compared; that of the smaller one where it is smaller."""
MOST_DIFFERENCE = 0.08
"""Largest local difference of two pictures of the same, as a share of the image's contrast. Measured: recompressed,
brightened, noisy and smaller copies of 14 photographs differ by 0.01 to 0.07, a scratch of two pixels makes 0.15, and
any two of 80 photographs of bottles differ by 0.23 or more."""
ASPECT = 0.02  # sides of a smaller copy are whole pixels
LEAST_CONTRAST = 8.0  # grey levels: below it a picture is noise


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


def near_duplicates(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the readable rows that have a near duplicate with other bytes among them.

    Returns:
        Column near_to (index of the nearest other row), in the order of ``facts``. One row an image, however many look
        like it.
    """
    distinct = facts[facts["readable"]].drop_duplicates("sha256")
    return near_between(distinct, distinct)


def near_between(queries: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Return, for the rows of ``queries``, the nearest row of ``references`` with another index, as above.

    Both tables have the columns file and phash. At most ``MOST_COMPARED`` candidates are looked at.
    """
    empty = pd.DataFrame({"near_to": pd.Series(dtype="int64")})
    if queries.empty or references.empty:
        return empty
    nearest, distance = nearest_hashes(
        hash_bits(queries["phash"]),
        hash_bits(references["phash"]),
        queries.index.to_numpy(),
        references.index.to_numpy(),
    )
    found = np.flatnonzero(distance <= NEAR_DISTANCE)[:MOST_COMPARED]
    # On an even ground many candidates have one reference.
    looks = partial(look_alike, read=lru_cache(maxsize=MOST_REMEMBERED)(_grey))
    with ThreadPoolExecutor(4, thread_name_prefix="images") as pool:
        files = (queries["file"].iloc[found], references["file"].iloc[nearest[found]])
        found = found[np.fromiter(pool.map(looks, *files), dtype=bool, count=len(found))]
    if not len(found):
        return empty
    return pd.DataFrame({"near_to": references.index.to_numpy()[nearest[found]]}, index=queries.index[found])


def _grey(file: str | Path) -> npt.NDArray[np.uint8]:
    return grey_pixels(decode_image(file))


def look_alike(one: str | Path, other: str | Path, read: Callable[[str | Path], npt.NDArray[np.uint8]] = _grey) -> bool:
    """Return whether two files show the same to the eye: nowhere do they differ by more than `MOST_DIFFERENCE`.

    What was recompressed, resized or taken under a little more light still is the same; a part with a scratch is
    another one. An image that cannot be read is like no other. ``read`` gives the grey pixels of a file.
    """
    from scipy.ndimage import gaussian_filter

    try:
        pictures = [read(file) for file in (one, other)]
    except UnreadableImageError:
        return False
    (height, width), (other_height, other_width) = (picture.shape for picture in pictures)
    if abs(height * other_width - width * other_height) > ASPECT * height * other_width:
        return False
    factor = min(1.0, SIDE / max(height, width), max(other_height, other_width) / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    first, second = (gaussian_filter(_resized(picture, size), 1.5) for picture in pictures)
    difference = first - second
    contrast = max(float(np.subtract(*np.percentile(first, [99, 1]))), LEAST_CONTRAST)
    return float(np.abs(difference - np.median(difference)).max()) <= MOST_DIFFERENCE * contrast


def _resized(grey: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


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
