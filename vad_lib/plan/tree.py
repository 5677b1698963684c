"""YAML text to a small tree whose every node knows its line; nothing is constructed from tags.

Scalars stay the text that the user wrote: the label ``No`` is not a bool, the label ``007`` not the number 7. What is
meant as a number is read by the model that wants one.

Hand-written files get help: a byte-order mark, tabs, and typographic quotes around words are understood. Files made to
do harm are refused: size, number of values (after aliases are followed) and depth have limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from vad_lib.errors import PlanError
from vad_lib.plan.faults import PlanProblems, shown

LARGEST_FILE = 64 * 1024
MOST_VALUES = 10_000
DEEPEST = 32
TAB_WIDTH = 4
LONGEST_EXCERPT = 110

BACKSLASHES = (
    "In double quotes YAML takes a backslash and the letter behind it for one sign, such as a tab. Write a path with "
    "backslashes in single quotes, or with / in their place."
)
"""Advice for paths of Windows in double quotes."""

_TYPOGRAPHIC = "“”„‟«»″‘’‚‛′"
_QUOTED = re.compile(rf"\s*[{_TYPOGRAPHIC}'\"](.*)[{_TYPOGRAPHIC}'\"]\s*", re.DOTALL)
_QUOTED_PAIR = re.compile(rf"[{_TYPOGRAPHIC}](.+?)[{_TYPOGRAPHIC}]:(\S.*)", re.DOTALL)
_STANDARD = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_STANDARD + name for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value")}


@dataclass(frozen=True)
class Scalar:
    """A word or number as written; ``text`` is None for null and for nothing."""

    text: str | None
    line: int


@dataclass(frozen=True)
class Sequence:
    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True)
class Entry:
    key: str
    line: int
    value: Node


@dataclass(frozen=True)
class Mapping:
    entries: tuple[Entry, ...]
    line: int


Node = Scalar | Sequence | Mapping


def decode(data: bytes, source: str) -> str:
    """Return the text of a plan file: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises:
        PlanError: too large, or not text in these encodings.
    """
    if len(data) > LARGEST_FILE:
        raise PlanError(
            f"{source} is too long for a plan, which has a few thousand bytes; at most {LARGEST_FILE:,} are read. "
            "Is it the right file?"
        )
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PlanError(
            f"{source}, line {line}: it is not UTF-8 text. Save the file with the encoding UTF-8."
        ) from None


def read_tree(text: str, source: str, problems: PlanProblems) -> Node:
    """Parse YAML. Duplicate keys and refused tags become faults; text that is not YAML raises.

    Raises:
        PlanError: not YAML, or beyond the limits.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > LARGEST_FILE:
        raise PlanError(f"{source} has {len(text):,} characters; at most {LARGEST_FILE:,} are read.")
    try:
        node = _compose_tolerantly(text, source, problems)
    except RecursionError:
        raise PlanError(f"{source} is nested too deeply to be a plan.") from None
    if node is None:
        raise PlanError(f"{source} is empty: there is no plan in it.")
    return _Converter(source, problems).convert(node, 0)


def _compose_tolerantly(text: str, source: str, problems: PlanProblems) -> yaml.Node | None:
    """Compose YAML; where that fails and there are tabs, with spaces in their place."""
    try:
        return _compose(text)
    except yaml.YAMLError as error:
        if "\t" not in text:
            raise PlanError(_not_yaml(error, text, source)) from None
    tabbed = text.count("\n", 0, text.index("\t")) + 1
    text = text.expandtabs(TAB_WIDTH)
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        raise PlanError(_not_yaml(error, text, source, tabbed)) from None
    problems.notice(f"line {tabbed}: tabs were read as indentation to the next multiple of {TAB_WIDTH} columns.")
    return node


def _compose(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)


