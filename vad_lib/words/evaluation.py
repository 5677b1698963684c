"""How good answers in words are: multiple-choice questions whose right answers are known.

Questions are made from a line's own table (is there an anomaly, of which kind, at which of nine places), after the
tasks of MMAD: Jiang et al., "MMAD: A Comprehensive Benchmark for Multimodal Large Language Models in Industrial Anomaly
Detection", ICLR 2025, https://arxiv.org/abs/2410.09453. A local copy of MMAD itself is read too.

Who is asked is a function, so that any endpoint and any local model is measured in the same way. A reply that names no
option is counted apart, and is not right.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vad_lib.errors import InputError, UnsafePathError, VadError
from vad_lib.heatmaps import data_url
from vad_lib.images.decoding import decode_image, rgb_picture
from vad_lib.images.paths import resolve_inside
from vad_lib.metrics import interval
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.words.answer import LONGEST_REPLY, plain_text, without_thoughts
from vad_lib.words.places import PLACES, place_of

Ask = Callable[[Sequence[Image.Image], str], str]
"""From pictures, normal ones first and the one that is asked about last, and a text to the reply."""

DETECTION, KIND, PLACE = "Anomaly Detection", "Defect Classification", "Defect Localization"
"""Tasks of a line, by the names that MMAD gives them."""
ASKED = {
    DETECTION: "Is there any anomaly in the part, such as a defect?",
    KIND: "There is a defect in the part. Of which kind is it?",
    PLACE: "There is a defect in the part. Where in the picture is it?",
}
KIND_OPTIONS = 4
LONGEST_SIDE = 1024
"""Pixels of the longer side of a picture that is asked about."""
MOST_FAILURES = 3
"""After so many questions in a row that nobody answered, no more are asked."""
MMAD_FILE = "mmad.json"
MMAD_NORMAL = "good"
"""The folder of normal images in each of MMAD's sets."""
_SAME_TASK = {"Object Structure": "Object Analysis", "Object Details": "Object Analysis"}


@dataclass(frozen=True)
class Question:
    """One multiple-choice question about an image.

    Attributes:
        image: that is asked about.
        task: what kind of question it is.
        text: the question itself.
        options: texts by letter.
        right: the letter of the right one.
        is_anomalous: whether the image is.
        references: normal images that are shown before it.
    """

    image: Path
    task: str
    text: str
    options: Mapping[str, str]
    right: str
    is_anomalous: bool
    references: tuple[Path, ...] = ()

    @property
    def prompt(self) -> str:
        """What is sent beside the pictures."""
        shown = ""
        if self.references:
            shown = "The last picture shows the part that is asked about. What comes before it is normal.\n"
        options = "\n".join(f"{letter}. {option}" for letter, option in self.options.items())
        return f"{shown}{self.text}\n{options}\nAnswer with the letter of one option, and nothing else."


@dataclass(frozen=True)
class Answered:
    """A question and what came back.

    Attributes:
        question: that was asked.
        reply: as it came; empty where nobody answered.
        chosen: the letter of the option that the reply names; None where it names none.
        failure: why nobody answered; empty where somebody did.
    """

    question: Question
    reply: str
    chosen: str | None
    failure: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the right option was chosen."""
        return self.chosen == self.question.right


@dataclass(frozen=True)
class Figure:
    """A share of ``n`` cases, and between which shares the true one lies (95 %); None where there is no case."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def share(cls, count: int, of: int) -> Figure:
        """Return ``count / of`` with its Clopper-Pearson interval."""
        return cls(count / of, of, *interval(count, of)) if of else cls(None, 0)

    @classmethod
    def mean(cls, parts: Sequence[Figure]) -> Figure:
        """Return the mean of shares of different cases; its interval is the mean of theirs, which is wide enough.

        None where one of them is.
        """
        numbers = [(one.value, one.low, one.high) for one in parts if one.value is not None]
        if not numbers or len(numbers) < len(parts):
            return cls(None, sum(one.n for one in parts))
        value, low, high = (float(np.mean(column)) for column in zip(*numbers, strict=True))
        return cls(value, sum(one.n for one in parts), low, high)

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}), n {self.n}"


