"""Rewrite the generated part of README.md: the table of the plan's arguments."""

from __future__ import annotations

from pathlib import Path

from vad_lib.plan import arguments_markdown

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- plan arguments: begin (python -m tools.readme) -->", "<!-- plan arguments: end -->"


def with_arguments(text: str) -> str:
    """Return the README with the table between its two marks as the plan's models say it is."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{arguments_markdown().strip()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_arguments(README.read_text(encoding="utf-8")), encoding="utf-8")
