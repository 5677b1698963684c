"""Values of one step against its model: each refusal is said in words, with the value that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from vad_lib.argument_fields import Arguments, allowed_text, choices, limits
from vad_lib.plan.faults import PlanProblems, did_you_mean, shown
from vad_lib.plan.tree import Entry

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp949", "euc-kr", "cp1252", "latin-1", "shift_jis", "gb18030", "big5")


def check_arguments(
    model: type[Arguments],
    values: Mapping[str, Any],
    problems: PlanProblems,
    place: str,
    written: Mapping[str, Entry] | None = None,
) -> dict[str, Any]:
    """Validate ``values`` of ``model`` and return those that are right, typed; the others become faults.

    Args:
        values: argument -> text, list of texts, or typed value. Names must be fields of the model.
        place: words for where the arguments are, such as "train_pipeline > train".
        written: argument -> its entry in the file, which has the line and the spelling.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        try:
            checked[name] = getattr(model.model_validate({name: value}), name)
        except ValidationError as error:
            text = _refusal(model.model_fields[name], value, error)
            entry = (written or {}).get(name)
            problems.fault(entry.line if entry else 0, f"{place} > {entry.key if entry else name}", text)
    return checked


def display(values: Iterable[object]) -> str:
    """List values in words."""
    return ", ".join(map(str, values))


def _refusal(field: FieldInfo, value: Any, error: ValidationError) -> str:
    """Say why a value is refused. A validator's own words win over the general ones."""
    for fault in error.errors():
        if fault["type"] == "value_error":
            said = str(fault.get("ctx", {}).get("error", ""))
            return f"{shown(value)} {said}.{_hint(field, value)}"
    wrong = [fault["input"] for fault in error.errors() if len(fault["loc"]) > 1 and isinstance(fault["input"], str)]
    item_choices = _item_choices(field)
    if item_choices and wrong:
        return " ".join(
            f"{shown(item)} is none of {display(item_choices)}.{did_you_mean(item, item_choices)}" for item in wrong
        )
    return f"{shown(value)} is refused: it must be {allowed_text(field)}.{_hint(field, value)}"


def _item_choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a list may hold, where they are a fixed set."""
    items = get_args(field.annotation)
    return tuple(map(str, get_args(items[0]))) if items and get_origin(items[0]) is Literal else ()


def _hint(field: FieldInfo, value: Any) -> str:
    text = str(value).strip()
    if names := choices(field) or (("True", "False") if field.annotation is bool else ()):
        return did_you_mean(text, names)
    if field.description and field.description.startswith("Encoding"):
        return did_you_mean(text, ENCODINGS)
    low, high = limits(field)
    number = re.fullmatch(r"(\d{1,9}(?:[.,]\d{1,9})?)\s*(%?)", text)
    if field.annotation is not float or not number:
        return ""
    meant = float(number.group(1).replace(",", "."))
    if number.group(2) or (high is not None and high <= 1 < meant <= 100):
        meant /= 100
    if (low is not None and meant < low) or (high is not None and meant > high) or str(meant) == text:
        return ""
    return f" Did you mean {meant:g}?"
