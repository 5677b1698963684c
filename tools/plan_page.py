"""Rewrite the generated part of docs/plan.md: the table of the plan's arguments (``python -m tools.plan_page``).

The table comes from the models that read a plan, the detectors' own among them.
"""

from __future__ import annotations

from pathlib import Path

from vad_lib.plan import arguments_markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "plan.md"
BEGIN, END = "<!-- plan arguments: begin (python -m tools.plan_page) -->", "<!-- plan arguments: end -->"


def with_arguments(text: str) -> str:
    """Return the page with the table between its two marks as the plan's models say it is."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{arguments_markdown().strip()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_arguments(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