def line_questions(dataset: ValidatedDataset, *, most_images: int = 0, shots: int = 1, seed: int = 0) -> list[Question]:
    """Make questions from the validation rows of a line's own table; the same seed makes the same ones.

    Each image is asked about for anomalies. An anomalous one is asked about for its kind, where the line has two kinds
    or more, and for its place, where it has a mask: the place is the one with most of the mask.

    Args:
        dataset: of the line, after readiness.
        most_images: to ask about, normal and anomalous ones alike as far as there are enough; all where it is 0.
        shots: normal training images that are shown before each.
        seed: of the choice of images and the order of options.

    Raises:
        InputError: there is no labelled validation image.
    """
    rows = dataset.valid_rows
    rows = rows[rows["is_anomalous"].notna()]
    if rows.empty:
        raise InputError("The line has no labelled validation image, so there is nothing to ask about.")
    draw = random.Random(seed)
    normal = sorted(dataset.train_rows["file"])
    references = tuple(Path(file) for file in draw.sample(normal, min(shots, len(normal))))
    masks = dataset.mask_of_files()
    kinds = sorted(set(rows.loc[rows["is_anomalous"].astype(bool), "label"].astype(str)))
    questions = []
    for row in _balanced(rows, most_images, draw).to_dict("records"):
        image, is_anomalous = Path(row["file"]), bool(row["is_anomalous"])
        asked: list[tuple[str, str, tuple[str, ...], str]] = [
            (DETECTION, ASKED[DETECTION], ("Yes", "No"), "Yes" if is_anomalous else "No")
        ]
        if is_anomalous and len(kinds) > 1:
            kind = str(row["label"])
            others = [one for one in kinds if one != kind]
            options = (kind, *draw.sample(others, min(KIND_OPTIONS - 1, len(others))))
            asked.append((KIND, ASKED[KIND], options, kind))
        mask = masks.get(str(image)) if is_anomalous else None
        if mask is not None and (marked := _read_mask(mask)).any():
            asked.append((PLACE, ASKED[PLACE], PLACES, place_of(marked)))
        for task, text, options, answer in asked:
            shuffled = draw.sample(options, len(options))
            lettered = dict(zip(ascii_uppercase, shuffled, strict=False))
            letter = ascii_uppercase[shuffled.index(answer)]
            questions.append(Question(image, task, text, lettered, letter, is_anomalous, references))
    return questions


def _balanced(rows: pd.DataFrame, most: int, draw: random.Random) -> pd.DataFrame:
    """Return at most so many rows, half of them anomalous as far as there are enough, in the order of the table."""
    if not most or len(rows) <= most:
        return rows
    anomalous = rows["is_anomalous"].astype(bool).tolist()
    places = [[place for place, bad in enumerate(anomalous) if bad is wanted] for wanted in (True, False)]
    few, many = sorted((draw.sample(group, len(group)) for group in places), key=len)
    taken = few[: most // 2]
    return rows.iloc[sorted(taken + many[: most - len(taken)])]


def _read_mask(file: Path) -> np.ndarray:
    pixels = decode_image(file).pixels
    return (pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 127


def mmad_questions(folder: Path, *, most_images: int = 0, shots: int = 1, seed: int = 0) -> list[Question]:
    """Read the questions of a local copy of MMAD: ``mmad.json``, and beside it the folders of images.

    Images that are not in the copy are passed over, so a copy of one of the sets is enough. Options stay in the order
    in which MMAD has them.

    Args:
        folder: of the copy.
        most_images: to ask about, drawn at random; all where it is 0.
        shots: normal images that are shown before each, those that MMAD calls similar templates.
        seed: of the drawing.

    Raises:
        InputError: there is no such file, it has another form, it names files outside the folder, or none of its images
            is there.
    """
    file = folder / MMAD_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} is no copy of MMAD: {MMAD_FILE} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{file} cannot be read as JSON ({error}). Copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} has another form than MMAD's: an object with a key for each image.")
    try:
        there = [name for name in sorted(content) if resolve_inside(folder, name).is_file()]
        if not there:
            raise InputError(f"None of the {len(content)} images that {file} names is in {folder}.")
        if most_images and len(there) > most_images:
            there = sorted(random.Random(seed).sample(there, most_images))
        return [question for name in there for question in _of_mmad(folder, name, content[name], shots)]
    except UnsafePathError as error:
        raise InputError(f"{file} names a file outside its folder: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{file} has another form than MMAD's ({error!r}).") from error


