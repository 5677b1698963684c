"""A test rig for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspection_rig import Rig

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home


@pytest.fixture
def rig(inspection_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """On each kind of database; processes that a test starts find the same one."""
    monkeypatch.setenv("VAD_INSPECTION_DB", inspection_url)
    line = Home(tmp_path / "home").line("bottles")
    line.inbox.mkdir(parents=True)
    return Rig(InspectionDatabase(inspection_url), line)
