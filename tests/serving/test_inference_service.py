"""The inference service on real folders and files, with a small honest model."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from brightness_model import THORN, BrightnessModel, write_image
from inspection_rig import Rig, dead_worker, register_what_is_there, worker_elsewhere
from PIL import Image
from serving_rig import RigSource, Starter, states, until
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from vad_lib.ingest import FolderWatch
from vad_lib.inspection import reader
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.laws import check_database
from vad_lib.queue import lease, services_of
from vad_lib.serving import service as service_module
from vad_lib.serving.warm_models import InTurn, Turns


def _check(db: InspectionDatabase) -> None:
    assert check_database(db.engine) == []
    with db.reading() as connection:
        leased = text("SELECT count(*) FROM incoming_files WHERE leased_by IS NOT NULL")
        assert connection.execute(leased).scalar() == 0


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
@pytest.mark.spec("S1.08")
def test_an_image_has_its_result_soon_after_it_arrived_whichever_way_it_came(
    way: Callable[[Path, Path], None], start: Starter, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    # It does not wait until the file has stood still.
    source.change("bottles", settle_seconds=3600.0)
    start()
    image = write_image(tmp_path / "camera" / "one.png", 120)
    way(image, source.lines["bottles"].folder / "one.png")
    until(lambda: db.count_predictions("bottles"), 60)
    (prediction,) = db.predictions("bottles").itertuples()
    assert (prediction.predicted, prediction.source) == ("NG", "online")
    assert not len(db.refused("bottles"))


def test_a_picture_with_a_thumbnail_that_is_written_slowly_is_one_part(
    start: Starter, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    source.change("bottles", settle_seconds=3600.0)
    start()
    Image.new("L", (16, 16), 9).save(tmp_path / "thumbnail.jpg")
    whole = tmp_path / "whole.jpg"
    exif = b"Exif\x00\x00" + (tmp_path / "thumbnail.jpg").read_bytes()
    Image.new("L", (64, 64), 150).save(whole, exif=exif)
    data = whole.read_bytes()
    cut = data.index(b"\xff\xd9") + 2
    target = source.lines["bottles"].folder / "slow.jpg"
    target.write_bytes(data[:cut])
    time.sleep(0.5)
    with target.open("ab") as stream:
        stream.write(data[cut:])
    until(lambda: db.count_predictions("bottles"))
    assert states(db) == {"slow.jpg": "done"}
    assert len(db.incoming_files("bottles")) == 1


def test_a_folder_that_is_moved_in_with_images_is_seen_whole(
    start: Starter, source: RigSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    start()
    for i in range(20):
        write_image(tmp_path / "shift" / "deep" / f"{i}.png", 50 + i, nonce=i)
    (tmp_path / "shift").rename(source.lines["bottles"].folder / "shift")
    until(lambda: db.count_predictions("bottles") == 20)


def test_nothing_is_lost_where_the_system_tells_of_no_events(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderWatch, "hint", lambda self, path, scan=False: None)
    start()
    for i in range(5):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.count_predictions("bottles") == 5)


def test_what_arrived_before_the_service_began_is_inspected(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    for i in range(40):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    start()
    until(lambda: db.count_predictions("bottles") == 40)


@pytest.mark.spec("V9.05")
def test_bad_files_have_reasons_and_hold_up_nobody(start: Starter, source: RigSource, db: InspectionDatabase) -> None:
    inbox = source.lines["bottles"].folder
    start()
    whole = write_image(inbox / "good 0.png", 50, nonce=1000).read_bytes()
    write_image(inbox / "thorn.png", THORN)
    (inbox / "cut.png").write_bytes(whole[: len(whole) // 2])
    (inbox / "rubbish.jpg").write_bytes(b"\xff\xd8\xff" + bytes(range(200)) + b"\xff\xd9")
    for i in range(1, 10):
        write_image(inbox / f"good {i}.png", 50 + i, nonce=i)
    expected = {f"good {i}.png": "done" for i in range(10)}
    bad = {"thorn.png": "detector_failed", "cut.png": "unreadable_image", "rubbish.jpg": "unreadable_image"}
    until(lambda: states(db) == expected | bad, seen=lambda: states(db))
    _check(db)


def test_what_others_have_registered_or_left_is_worked_on(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that died, of a service elsewhere that takes its time, and of a sensor."""
    monkeypatch.setattr(service_module, "QUEUE_SECONDS", 0.1)
    line = source.lines["bottles"].line
    for i in range(9):
        write_image(line.inbox / f"{i}.png", 50 + i, nonce=i)
    register_what_is_there(db, line)
    elsewhere = lease(db, "bottles", worker_elsewhere(), 3).files
    dead = lease(db, "bottles", dead_worker(), 3).files
    assert len(elsewhere) == len(dead) == 3
    start()
    until(lambda: db.count_predictions("bottles") == 6)
    others = db.incoming_files("bottles").query("state == 'pending'")["file_id"].tolist()
    assert others == [each.file_id for each in elsewhere]


