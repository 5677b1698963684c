"""How long images waited, and what services scored, for those who were not there."""

from __future__ import annotations

import time

import pytest
from brightness_model import BrightnessModel, write_image
from inspection_rig import Rig
from serving_rig import RigSource

from vad_lib.ingest import Arrival, FileVersion
from vad_lib.inspection import Served
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.schema import ONLINE
from vad_lib.queue import new_worker, register
from vad_lib.queue.facts import announce_service
from vad_lib.queue.latency import latencies, scored_since

LINES = ["bottles", "caps"]


def _arrive(db: InspectionDatabase, source: RigSource, ages: list[float]) -> None:
    now = time.time()
    arrivals = [Arrival(FileVersion(f"{i}.png", 10, i, i, i), now - age) for i, age in enumerate(ages)]
    register(db, "bottles", source.lines["bottles"].folder, arrivals)


@pytest.mark.spec("S1.05")
def test_images_that_wait_count_as_late_once_their_age_is_above_the_objective(
    source: RigSource, db: InspectionDatabase
) -> None:
    announce_service(db, new_worker(), ["bottles"])
    _arrive(db, source, [0.5] * 18 + [60.0, 61.0])
    found = latencies(db, LINES)["bottles"]
    assert (found.images, found.waiting, found.is_met) == (20, 20, False)
    assert found.p95 is not None
    assert found.p95 >= 60
    assert found.oldest_waiting >= 61
    assert "waited for longer than the objective" in str(found)


def test_lines_that_no_service_works_on_have_no_latency_of_a_service(source: RigSource, db: InspectionDatabase) -> None:
    _arrive(db, source, [60.0])
    assert latencies(db, LINES) == {}


def test_nothing_is_said_about_no_images(db: InspectionDatabase) -> None:
    announce_service(db, new_worker(), ["bottles"])
    found = latencies(db, LINES)["bottles"]
    assert (found.is_met, found.p95, found.images) == (True, None, 0)
    assert "No inference service has decided an image" in str(found)
    assert scored_since(db, LINES, {}) == ([], {})


def test_each_online_prediction_is_counted_once_and_those_of_runs_are_passed_over(
    source: RigSource, db: InspectionDatabase
) -> None:
    rig = Rig(db, source.lines["bottles"].line)
    for i in range(6):
        write_image(rig.inbox / f"{i}.png", 50 + 20 * i, nonce=i)
    rig.register()
    rig.work(most=2, chunk=2)
    online = Worker(new_worker(), ONLINE)
    work_on(db, rig.line, Served(BrightnessModel(), "1"), online, 3)
    (first,), reached = scored_since(db, LINES, {})
    assert (first.line, first.model_version, first.images, first.ok + first.ng) == ("bottles", "1", 3, 3)
    work_on(db, rig.line, Served(BrightnessModel(), "2"), online, 3)
    (second,), reached = scored_since(db, LINES, reached)
    assert (second.model_version, second.images) == ("2", 1)
    assert scored_since(db, LINES, reached) == ([], reached)
