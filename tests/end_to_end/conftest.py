"""A home of its own for each end-to-end test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_processes import REPOSITORY, Place

if TYPE_CHECKING:
    from playwright.sync_api import Page


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


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless browser; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        yield page
        browser.close()