def _of_mmad(folder: Path, name: str, entry: Mapping[str, Any], shots: int) -> Iterable[Question]:
    templates = [resolve_inside(folder, template) for template in entry.get("similar_templates", ())]
    references = tuple(template for template in templates if template.is_file())[:shots]
    for asked in entry["conversation"]:
        options = {str(letter): str(option) for letter, option in asked["Options"].items()}
        if asked["Answer"] not in options or not set(options) <= set(ascii_uppercase):
            raise ValueError(f"{name}: the answer {asked['Answer']!r} is none of the options, or they have no letters")
        task = str(asked["type"])
        yield Question(
            resolve_inside(folder, name),
            _SAME_TASK.get(task, task),
            str(asked["Question"]),
            options,
            asked["Answer"],
            MMAD_NORMAL not in name.split("/"),
            references,
        )


def chosen_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that a reply names; None where it names none, or several.

    Looked for are, in this order: a reply that is a letter; the last letter behind the word 'answer'; one behind
    'option'; one that the reply begins with; one that is marked as a letter, such as '(B)'; the text of one option.
    What a model thought before it answered, between tags, does not count.

    >>> chosen_letter("The answer is **B**.", {"A": "Yes", "B": "No"})
    'B'
    >>> chosen_letter("A scratch is to be seen, so: yes", {"A": "No", "B": "Yes"})
    'B'
    """
    text = without_thoughts(reply)
    text = re.sub(r"\\boxed\{(\w)\}", r"answer: \1", text).replace("*", " ").strip()
    letters = "".join(options)
    either = f"[{letters}{letters.lower()}]"
    said = r"(?:\s+is)?[\s:(\"'`]*"
    if whole := re.fullmatch(rf"\W*({either})\W*", text):
        return whole[1].upper()
    if answers := re.findall(rf"\b[Aa](?:nswer|NSWER)\b{said}(?:([{letters}])\b|({either})[.)]?\s*$)", text):
        return "".join(answers[-1]).upper()
    for pattern in (
        rf"\b(?:[Oo]ption|[Cc]hoice)\b{said}([{letters}])\b",
        rf"^\W*([{letters}])[).:,](?!\s*(?:or|and)\b)",
        rf"\(([{letters}])\)|(?:^|\s)([{letters}])[).:](?:\s|$)",
    ):
        found = {letter for match in re.finditer(pattern, text) for letter in match.groups() if letter}
        if found:
            return found.pop() if len(found) == 1 else None
    return _option_named(text, options)


def _option_named(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the one option whose text occurs; longer texts first, as 'top left' is not 'top'."""
    left, named = _words(text), set()
    for letter, option in sorted(options.items(), key=lambda item: -len(item[1])):
        words = _words(option)
        if words.strip() and words in left:
            named.add(letter)
            left = left.replace(words, " | ")
    return named.pop() if len(named) == 1 else None


def _words(text: str) -> str:
    found = re.findall(r"[^\W_]+", text.lower())
    return f" {' '.join(found)} "


def ask_all(ask: Ask, questions: Sequence[Question], progress: Progress = silent) -> list[Answered]:
    """Ask all questions, one after the other.

    Args:
        ask: whom.
        questions: in this order.
        progress: told of each.

    Raises:
        VadError: an image cannot be read, or ``MOST_FAILURES`` questions in a row got no answer: the last reason.
    """
    meter = ProgressMeter(progress, "Asking", len(questions), "questions")
    answers: list[Answered] = []
    for question in questions:
        pictures = [picture_of(file) for file in (*question.references, question.image)]
        try:
            reply, failure = ask(pictures, question.prompt), ""
        except VadError as error:
            reply, failure = "", str(error)
            before = answers[len(answers) - MOST_FAILURES + 1 :]
            if len(before) == MOST_FAILURES - 1 and all(one.failure for one in before):
                raise
        answers.append(Answered(question, reply, chosen_letter(reply, question.options), failure))
        meter.advance()
    return answers


def picture_of(file: Path) -> Image.Image:
    """Return an image as people see it, in RGB, its longer side at most ``LONGEST_SIDE`` pixels.

    Raises:
        UnreadableImageError: it cannot be read.
    """
    picture = rgb_picture(decode_image(file).pixels)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture


