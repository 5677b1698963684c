"""What a check found: one shape for readiness rules, image checks and asset checks alike."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["info", "warn", "error"]

MAX_EXAMPLES = 20
"""Examples that a finding carries at most."""


class Finding(BaseModel):
    """One thing that a rule noticed.

    A finding with severity ``error`` and ``blocking`` true stops the step. ``error`` without ``blocking`` is a broken
    requirement that is shown but does not stop the work.
    """

    model_config = ConfigDict(frozen=True)

    rule: str = Field(description="Stable name of the rule in snake_case, such as 'missing_values'.")
    severity: Severity = Field(
        description="info: nice to know; warn: results may suffer; error: a requirement is broken."
    )
    message: str = Field(description="What is wrong and where, in one or two sentences.")
    advice: str = Field(default="", description="What to do about it.")
    blocking: bool = Field(default=False, description="True where the work cannot go on.")
    count: int = Field(default=0, ge=0, description="How many rows, images or arguments are concerned.")
    examples: tuple[dict[str, Any], ...] = Field(
        default=(), description="Up to 20 concerned rows, JSON-ready, such as {'image_path': …, 'reason': …}."
    )


class ArgumentChange(BaseModel):
    """An argument that was changed automatically: old value, new value and the reason."""

    model_config = ConfigDict(frozen=True)

    argument: str
    old: Any
    new: Any
    reason: str
