"""A version that does not serve scores live images beside the one that does, and delays nobody."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from brightness_model import BrightnessModel, write_image
from inspection_rig import register_what_is_there
from serving_rig import RigSource, Starter, states, until
from sqlalchemy import select

from vad_lib.inspection import Served
from vad_lib.inspection.worker import Worker, work_on
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.schema import ONLINE, shadow_predictions
from vad_lib.inspection_db.version_comparison import compare_versions
from vad_lib.queue import new_worker
from vad_lib.serving import ShadowedBy
from vad_lib.serving import shadow as shadow_module
from vad_lib.serving.shadow import Shadow
from vad_lib.serving.warm_models import WarmModels
from vad_lib.thresholds import Calibration


def darker(line: str, version: str) -> BrightnessModel:
    """Version 2 calls images NG from 60 on, and version 1 from 100 on."""
    model = BrightnessModel()
    if version == "2":
        model.calibration = Calibration(threshold=60.0, scale=20.0)
    return model


def shadow_of(version: str = "2", share: float = 1.0, **more: object) -> ShadowedBy:
    return ShadowedBy(version, datetime(2026, 1, 1, tzinfo=UTC), share, **more)  # type: ignore[arg-type]


def scored(db: InspectionDatabase) -> list[tuple[str, str, str]]:
    """Return line, version and decision of each image that was scored beside the champion."""
    columns = shadow_predictions.c
    with db.reading() as connection:
        rows = connection.execute(select(columns.line, columns.model_version, columns.predicted))
        return [tuple(row) for row in rows]


@pytest.mark.spec("L4.01")
def test_live_images_get_what_the_challenger_says_beside_what_was_decided(
    source: RigSource, db: InspectionDatabase, start: Starter
) -> None:
    source.make = darker
    source.change("bottles", shadow=shadow_of())
    inbox = source.lines["bottles"].folder
    for brightness in (20, 80, 120):
        write_image(inbox / f"{brightness}.png", brightness)
    start(shadow_seconds=0.05)
    until(lambda: len(scored(db)) == 3, seen=lambda: scored(db))
    assert list(db.predictions("bottles").sort_values("path")["predicted"]) == ["NG", "OK", "OK"]
    live = compare_versions(db, "bottles", "1", "2").live
    assert (live.images, live.both_ok, live.both_ng, live.only_challenger_ng) == (3, 1, 1, 1)


@pytest.fixture
def rig(source: RigSource, db: InspectionDatabase) -> Rig:
    return Rig(source, db)


class Rig:
    """Lines whose images are decided, and a shadow that goes one step at a time."""

    def __init__(self, source: RigSource, db: InspectionDatabase) -> None:
        self.source, self.db = source, db
        self.idle = True
        source.make = darker
        self.models = WarmModels(source, 2)
        self.shadow = Shadow(db, self.models, source.watched, lambda: self.idle, look_seconds=0.0)

    def decide(self, count: int, line: str = "bottles") -> list[Path]:
        """Let version 1 decide so many images of a line."""
        files = [self.source.lines[line].folder / f"{number}.png" for number in range(count)]
        for number, file in enumerate(files):
            write_image(file, number + (1 if line == "bottles" else 101))
        register_what_is_there(self.db, self.source.lines[line].line)
        served = Served(BrightnessModel(), "1")
        work_on(self.db, self.source.lines[line].line, served, Worker(new_worker(), ONLINE), count)
        return files

    def steps(self, count: int = 8) -> list[float]:
        return [self.shadow.step() for _ in range(count)]


def test_nothing_is_scored_while_images_wait(rig: Rig) -> None:
    rig.decide(2)
    rig.source.change("bottles", shadow=shadow_of())
    rig.idle = False
    rig.steps()
    assert (scored(rig.db), rig.source.loaded) == ([], [])
    rig.idle = True
    rig.steps()
    assert len(scored(rig.db)) == 2


def test_it_pauses_so_long_that_its_share_of_the_time_is_kept(rig: Rig) -> None:
    rig.decide(6)
    rig.source.change("bottles", shadow=shadow_of(share=0.8))
    rig.source.make = lambda line, version: BrightnessModel(seconds=0.02)
    before = time.monotonic()
    pause = rig.shadow.step()
    worked = time.monotonic() - before
    assert scored(rig.db)
    assert 0.02 * 0.25 <= pause <= worked * 0.25


def test_an_image_that_is_gone_or_was_changed_is_passed_over(rig: Rig) -> None:
    first, second, _ = rig.decide(3)
    first.unlink()
    write_image(second, 77)
    rig.source.change("bottles", shadow=shadow_of())
    rig.steps()
    assert len(scored(rig.db)) == 1
    assert rig.shadow.status["bottles"] == "2 scores images beside 1: 0 wait."


def test_a_version_for_which_there_is_no_room_is_not_loaded_and_its_status_says_so(rig: Rig) -> None:
    rig.decide(1)
    rig.source.change("bottles", shadow=shadow_of(stored_bytes=2**60))
    rig.steps()
    assert (scored(rig.db), rig.source.loaded) == ([], [])
    assert "MiB of memory are free, and loading it beside the models that serve wants" in rig.shadow.status["bottles"]


def test_a_version_that_cannot_be_loaded_or_score_is_left_alone_for_a_while(rig: Rig) -> None:
    rig.decide(1)
    rig.source.change("bottles", shadow=shadow_of())
    rig.source.make = lambda line, version: BrightnessModel(broken=True)
    rig.steps()
    assert rig.shadow.status["bottles"] == "2 scores no images: it fails with no memory on the accelerator"
    assert rig.source.loaded == [("bottles", "2")]

    def damaged(line: str, version: str) -> BrightnessModel:
        raise OSError("its folder is gone")

    rig.source.make = damaged
    rig.source.change("bottles", shadow=shadow_of("3"))
    rig.steps()
    assert "3 scores no images: it cannot be loaded: its folder is gone" in rig.shadow.status["bottles"]
    assert scored(rig.db) == []


def test_one_model_is_in_memory_at_a_time_and_lines_take_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.source.add("caps")
    rig.decide(3)
    rig.decide(3, "caps")
    for line in ("bottles", "caps"):
        rig.source.change(line, shadow=shadow_of())
    rig.steps(2)
    assert rig.source.loaded == [("bottles", "2")]
    monkeypatch.setattr(shadow_module, "STINT_SECONDS", 0.0)
    rig.steps(2)
    assert rig.source.loaded == [("bottles", "2"), ("caps", "2"), ("bottles", "2")]
    rig.steps()
    assert sorted(line for line, *_ in scored(rig.db)) == ["bottles"] * 3 + ["caps"] * 3
    for line in ("bottles", "caps"):
        rig.source.change(line, shadow=None)
    rig.steps(1)
    assert rig.shadow.status == {}


def test_images_from_before_the_version_was_made_do_not_count(rig: Rig) -> None:
    rig.decide(2)
    rig.source.change("bottles", shadow=ShadowedBy("2", utc_now() + timedelta(hours=1), 1.0))
    rig.steps()
    assert (scored(rig.db), rig.source.loaded) == ([], [])


@pytest.mark.spec("L4.01")
def test_a_result_waits_for_one_image_of_the_shadow_at_most(
    source: RigSource, db: InspectionDatabase, start: Starter
) -> None:
    began, computing, longest = threading.Event(), threading.Lock(), []

    class Slow(BrightnessModel):
        def predict_pixels(self, images: list, *, with_maps: bool = False) -> list:  # type: ignore[override, type-arg]
            assert computing.acquire(blocking=False), "two compute at once"
            try:
                longest.append(len(images))
                began.set()
                time.sleep(0.05)
                return super().predict_pixels(images, with_maps=with_maps)
            finally:
                computing.release()

    source.make = lambda line, version: Slow() if version == "2" else BrightnessModel()
    inbox = source.lines["bottles"].folder
    for number in range(10):
        write_image(inbox / f"{number}.png", number)
    start(shadow_seconds=0.02)
    until(lambda: list(states(db).values()) == ["done"] * 10)
    source.change("bottles", shadow=shadow_of())
    assert began.wait(20)
    write_image(inbox / "late.png", 90)
    until(lambda: states(db).get("late.png") == "done")
    assert len(scored(db)) < 10, "the late image did not wait for all of them"
    assert set(longest) == {1}
