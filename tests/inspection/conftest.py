"""A plant for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspection_plant import Plant

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    home = Home(tmp_path / "home")
    line = home.line("bottles")
    line.inbox.mkdir(parents=True)
    return Plant(InspectionDatabase(f"sqlite:///{home.root}/inspection.db"), line)
