"""The database server crashes: what was said to be registered is not forgotten, as nobody would look at it again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.postgres_server import ABSENT, OwnServer, new_database, postgres_programs
from vad_lib.ingest import Arrival, FileSeen, FileVersion
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.queue import register


@pytest.mark.spec("Q1.13")
def test_what_was_registered_is_there_after_the_server_has_crashed(tmp_path: Path) -> None:
    programs = postgres_programs()
    if programs is None:
        pytest.skip(ABSENT)
    server = OwnServer(programs)
    try:
        server.start()
        with new_database(server.url) as url:
            db = InspectionDatabase(url)
            for number in range(3):
                arrival = Arrival(FileVersion(f"{number}.png", 1, 1, 1, 1), time.time())
                refused = FileSeen(FileVersion(f"{number}.gif", 1, 1, 1, 1), "not_an_image", "not an image format")
                register(db, "caps", tmp_path, [arrival], [refused])
                server.stop()
                server.start()
                assert len(db.incoming_files("caps")) == 2 * (number + 1)
    finally:
        server.remove()
