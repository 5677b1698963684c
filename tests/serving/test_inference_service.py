"""The resident scorer on real folders and files, with a small honest model."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from brightness_model import THORN, BrightnessModel, write_image
from PIL import Image
from scorer_plant import PlantSource, Starter, until
from sqlalchemy import text
from vad_lib.inspection_db.checking import check_database
from vad_lib.landing import plan_landing_tick
from vad_lib.scorer.watching import FolderWatch

from vad_lib.inspection_db import InspectionDatabase


def _states(db: InspectionDatabase, line: str = "bottles") -> dict[str, str]:
    table = db.landings(line)
    return dict(zip(table["path"], table["state"], strict=True))


def _check(db: InspectionDatabase) -> None:
    assert check_database(db.engine) == []
    with db.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM fast_batches")).scalar() == 0


def _way_copy(image: Path, target: Path) -> None:
    shutil.copy2(image, target)


def _way_rename(image: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.part")
    shutil.copy(image, partial)
    partial.rename(target)


def _way_move_in(image: Path, target: Path) -> None:
    shutil.copy(image, image.with_suffix(".moved"))
    image.with_suffix(".moved").rename(target)


def _way_hard_link(image: Path, target: Path) -> None:
    os.link(image, target)


def _way_slowly(image: Path, target: Path) -> None:
    data = image.read_bytes()
    with target.open("wb") as stream:
        for start in range(0, len(data), 20):
            stream.write(data[start : start + 20])
            stream.flush()
            time.sleep(0.03)


def _way_in_pieces(image: Path, target: Path) -> None:
    """As programs do that open and close the file for each piece."""
    data = image.read_bytes()
    for start in range(0, len(data), 20):
        with target.open("ab") as stream:
            stream.write(data[start : start + 20])
        time.sleep(0.03)


WAYS = [_way_copy, _way_rename, _way_move_in, _way_hard_link, _way_slowly, _way_in_pieces]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("_way_"))
def test_an_image_has_its_result_soon_after_it_landed_whichever_way_it_came(
    way: object, start: Starter, source: PlantSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    # It does not wait until the file has stood still.
    source.change("bottles", settle_seconds=3600.0)
    start()
    image = write_image(tmp_path / "camera" / "one.png", 120)
    way(image, source.lines["bottles"].folder / "one.png")  # type: ignore[operator]
    until(lambda: db.count_predictions("bottles"), 60)
    (prediction,) = db.predictions("bottles").itertuples()
    assert (prediction.predicted, prediction.lane) == ("NG", "fast")
    assert not len(db.kept_aside("bottles"))


def test_a_folder_that_is_moved_in_with_images_is_seen_whole(
    start: Starter, source: PlantSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    start()
    for i in range(20):
        write_image(tmp_path / "shift" / "deep" / f"{i}.png", 50 + i, nonce=i)
    (tmp_path / "shift").rename(source.lines["bottles"].folder / "shift")
    until(lambda: db.count_predictions("bottles") == 20)


def test_nothing_is_lost_where_the_system_tells_of_no_events(
    start: Starter, source: PlantSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderWatch, "hint", lambda self, path, scan=False: None)
    start()
    for i in range(5):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 5)


def test_what_landed_before_the_scorer_began_is_inspected(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    for i in range(40):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    start()
    until(lambda: db.count_predictions("bottles") == 40)


@pytest.mark.spec("V9.05")
def test_bad_files_have_reasons_and_hold_up_nobody(start: Starter, source: PlantSource, db: InspectionDatabase) -> None:
    inbox = source.lines["bottles"].folder
    lane = start()
    whole = write_image(inbox / "good 0.png", 50, nonce=1000).read_bytes()
    write_image(inbox / "thorn.png", THORN)
    (inbox / "cut.png").write_bytes(whole[: len(whole) // 2])
    (inbox / "rubbish.jpg").write_bytes(b"\xff\xd8\xff" + bytes(range(200)) + b"\xff\xd9")
    for i in range(1, 10):
        write_image(inbox / f"good {i}.png", 50 + i, nonce=i)
    until(lambda: sum(state != "pending" for state in _states(db).values()) == 13)
    states = _states(db)
    assert all(states[f"good {i}.png"] == "done" for i in range(10))
    reasons = dict(zip(db.kept_aside("bottles")["path"], db.kept_aside("bottles")["rule"], strict=True))
    assert reasons == {
        "thorn.png": "detector_failed",
        "cut.png": "unreadable_image",
        "rubbish.jpg": "unreadable_image",
    }
    until(lambda: lane.queue.images == 0)
    _check(db)


def test_the_sensor_leaves_alone_what_the_scorer_has_and_the_scorer_what_the_sensor_has(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    for i in range(10):
        write_image(inbox / f"bulk {i}.png", 50 + i, nonce=i)
    tick = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60)
    assert [request.count for request in tick.requests] == [10]
    source.make = lambda line, version: BrightnessModel(seconds=0.05)
    start()
    for i in range(30):
        write_image(inbox / f"fast {i}.png", 90 + i, nonce=i)
    until(lambda: len(db.landings("bottles")) == 40)
    later = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60)
    assert [request.batch_id for request in later.requests] == [tick.requests[0].batch_id]
    until(lambda: db.count_predictions("bottles") == 30)
    assert {path.split()[0] for path, state in _states(db).items() if state == "pending"} == {"bulk"}


def test_images_above_the_bound_are_left_where_the_bulk_lane_finds_them(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    source.make = lambda line, version: BrightnessModel(seconds=0.2)
    lane = start(queue_images=8, micro_batch=4)
    for i in range(60):
        write_image(inbox / f"{i}.png", 50 + i, nonce=i)
    until(lambda: lane.queue.images == 8)
    for _ in range(20):
        assert lane.queue.images <= 8
        time.sleep(0.01)
    tick = plan_landing_tick(db, "bottles", inbox, run_state=lambda _: None, now=time.time() + 60, max_batch=30)
    assert [request.count for request in tick.requests] == [30]
    # The scorer does the rest and touches none of those.
    until(lambda: db.count_predictions("bottles") == 30, 30)
    until(lambda: lane.queue.images == 0)
    assert set(db.landings("bottles", batch_id=tick.requests[0].batch_id)["state"]) == {"pending"}
    assert lane.metrics.text({}).count("vad_left_to_the_bulk_lane_total") or len(db.landings("bottles")) == 60


def test_a_new_champion_is_followed_and_no_image_is_dropped(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    source.make = lambda line, version: BrightnessModel(seconds=0.01)
    start()
    done = threading.Event()

    def land() -> None:
        for i in range(120):
            write_image(inbox / f"{i:03}.png", 50 + i, nonce=i)
            time.sleep(0.01)
        done.set()

    thread = threading.Thread(target=land)
    thread.start()
    until(lambda: db.count_predictions("bottles") > 20)
    source.change("bottles", model_version="2")
    done.wait(20)
    thread.join()
    until(lambda: db.count_predictions("bottles") == 120)
    versions = db.predictions("bottles")["model_version"].tolist()
    assert set(versions) == {"1", "2"}
    # Two batches may be at work while it changes.
    assert versions.index("2") > 15
    assert set(versions[-40:]) == {"2"}
    assert db.predictions("bottles")["sha256"].is_unique


def test_a_version_that_cannot_be_loaded_is_told_and_the_one_before_goes_on(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    lane = start()

    def refuse(line: str, version: str) -> BrightnessModel:
        raise OSError("the checksum of model.safetensors is wrong")

    source.make = refuse
    source.change("bottles", model_version="2")
    until(lambda: "bottles" in lane.not_ready())
    assert "2 cannot be loaded: the checksum" in lane.not_ready()["bottles"]
    write_image(source.lines["bottles"].folder / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    assert db.predictions("bottles")["model_version"].tolist() == ["1"]


def test_more_lines_than_warm_models_are_all_served(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    for name in ("caps", "corks", "labels"):
        source.add(name)
    lane = start(warm_models=2)
    for turn in range(2):
        for name in source.lines:
            write_image(source.lines[name].folder / f"{turn}.png", 50 + turn)
    for name in source.lines:
        until(lambda name=name: db.count_predictions(name) == 2)  # type: ignore[misc]
    assert len(lane.models.versions()) <= 2


def test_a_line_without_champion_waits_and_a_line_that_appears_is_served(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    source.change("bottles", model_version="")
    lane = start()
    write_image(source.lines["bottles"].folder / "a.png", 50)
    source.add("caps")
    write_image(source.lines["caps"].folder / "b.png", 50)
    until(lambda: db.count_predictions("caps") == 1)
    assert not len(db.landings("bottles"))
    source.change("bottles", model_version="1")
    until(lambda: db.count_predictions("bottles") == 1)
    assert lane.alive()


def test_a_landing_folder_that_is_replaced_is_watched_again(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    lane = start()
    write_image(inbox / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    shutil.rmtree(inbox)
    until(lambda: not lane.watches["bottles"].events)
    inbox.mkdir()
    until(lambda: lane.watches["bottles"].events)
    write_image(inbox / "b.png", 60)
    until(lambda: db.count_predictions("bottles") == 2)


def test_the_same_content_again_has_no_second_prediction(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    start()
    Image.new("L", (16, 16), 50).save(inbox / "a.png")
    until(lambda: _states(db).get("a.png") == "done")
    shutil.copy(inbox / "a.png", inbox / "b.png")
    os.utime(inbox / "a.png", ns=(1, 1))
    (inbox / "a.png").rename(inbox / "c.part")
    (inbox / "c.part").rename(inbox / "a.png")
    until(lambda: len(db.landings("bottles")) == 3 and "pending" not in set(db.landings("bottles")["state"]))
    assert _states(db) == {"a.png": "done", "b.png": "refused"}
    assert db.count_predictions("bottles") == 1