class _Converter:
    def __init__(self, source: str, problems: PlanProblems) -> None:
        self._source = source
        self._problems = problems
        self._values = 0

    def convert(self, node: yaml.Node, depth: int) -> Node:
        self._values += 1
        if self._values > MOST_VALUES or depth > DEEPEST:
            raise PlanError(
                f"{self._source}, line {_line(node)}: the file unfolds to more than {MOST_VALUES:,} values, or is "
                f"nested deeper than {DEEPEST} levels: that is no plan."
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        kind = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != _STANDARD + kind:
            self._refuse_tag(node)
            return Scalar(None, _line(node))
        if isinstance(node, yaml.SequenceNode):
            return Sequence(tuple(self.convert(item, depth + 1) for item in node.value), _line(node))
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, depth)

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        if node.tag not in _SCALAR_TAGS:
            self._refuse_tag(node)
            return Scalar(None, _line(node))
        if node.tag == _STANDARD + "null" and node.style is None:
            return Scalar(None, _line(node))
        return Scalar(self._unquoted(node), _line(node))

    def _mapping(self, node: yaml.MappingNode, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        merged: list[Entry] = []
        for key_node, value_node in node.value:
            line = _line(key_node)
            if key_node.tag == _STANDARD + "merge":
                merged += self._merged(self.convert(value_node, depth + 1))
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.fault(line, "key", "A key must be one word, not a list or a map.")
                continue
            key, value = self._scalar(key_node).text or "", self.convert(value_node, depth + 1)
            if pair := _QUOTED_PAIR.fullmatch(key_node.value):  # {“a”:‘b’}: YAML sees one word where no space follows
                key, value = pair.group(1), Scalar(_without_quotes(pair.group(2)), line)
            if key in entries:
                self._problems.fault(
                    line, key, f"It is written twice in one map, first in line {entries[key].line}: keep one."
                )
                continue
            entries[key] = Entry(key, line, value)
        for entry in merged:
            entries.setdefault(entry.key, entry)
        return Mapping(tuple(entries.values()), _line(node))

    def _merged(self, value: Node) -> list[Entry]:
        if isinstance(value, Mapping):
            return list(value.entries)
        if isinstance(value, Sequence):
            return [entry for item in value.items if isinstance(item, Mapping) for entry in item.entries]
        return []

    def _unquoted(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if node.style is not None or not any(quote in text for quote in _TYPOGRAPHIC):
            return text
        plain = _without_quotes(text)
        if plain != text or _QUOTED_PAIR.fullmatch(text):
            self._problems.notice_of(
                _line(node), shown(plain), "typographic quotes were read as plain ones (as in {})."
            )
        return plain

    def _refuse_tag(self, node: yaml.Node) -> None:
        tag = node.tag.replace(_STANDARD, "!!")
        self._problems.fault(_line(node), tag, "A plan has no tags: write the plain value.")


def _without_quotes(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return (
        quoted.group(1) if quoted and any(end in _TYPOGRAPHIC for end in (text.strip()[0], text.strip()[-1])) else text
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _not_yaml(error: Any, text: str, source: str, tabbed: int = 0) -> str:
    """Say where the text stops being YAML, with the line itself, and the usual causes."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{source}, line {line}: there is a character that cannot stand in YAML (code {error.character!r})."
    begun = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or begun
    lines = text.split("\n")
    if mark is None or mark.line >= len(lines):
        return f"{source} is not valid YAML: {error}"
    found = lines[mark.line]
    advice = "Check that neighbours are indented alike, that a space follows each ':' and '-', and that quotes close."
    if any(quote in found for quote in _TYPOGRAPHIC):
        advice = "Replace the typographic quotes in this line by plain ones, ' or \"."
    elif "escape" in (getattr(error, "problem", None) or ""):
        advice = BACKSLASHES
    elif tabbed:
        advice = f"Replace the tabs by spaces (the first is in line {tabbed})."
    number = str(mark.line + 1)
    excerpt = f"  {number} | {found[:LONGEST_EXCERPT]}"
    if mark.column < LONGEST_EXCERPT:
        excerpt += f"\n  {' ' * len(number)} | {' ' * mark.column}^"
    problem = getattr(error, "problem", None) or "it cannot be read"
    if begun and begun.line != mark.line and "<block end>" in problem:
        problem = f"this line does not line up with what begins in line {begun.line + 1}"
    elif begun and begun.line != mark.line:
        problem += f" ({error.context}, which begins in line {begun.line + 1})"
    return f"{source}, line {number}: the file is not valid YAML here: {problem}.\n{excerpt}\n{advice}"
