"""Faults of a plan are collected with their places, so that one message lists them all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from textwrap import fill

from vad_lib.errors import PlanError

LONGEST_SHOWN = 60
WIDTH = 120


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong: the line in the file (0 where there is none), the place in words, what is wrong."""

    line: int
    place: str
    text: str


@dataclass
class PlanProblems:
    """What a reading gathers: ``faults`` refuse the plan, ``notices`` are told to the user."""

    faults: list[Fault] = field(default_factory=list)
    _notices: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    @property
    def notices(self) -> list[str]:
        """One sentence for each kind, with the lines that it is about, in the order in which the kinds came up."""
        return [_notice_text(sentence, places) for sentence, places in self._notices.items()]

    def fault(self, line: int, place: str, text: str) -> None:
        self.faults.append(Fault(line, place, text))

    def notice(self, text: str) -> None:
        """Tell a sentence, once."""
        self._notices.setdefault(text, [])

    def notice_of(self, line: int, what: str, sentence: str) -> None:
        """Tell a sentence of one thing in a line; things of which the same is told become one notice.

        Args:
            line: in the file.
            what: stands for ``{}`` in the sentence.
            sentence: such as "{} has no meaning here."
        """
        places = self._notices.setdefault(sentence, [])
        if (line, what) not in places:
            places.append((line, what))

    def raise_faults(self, source: str) -> None:
        """Raise one PlanError with every fault in the order of the file, if there is any."""
        if self.faults:
            raise PlanError(faults_text(source, sorted(set(self.faults))))


def faults_text(source: str, faults: list[Fault]) -> str:
    """Write the message of a refused plan."""
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    width = max(len(_line_text(fault)) for fault in faults)
    parts = [f"{source} cannot be used, it has {count}:"]
    for fault in faults:
        indent = " " * (width + 6)
        text = fill(fault.text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
        parts.append(f"  {_line_text(fault):<{width}}  {fault.place}\n{text}")
    return "\n".join(parts)


def _notice_text(sentence: str, places: list[tuple[int, str]]) -> str:
    if not places:
        return sentence
    lines = list(dict.fromkeys(str(line) for line, _ in places))
    return f"line{'s' if len(lines) > 1 else ''} {', '.join(lines)}: " + sentence.replace(
        "{}", ", ".join(dict.fromkeys(what for _, what in places))
    )


def _line_text(fault: Fault) -> str:
    return f"line {fault.line}" if fault.line else ""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that ``word`` was probably meant to be, or None where none is near.

    Case, '-' and spaces do not count.

    >>> nearest("Batch-Size", ["batch_size", "max_epochs"])
    'batch_size'
    """
    plain = {_plain(name): name for name in names}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return " Did you mean X?", or nothing where no name is near."""
    name = nearest(word, names)
    return f" Did you mean {name}?" if name else ""


def shown(value: object) -> str:
    """Show a value as a person wrote it, shortened: numbers bare, text in quotes, lists in brackets."""
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(map(str, value)) + "]"
    elif isinstance(value, str) and not re.fullmatch(r"[-+]?[\d.]+%?", value):
        text = repr(value)
    else:
        text = str(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def _plain(word: str) -> str:
    return re.sub(r"[-\s]", "_", word.strip().casefold())
