"""How a process that stays opens the inspection database."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home


def test_a_process_that_stays_waits_until_the_database_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "inspection.db"
    monkeypatch.setenv("VAD_INSPECTION_DB", f"sqlite:///{file}")
    file.mkdir()  # as little to be opened as on a disk that is full
    home = Home(tmp_path)
    with pytest.raises(OperationalError):
        InspectionDatabase.when_it_opens(home, patience=0.1, pause=0.02)
    assert "cannot be opened, trying again" in caplog.text
    mended = threading.Timer(0.3, file.rmdir)
    mended.start()
    assert InspectionDatabase.when_it_opens(home, pause=0.05).count_predictions("bottles") == 0
    mended.join()
