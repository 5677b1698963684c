"""Lines with folders, a source that tests turn the knobs of, and a running scorer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "inspection"))

from brightness_model import BrightnessModel
from vad_lib.scorer import Channels, FastLane, LaneLimits, WatchedLine

from tests.postgres_server import new_inspection_url
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home


@dataclass
class PlantSource:
    """Lines and models as a test says."""

    home: Home
    lines: dict[str, WatchedLine] = field(default_factory=dict)
    make: Callable[[str, str], BrightnessModel] = lambda line, version: BrightnessModel()
    loaded: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, version: str = "1", **more: object) -> WatchedLine:
        line = self.home.line(name)
        line.inbox.mkdir(parents=True, exist_ok=True)
        self.lines = {**self.lines, name: WatchedLine(line, line.inbox, version, **more)}  # type: ignore[arg-type]
        return self.lines[name]

    def change(self, name: str, **values: object) -> None:
        self.lines = {**self.lines, name: replace(self.lines[name], **values)}  # type: ignore[arg-type]

    def watched(self) -> dict[str, WatchedLine]:
        return self.lines

    def load(self, line: str, model_version: str) -> BrightnessModel:
        self.loaded.append((line, model_version))
        return self.make(line, model_version)


@pytest.fixture
def source(tmp_path: Path) -> PlantSource:
    plant = PlantSource(Home(tmp_path / "home"))
    plant.add("bottles")
    return plant


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from new_inspection_url(request, tmp_path)


@pytest.fixture
def db(inspection_url: str, source: PlantSource, monkeypatch: pytest.MonkeyPatch) -> InspectionDatabase:
    """On each kind of database; processes that a test starts find the same one."""
    monkeypatch.setenv("VAD_INSPECTION_DB", inspection_url)
    return InspectionDatabase(inspection_url)


Starter = Callable[..., FastLane]


@pytest.fixture
def start(db: InspectionDatabase, source: PlantSource) -> Iterator[Starter]:
    lanes: list[FastLane] = []

    def begin(**limits: object) -> FastLane:
        lane = FastLane(db, source, LaneLimits(**{"follow_seconds": 0.1, **limits}))  # type: ignore[arg-type]
        lanes.append(lane)
        lane.start()
        until(lambda: not lane.not_ready())
        return lane

    yield begin
    for lane in lanes:
        lane.stop()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)


__all__ = ["Channels", "PlantSource", "Starter", "until"]
