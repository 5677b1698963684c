"""What is said about one argument: its default, its limits, its meaning, and who may change it.

A field of an arguments model is declared once, with ``argument(…)``; the fault messages, ``vad plan explain``,
docs/plan.md and the written plans all read it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

Kind = Literal["required", "custom", "own"]
"""required: shown in the guide's shipped plan; custom: may be added; own: an argument that the guide does not have."""


def argument(
    default: Any,
    description: str,
    *,
    kind: Kind = "custom",
    operator_may_change: bool = False,
    user_setting: bool = False,
    computed: str = "",
    aliases: Sequence[str] = (),
    allowed: str = "",
    choices: Callable[[], tuple[str, ...]] | None = None,
    **limits: Any,
) -> Any:
    """Declare an argument of a step.

    Args:
        default: the guide's default, or a function that returns it.
        description: what it means, as one sentence for the user.
        operator_may_change: the guide lets a plan list it under ``ui_args``.
        user_setting: the guide asks every user to look at it.
        computed: what an empty default stands for, in words.
        aliases: other spellings that plans use.
        allowed: the allowed values in words, after "must be"; derived from the type and the limits where empty.
        choices: returns the allowed words, where they are not known before all packages are there.
        limits: ``ge``, ``gt``, ``le``, ``lt``, ``min_length`` as in pydantic's ``Field``.
    """
    extra: dict[str, Any] = {
        "kind": kind,
        "ui": operator_may_change,
        "user_setting": user_setting,
        "computed": computed,
        "aliases": list(aliases),
        "allowed": allowed,
        "choices": choices,
    }
    # a function makes the default where it is not known before all packages are there
    key = "default_factory" if callable(default) else "default"
    return Field(**{key: default}, description=description, json_schema_extra=extra, **limits)


class Arguments(BaseModel):
    """Base of the arguments of one step: frozen, no unknown names, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a bool where a number is wanted: pydantic would read ``batch_size: true`` as 1."""
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"must be {allowed_text(cls.model_fields[info.field_name])}")
        return value


def extra(field: FieldInfo, key: str) -> Any:
    """Return what ``argument`` noted under ``key``."""
    return field.json_schema_extra.get(key) if isinstance(field.json_schema_extra, dict) else None


def allowed_text(field: FieldInfo) -> str:
    """Say which values are allowed, as words that follow "must be".

    >>> from vad_lib.plan import TrainArguments
    >>> allowed_text(TrainArguments.model_fields["batch_size"])
    'a whole number, at least 1'
    """
    if said := extra(field, "allowed"):
        return str(said)
    if choices(field):
        *others, last = choices(field)
        return f"{', '.join(others)} or {last}" if others else last
    if field.annotation is bool:
        return "True or False"
    if field.annotation in (int, float):
        return ("a whole number" if field.annotation is int else "a number") + _limits_text(field)
    return "text"


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the allowed words of a field that has a fixed set of them, else nothing."""
    if given := extra(field, "choices"):
        return tuple(given())
    return tuple(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else ()


def default_of(field: FieldInfo) -> Any:
    """Return the default of an argument."""
    return field.get_default(call_default_factory=True)


def words_of(value: Any) -> Any:
    """Read ``a, b`` or ``[a, b]`` written as text as a list; other values stay as they are."""
    if isinstance(value, str):
        return tuple(word.strip(" \"'") for word in value.strip("[]() \\").split(",") if word.strip())
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(words_of)]
"""The type of an argument that is a list of words, which a plan may also write as one text with commas."""


def limits(field: FieldInfo) -> tuple[float | None, float | None]:
    """Return the lowest and highest allowed number, None where there is no limit (open limits count as closed)."""
    low = high = None
    for limit in field.metadata:
        if isinstance(limit, annotated_types.Ge | annotated_types.Gt):
            low = getattr(limit, "ge", getattr(limit, "gt", None))
        elif isinstance(limit, annotated_types.Le | annotated_types.Lt):
            high = getattr(limit, "le", getattr(limit, "lt", None))
    return low, high


def _limits_text(field: FieldInfo) -> str:
    low, high = limits(field)
    opens = any(isinstance(limit, annotated_types.Gt) for limit in field.metadata)
    ends = any(isinstance(limit, annotated_types.Lt) for limit in field.metadata)
    if low is not None and high is not None and not opens and not ends:
        return f" from {_number(low)} to {_number(high)}"
    parts = []
    if low is not None:
        parts.append(f"more than {_number(low)}" if opens else f"at least {_number(low)}")
    if high is not None:
        parts.append(f"less than {_number(high)}" if ends else f"at most {_number(high)}")
    return "".join(f", {part}" for part in parts[:1]) + "".join(f" and {part}" for part in parts[1:])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
