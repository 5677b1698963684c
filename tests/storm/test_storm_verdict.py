"""What the verdict on a storm takes for one decision."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from inspection_plant import Plant

from benchmarks.storm.landing import content_of
from benchmarks.storm.plan import COPY, COPY_WITH_TIMES, GOOD, Drop
from benchmarks.storm.verdict import _line_troubles
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.landing import RunState
from vad_lib.lines import Home

SEED = 1


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    home = Home(tmp_path / "home")
    line = home.line("bottles")
    line.inbox.mkdir(parents=True)
    return Plant(InspectionDatabase(f"sqlite:///{tmp_path / 'inspection.db'}"), line)


@pytest.mark.parametrize(("way", "troubles"), [(COPY_WITH_TIMES, []), (COPY, ["has 2 decisions, not one"])])
def test_a_copy_whose_times_were_set_after_it_had_been_inspected_is_one_image(
    way: str, troubles: list[str], plant: Plant
) -> None:
    drop = Drop(number=0, line="bottles", path="a.jpg", kind=GOOD, way=way, content=0, pause=0.0)
    file = plant.inbox / drop.path
    file.write_bytes(content_of(SEED, drop))
    plant.inspect(plant.land_batch())
    os.utime(file, (1_000_000, 1_000_000))
    (request,) = plant.tick(RunState("succeeded")).requests
    plant.inspect(request.batch_id)
    (row,) = plant.db.predictions("bottles").itertuples()
    storm: Any = SimpleNamespace(
        plan=SimpleNamespace(seed=SEED),
        db=plant.db,
        extra=[],
        plant=SimpleNamespace(
            home=SimpleNamespace(line=lambda _: plant.line),
            thresholds=lambda: {row.model_version: row.threshold},
            champion=lambda _: row.model_version,
        ),
    )
    found = _line_troubles(storm, "bottles", [drop])
    assert bool(found) == bool(troubles)
    assert all(any(trouble in one for one in found) for trouble in troubles)
