"""The shapes that hand-written plans take, read as one: a map, a list of one-key maps, a list of one map, nothing."""

from __future__ import annotations

from typing import Any

from vad_lib.argument_fields import Arguments
from vad_lib.plan.faults import PlanProblems, shown
from vad_lib.plan.tree import Entry, Mapping, Node, Scalar, Sequence


def read_entries(value: Node | None, place: str, wanted: str, problems: PlanProblems) -> dict[str, Entry]:
    """Return the keys of a map, or of a list of maps taken together; nothing where there is nothing or ``none``.

    Args:
        place: words for where it is.
        wanted: what should stand there, for the message about anything else.
    """
    found: dict[str, Entry] = {}
    for item in value.items if isinstance(value, Sequence) else (value,):
        if isinstance(item, Mapping):
            for entry in item.entries:
                if entry.key in found:
                    text = f"It is given twice, first in line {found[entry.key].line}: keep one."
                    problems.fault(entry.line, f"{place} > {entry.key}", text)
                else:
                    found[entry.key] = entry
        elif isinstance(item, Sequence):
            problems.fault(item.line, place, f"A list stands where {wanted} are wanted.")
        elif isinstance(item, Scalar) and item.text and item.text.strip().casefold() != "none":
            hint = " Put a space after the colon." if ":" in item.text and ": " not in item.text else ""
            problems.fault(item.line, place, f"{shown(item.text)} stands where {wanted} are wanted.{hint}")
    return found


def raw(value: Node) -> Any:
    """Return text, a list of texts, or a dict of these."""
    if isinstance(value, Scalar):
        return value.text
    if isinstance(value, Sequence):
        return [raw(item) for item in value.items if not (isinstance(item, Scalar) and item.text is None)]
    return {entry.key: raw(entry.value) for entry in value.entries}


def word(entry: Entry | None) -> str:
    """Return the text of an entry without outer spaces; nothing where it is absent, null, or no text."""
    return entry.value.text.strip() if entry and isinstance(entry.value, Scalar) and entry.value.text else ""


def words(entry: Entry | None) -> tuple[str, ...]:
    """Return the texts of an entry that is a list or one text."""
    if entry is None or is_empty(entry.value):
        return ()
    items = entry.value.items if isinstance(entry.value, Sequence) else (entry.value,)
    return tuple(item.text for item in items if isinstance(item, Scalar) and item.text is not None)


def is_empty(value: Node) -> bool:
    """Tell whether there is null, or text of nothing but spaces."""
    return isinstance(value, Scalar) and not (value.text or "").strip()


def means_default(value: Node, model: type[Arguments], name: str) -> bool:
    """Null means the default; so does empty text where no text is wanted."""
    if not isinstance(value, Scalar):
        return False
    return value.text is None or (not value.text.strip() and model.model_fields[name].annotation is not str)