def figures(answers: Sequence[Answered]) -> dict[str, Figure]:
    """Return the figures of one who was asked.

    Detection counts as anomalous what was called so: ``overkill`` is the share of normal images that were called
    anomalous, ``miss`` that of anomalous ones that were called normal. A reply that names no option is neither, and is
    not right. The mean over the tasks takes the balanced accuracy of detection, as MMAD does.
    """
    found: dict[str, Figure] = {}
    tasks = list(dict.fromkeys(one.question.task for one in answers))
    for task in tasks:
        of_task = [one for one in answers if one.question.task == task]
        found[f"{task}: accuracy"] = Figure.share(sum(one.is_right for one in of_task), len(of_task))
        if task == DETECTION:
            found |= {f"{task}: {name}": figure for name, figure in _detection(of_task).items()}
    if len(tasks) > 1:
        names = [f"{task}: {'balanced accuracy' if task == DETECTION else 'accuracy'}" for task in tasks]
        found["mean over the tasks"] = Figure.mean([found[name] for name in names])
    found["replies without an option"] = Figure.share(sum(one.chosen is None for one in answers), len(answers))
    found["questions without a reply"] = Figure.share(sum(bool(one.failure) for one in answers), len(answers))
    return found


def _detection(answers: Sequence[Answered]) -> dict[str, Figure]:
    def count(is_anomalous: bool, called: str) -> int:
        of_class = [one for one in answers if one.question.is_anomalous == is_anomalous and one.chosen is not None]
        return sum(one.is_right == (called == "rightly") for one in of_class)

    anomalous = sum(one.question.is_anomalous for one in answers)
    normal = len(answers) - anomalous
    hits, misses, alarms = count(True, "rightly"), count(True, "wrongly"), count(False, "wrongly")
    recall = Figure.share(hits, anomalous)
    together = Figure.share(hits, alarms + anomalous)  # F1 is 2 J / (1 + J) of this share J
    numbers = [None if one is None else 2 * one / (1 + one) for one in (together.value, together.low, together.high)]
    return {
        "balanced accuracy": Figure.mean([recall, Figure.share(count(False, "rightly"), normal)]),
        "overkill": Figure.share(alarms, normal),
        "miss": Figure.share(misses, anomalous),
        "recall": recall,
        "precision": Figure.share(hits, hits + alarms),
        "F1": Figure(numbers[0], together.n, *numbers[1:]) if anomalous else Figure(None, 0),
    }


def chance(questions: Sequence[Question]) -> dict[str, str]:
    """Return, by the names of ``figures``, how many answers of each task would be right by choosing at random."""
    tasks = dict.fromkeys(one.task for one in questions)
    return {
        f"{task}: accuracy": f"{np.mean([1 / len(one.options) for one in questions if one.task == task]):.3f}"
        for task in tasks
    }


def side_by_side(answers: Mapping[str, Sequence[Answered]]) -> pd.DataFrame:
    """Return a row for each figure: its name, what chance gives, and a column for each who was asked."""
    each = {name: figures(own) for name, own in answers.items()}
    by_chance = chance([one.question for own in answers.values() for one in own])
    names = dict.fromkeys(name for own in each.values() for name in own)
    rows = [
        {
            "figure": name,
            "by chance": by_chance.get(name, ""),
            **{who: str(own[name]) if name in own else "" for who, own in each.items()},
        }
        for name in names
    ]
    return pd.DataFrame(rows)


def answer_table(answers: Mapping[str, Sequence[Answered]]) -> pd.DataFrame:
    """Return a row for each question and each who was asked: what was asked, what was right and what came back."""
    return pd.DataFrame(
        [
            {
                "asked": who,
                "image": str(one.question.image),
                "task": one.question.task,
                "question": one.question.text,
                "options": "; ".join(f"{letter}. {text}" for letter, text in one.question.options.items()),
                "right": one.question.right,
                "chosen": one.chosen or "",
                "reply": plain_text(one.reply, LONGEST_REPLY),
                "failure": one.failure,
            }
            for who, own in answers.items()
            for one in own
        ]
    )


def messages_of(pictures: Sequence[Image.Image], text: str) -> list[dict[str, Any]]:
    """Return pictures and a text as the one message of OpenAI's protocol; pictures travel in their addresses."""
    shown = [{"type": "image_url", "image_url": {"url": data_url(picture, LONGEST_SIDE, 90)}} for picture in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