@pytest.mark.spec("Q1.02")
def test_a_service_and_a_run_share_the_queue_and_score_each_image_once(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    models: list[BrightnessModel] = []

    def make(line: str, version: str) -> BrightnessModel:
        models.append(BrightnessModel(seconds=0.005))
        return models[-1]

    source.make = make
    start(micro_batch=4)
    probes = models[0].images
    rig = Rig(db, source.lines["bottles"].line)
    for i in range(120):
        write_image(rig.inbox / f"{i}.png", 50 + i, nonce=i)
    rig.register()
    run = BrightnessModel(seconds=0.005)
    rig.work(run, chunk=4)
    until(lambda: db.count_predictions("bottles") == 120)
    assert models[0].images - probes + run.images == 120
    assert set(db.predictions("bottles")["source"]) == {"online", "batch"}
    until(lambda: set(states(db).values()) == {"done"})
    _check(db)


@pytest.mark.spec("S1.03")
def test_a_new_version_is_followed_and_no_image_is_dropped(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    source.make = lambda line, version: BrightnessModel(seconds=0.01)
    start()

    def land() -> None:
        for i in range(120):
            write_image(inbox / f"{i:03}.png", 50 + i, nonce=i)
            time.sleep(0.01)

    thread = threading.Thread(target=land)
    thread.start()
    until(lambda: db.count_predictions("bottles") > 20)
    source.change("bottles", model_version="2")
    thread.join()
    until(lambda: db.count_predictions("bottles") == 120, 60)
    versions = db.predictions("bottles")["model_version"].tolist()
    assert set(versions) == {"1", "2"}
    # Some chunks may be at work while it changes.
    assert versions.index("2") > 15
    assert db.predictions("bottles")["sha256"].is_unique


def test_a_version_that_cannot_be_loaded_is_told_and_the_one_before_goes_on(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    service = start()

    def refuse(line: str, version: str) -> BrightnessModel:
        raise OSError("the checksum of model.safetensors is wrong")

    source.make = refuse
    source.change("bottles", model_version="2")
    until(lambda: "bottles" in service.not_ready())
    assert "2 cannot be loaded: the checksum" in service.not_ready()["bottles"]
    write_image(source.lines["bottles"].folder / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    assert db.predictions("bottles")["model_version"].tolist() == ["1"]


@pytest.mark.spec("S1.10")
def test_no_lease_is_spent_while_a_model_loads(start: Starter, source: RigSource, db: InspectionDatabase) -> None:
    loaded = threading.Event()

    def make(line: str, version: str) -> BrightnessModel:
        assert loaded.wait(60)
        return BrightnessModel()

    source.make = make
    for i in range(5):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    services = [start(wait=False) for _ in range(2)]
    until(lambda: len(db.incoming_files("bottles")) == 5)
    for _ in range(30):
        files = db.incoming_files("bottles")
        assert files["leased_by"].isna().all()
        assert files["deliveries"].sum() == 0
        time.sleep(0.02)
    assert services[0].not_ready()
    loaded.set()
    until(lambda: db.count_predictions("bottles") == 5)
    assert db.incoming_files("bottles")["deliveries"].sum() == 0


def test_more_lines_than_warm_models_are_all_served(start: Starter, source: RigSource, db: InspectionDatabase) -> None:
    for name in ("caps", "corks", "labels"):
        source.add(name)
    service = start(warm_models=2)
    for turn in range(2):
        for name in source.lines:
            write_image(source.lines[name].folder / f"{turn}.png", 50 + turn)
    for name in source.lines:
        until(lambda name=name: db.count_predictions(name) == 2)  # type: ignore[misc]
    assert len(service.models.versions()) <= 2


def test_a_line_without_champion_waits_and_a_line_that_appears_is_served(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    source.change("bottles", model_version="")
    service = start()
    write_image(source.lines["bottles"].folder / "a.png", 50)
    source.add("caps")
    write_image(source.lines["caps"].folder / "b.png", 50)
    until(lambda: db.count_predictions("caps") == 1)
    assert db.count_predictions("bottles") == 0
    assert service.serves() == ["caps"]
    source.change("bottles", model_version="1")
    until(lambda: db.count_predictions("bottles") == 1)
    assert service.alive()


def test_a_watch_folder_that_is_replaced_is_watched_again(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    service = start()
    write_image(inbox / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    shutil.rmtree(inbox)
    until(lambda: not service.watches["bottles"].events)
    inbox.mkdir()
    until(lambda: service.watches["bottles"].events)
    write_image(inbox / "b.png", 60)
    until(lambda: db.count_predictions("bottles") == 2)


def test_the_same_content_again_has_no_second_prediction(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    inbox = source.lines["bottles"].folder
    start()
    Image.new("L", (16, 16), 50).save(inbox / "a.png")
    until(lambda: states(db).get("a.png") == "done")
    before = db.incoming_files("bottles")["ctime_ns"].iloc[0]
    shutil.copy(inbox / "a.png", inbox / "b.png")
    os.utime(inbox / "a.png", ns=(1, 1))
    (inbox / "a.png").rename(inbox / "c.part")
    (inbox / "c.part").rename(inbox / "a.png")
    until(lambda: states(db) == {"a.png": "done", "b.png": "duplicate"})
    until(lambda: db.incoming_files("bottles").query("path == 'a.png'")["ctime_ns"].iloc[0] != before)
    assert len(db.incoming_files("bottles")) == 2
    assert db.count_predictions("bottles") == 1


def test_a_copy_in_quarantine_inside_the_watch_folder_does_not_arrive_again(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    line = source.lines["bottles"].line
    source.change("bottles", folder=line.folder)
    start()
    (line.folder / "broken.png").write_bytes(b"\x89PNG nothing")
    os.utime(line.folder / "broken.png", (1, 1))
    until(lambda: line.quarantine.is_dir() and list(line.quarantine.iterdir()))
    write_image(line.folder / "last.png", 60)
    until(lambda: db.count_predictions("bottles") == 1)
    assert set(db.incoming_files("bottles")["path"]) == {"broken.png", "last.png"}


def test_a_service_says_which_lines_it_works_on_and_that_it_ends(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    source.add("caps", version="")
    service = start()
    until(lambda: services_of(db) == {"bottles": [service.worker.name]})
    service.stop()
    assert services_of(db) == {}


# --- no line waits for another ---------------------------------------------------------------------------------------


@pytest.mark.spec("S1.10")
def test_slow_files_of_one_line_do_not_delay_another(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add("caps")
    go_on = threading.Event()
    decode = reader.decode_bytes

    def slowly(data: bytes, file: Path, **more: object) -> object:
        if file.name.startswith("slow"):
            go_on.wait(60)
        return decode(data, file, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "decode_bytes", slowly)
    start(micro_batch=1)
    for i in range(6):
        write_image(source.lines["bottles"].folder / f"slow {i}.png", 50 + i, nonce=i)
    until(lambda: len(db.incoming_files("bottles")) == 6)
    time.sleep(0.3)
    write_image(source.lines["caps"].folder / "quick.png", 60)
    until(lambda: db.count_predictions("caps") == 1, 15)
    assert db.count_predictions("bottles") == 0
    go_on.set()
    until(lambda: db.count_predictions("bottles") == 6)


def test_many_large_images_of_one_line_let_another_line_score_in_between() -> None:
    order: list[str] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def predict_pixels(self, images: list[np.ndarray], *, with_maps: bool) -> list[str]:
            order.extend(self.name for _ in images)
            time.sleep(0.05 * len(images))
            return [self.name for _ in images]

    turns = Turns()
    large, small = InTurn(Slow("large"), turns), InTurn(Slow("small"), turns)  # type: ignore[arg-type]
    picture = np.broadcast_to(np.uint8(0), (3000, 3000))
    with ThreadPoolExecutor(2) as pool:
        many = pool.submit(large.predict_pixels, [picture] * 12)
        until(lambda: order)
        assert small.predict_pixels([picture[:9, :9]] * 2) == ["small", "small"]
        assert len(order) < 8
        assert many.result() == ["large"] * 12


@pytest.mark.spec("Q1.10")
def test_a_failing_model_of_one_line_blames_no_image_and_does_not_delay_another(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_lib.inspection.worker.RETRY_SECONDS", 0.2)
    source.add("caps")
    models: dict[str, BrightnessModel] = {}

    def make(line: str, version: str) -> BrightnessModel:
        models[line] = BrightnessModel()
        return models[line]

    source.make = make
    service = start()
    models["bottles"].broken = True
    for i in range(4):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: len(db.incoming_files("bottles")) == 4 and models["bottles"].calls > 3)
    for i in range(4):
        write_image(source.lines["caps"].folder / f"{i}.png", 50 + i, nonce=i)
        until(lambda i=i: db.count_predictions("caps") == i + 1, 10)  # type: ignore[misc]
    assert states(db) == {f"{i}.png": "pending" for i in range(4)}
    models["bottles"].broken = False
    until(lambda: db.count_predictions("bottles") == 4)
    assert db.incoming_files("bottles")["deliveries"].sum() == 0
    assert service.alive()


def test_a_line_whose_files_cannot_be_registered_does_not_stop_the_others(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.lines = {}
    source.add("aardvarks")
    source.add("caps")
    register = service_module.register
    fails = True

    def refuse(db: InspectionDatabase, line: str, *more: object) -> None:
        if fails and line == "aardvarks":
            raise ValueError("index row size exceeds maximum")
        register(db, line, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(service_module, "register", refuse)
    service = start()
    for name in source.lines:
        write_image(source.lines[name].folder / "a.png", 50)
    until(lambda: db.count_predictions("caps") == 1)
    assert db.count_predictions("aardvarks") == 0
    fails = False
    until(lambda: db.count_predictions("aardvarks") == 1)
    assert service.alive()


def test_a_line_that_is_removed_while_its_images_are_at_work_ends_no_worker(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    source.add("caps")
    source.make = lambda line, version: BrightnessModel(seconds=0.3 if line == "caps" else 0.0)
    service = start(micro_batch=1)
    for i in range(3):
        write_image(source.lines["caps"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: db.incoming_files("caps")["leased_by"].notna().any())
    source.remove("caps")
    until(lambda: "caps" not in service.watched)
    time.sleep(0.5)
    assert service.alive()
    write_image(source.lines["bottles"].folder / "a.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)


def test_one_who_waited_for_a_decision_and_turned_away_ends_no_worker(
    start: Starter, source: RigSource, db: InspectionDatabase
) -> None:
    service = start()
    gone, stays = service.expected.expect("bottles", "a.png"), service.expected.expect("bottles", "a.png")
    gone.cancel()
    write_image(source.lines["bottles"].folder / "a.png", 150)
    decided = stays.result(30)
    assert (decided.path, decided.state, decided.predicted) == ("a.png", "done", "NG")
    assert service.alive()


# --- the database ----------------------------------------------------------------------------------------------------


@pytest.mark.spec("Q1.12")
def test_a_database_that_cannot_be_written_for_a_while_loses_nothing_and_blames_nobody(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_lib.inspection.worker.FINISH_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(service_module, "TROUBLE_SECONDS", 0.05)
    monkeypatch.setattr(service_module, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr("vad_lib.queue.leases.LEASE_SECONDS", 0.3)
    models: list[BrightnessModel] = []

    def make(line: str, version: str) -> BrightnessModel:
        models.append(BrightnessModel(seconds=0.1))
        return models[-1]

    source.make = make
    service = start()
    probes = models[0].images
    for i in range(3):
        write_image(source.lines["bottles"].folder / f"{i}.png", 50 + i, nonce=i)
    until(lambda: models[0].images > probes)
    writing, full = db.writing, threading.Event()
    full.set()

    def refuse(**options: object) -> object:
        if full.is_set():
            raise OperationalError("a transaction", {}, Exception("database or disk is full"))
        return writing(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(db, "writing", refuse)
    # for longer than a lease lasts
    time.sleep(1.0)
    full.clear()
    until(lambda: db.count_predictions("bottles") == 3, seen=lambda: states(db))
    until(lambda: set(states(db).values()) == {"done"})
    assert db.incoming_files("bottles")["deliveries"].sum() == 0
    assert models[0].images == probes + 3
    assert service.alive()
    _check(db)


@pytest.mark.spec("S1.09")
def test_from_arrival_to_result_a_chunk_of_images_takes_three_transactions_that_write(
    start: Starter, source: RigSource, db: InspectionDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = start()
    until(lambda: services_of(db))
    for i in range(10):
        write_image(tmp_path / "shift" / f"{i}.png", 50 + i, nonce=i)
    monkeypatch.setattr(
        service, "_look_at_queue", lambda: None
    )  # renewals and announcements are of time, not of images
    written: list[str] = []
    writing = db.writing

    def count(*, line: str = "", durable: bool = True) -> object:
        written.append(threading.current_thread().name)
        return writing(line=line, durable=durable)

    time.sleep(0.2)
    monkeypatch.setattr(db, "writing", count)
    (tmp_path / "shift").rename(source.lines["bottles"].folder / "shift")
    until(lambda: db.count_predictions("bottles") == 10)
    time.sleep(0.3)
    assert [name.split("-")[1] for name in written] == ["watch", "work", "work"]


@pytest.mark.parametrize("inspection_url", ["postgresql"], indirect=True)
def test_the_clock_of_the_database_is_the_one_that_counts(db: InspectionDatabase) -> None:
    def now(connection: Connection) -> float:
        return db.clock(connection).timestamp()

    with db.reading() as connection:
        asked = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        assert abs(now(connection) - float(asked)) < 5
