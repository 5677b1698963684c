"""Rewrite the generated part of the README of anomalib's models: their tables (``python -m tools.anomalib_page``)."""

from __future__ import annotations

from pathlib import Path

from vad_lib.detectors import anomalib_models
from vad_lib.detectors.anomalib_models.table import models_markdown

PAGE = Path(anomalib_models.__file__).with_name("README.md")
BEGIN, END = "<!-- models: begin (python -m tools.anomalib_page) -->", "<!-- models: end -->"


def with_models(text: str) -> str:
    """Return the page with the tables between its two marks as ``table`` says they are."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{models_markdown()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_models(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
