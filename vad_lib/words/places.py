"""Nine places of a picture, by thirds, in words: what a mask, a map or a sentence says about where something is."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike

PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
"""Row by row, as they lie in the picture."""
_NAMED = re.compile(
    r"\b(?:(top|upper|bottom|lower)[\s-]+)?(left|right)\b|\b(top|upper|bottom|lower|cent(?:re|er)|middle)\b"
)
_SAME_WORD = {"upper": "top", "lower": "bottom", "center": "centre", "middle": "centre"}


def place_of(weights: ArrayLike) -> str:
    """Return the place with most of what is marked.

    Args:
        weights: (H, W), both at least 3; a mask, or a map whose values are not negative. Of places that are equal the
            first one is taken.

    >>> place_of([[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    'right'
    """
    marked = np.asarray(weights, np.float64)
    rows, columns = (np.array_split(np.arange(side), 3) for side in marked.shape)
    sums = [marked[np.ix_(row, column)].sum() for row in rows for column in columns]
    return PLACES[int(np.argmax(sums))]


def place_in(text: str) -> str | None:
    """Return the first of the nine places that a text names; None where it names none.

    >>> place_in("There is a scratch at the Upper-Left, near the centre.")
    'top left'
    """
    found = _NAMED.search(text.lower())
    if found is None:
        return None
    words = [_SAME_WORD.get(word, word) for word in found.groups() if word]
    return " ".join(words)
