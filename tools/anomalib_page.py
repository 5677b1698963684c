"""Rewrite the generated part of the README of anomalib's models: their tables (``python -m tools.anomalib_page``)."""

from __future__ import annotations

from pathlib import Path

from tools.generated_part import with_part
from vad_lib.detectors import anomalib_models
from vad_lib.detectors.anomalib_models.table import models_markdown

PAGE = Path(anomalib_models.__file__).with_name("README.md")


def with_models(text: str) -> str:
    """Return the page with the tables between its two marks as ``table`` says they are."""
    return with_part(text, "models", "tools.anomalib_page", models_markdown())


if __name__ == "__main__":
    PAGE.write_text(with_models(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
