"""What is asked and answered while prompts are learnt, and how an answer is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vad_lib.words.places import place_in, place_of

QUESTION = "Is there any anomaly in the image?"
NORMAL_ANSWER = "No. There is no anomaly in the image."


def answer_about(mask: npt.NDArray[np.bool_]) -> str:
    """Return what should be said about an image whose defect a mask (H, W) marks; nothing is marked on a normal one."""
    return f"Yes. There is an anomaly in the image, at the {place_of(mask)}." if mask.any() else NORMAL_ANSWER


@dataclass(frozen=True)
class Reading:
    """What an answer says: whether there is an anomaly, None where it does not say, and at which of the nine places."""

    anomaly: bool | None
    place: str | None


def read_answer(text: str) -> Reading:
    """Read an answer: the first yes or no in it, and the first place.

    >>> read_answer("Yes, at the bottom left.")
    Reading(anomaly=True, place='bottom left')
    """
    word = re.search(r"\b(yes|no)\b", text.lower())
    return Reading(None if word is None else word[1] == "yes", place_in(text))
