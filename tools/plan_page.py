"""Rewrite the generated part of docs/plan.md: the table of the plan's arguments (``python -m tools.plan_page``).

The table comes from the models that read a plan, the detectors' own among them.
"""

from __future__ import annotations

from pathlib import Path

from tools.generated_part import with_part
from vad_lib.plan import arguments_markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plan.md"


def with_arguments(text: str) -> str:
    """Return the page with the table between its two marks as the plan's models say it is."""
    return with_part(text, "plan arguments", "tools.plan_page", arguments_markdown().strip())


if __name__ == "__main__":
    PAGE.write_text(with_arguments(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
