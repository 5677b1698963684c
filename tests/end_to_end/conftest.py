"""A home of its own for each end-to-end test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_processes import REPOSITORY, Place

from tests.browser import page

__all__ = ["page", "place"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty home with real backbone weights where there are some, else random ones."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("VAD_HOME", str(home))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    given = os.environ.get("VAD_WEIGHTS") or os.environ.get("VAD_TEST_DATA", str(REPOSITORY.parent / "shared" / "data"))
    folder = Path(given) if os.environ.get("VAD_WEIGHTS") else Path(given) / "weights"
    made = Place(home, folder if folder.is_dir() else None)
    yield made
    made.clean_up()
