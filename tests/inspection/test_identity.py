"""What is another part, and what is the same one again: told by content, not by a file's name, size or times."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from brightness_model import POISON, BrightnessModel, write_image
from inspection_rig import Rig, until_ctime_differs
from PIL import Image

from vad_lib.ingest.completeness import ends_whole
from vad_lib.inspection.history import inspected_between
from vad_lib.inspection_db.laws import check_database
from vad_lib.inspection_db.schema import notifications
from vad_lib.queue.outbox import due_notifications, open_sinks
from vad_lib.serving.sinks import write_result_file


@pytest.fixture(autouse=True)
def sinks(rig: Rig) -> None:
    """Each decided file is told."""
    open_sinks(rig.db, {"bottles": ["file"]})


def _told(rig: Rig) -> int:
    return len(rig.db.table(notifications.select()))


def _grey(file: Path, brightness: int) -> Path:
    """Write an image whose size does not depend on its content, with a whole second as its time."""
    Image.new("L", (16, 16), brightness).save(file, compress_level=0)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    return file


@pytest.mark.parametrize("way", ["written in place", "renamed over"])
@pytest.mark.spec("Q1.07")
def test_another_part_under_the_same_name_size_and_time_is_inspected(rig: Rig, way: str) -> None:
    file = _grey(rig.inbox / "part.png", 50)
    assert rig.inspect().predictions["predicted"].tolist() == ["OK"]
    before = file.stat()
    if way == "renamed over":
        _grey(rig.line.folder / "next.png", 200).rename(file)
    else:
        _grey(file, 200)
    until_ctime_differs(file, before.st_ctime_ns)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert rig.inspect().predictions["predicted"].tolist() == ["NG"]
    assert (rig.db.count_predictions("bottles"), _told(rig)) == (2, 2)


def _touch(file: Path, _: Path) -> None:
    os.utime(file)


def _change_mode(file: Path, _: Path) -> None:
    file.chmod(0o600)


def _copy_over(file: Path, aside: Path) -> None:
    shutil.copy2(file, aside)
    aside.rename(file)


def _move_away_and_back(file: Path, aside: Path) -> None:
    file.rename(aside)
    aside.rename(file)


def _write_again(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes())


@pytest.mark.parametrize(
    "inspection_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize("way", [_touch, _change_mode, _copy_over, _move_away_and_back, _write_again])
@pytest.mark.parametrize("kind", ["image", "broken", "duplicate"])
@pytest.mark.spec("Q1.08")
def test_the_same_content_again_is_remembered_without_another_result_or_notification(
    rig: Rig, way: Callable[[Path, Path], None], kind: str
) -> None:
    write_image(rig.inbox / "first.png", 50)
    rig.register()
    file = rig.inbox / "b.png"
    if kind == "duplicate":
        shutil.copy(rig.inbox / "first.png", file)
    elif kind == "broken":
        file.write_bytes(b"\x89PNG nothing")
    else:
        write_image(file, 150)
    model = BrightnessModel()
    rig.inspect(model)
    scored, told, states = model.images, _told(rig), rig.states()
    for _ in range(2):
        before = file.stat()
        way(file, rig.line.folder / "aside")
        until_ctime_differs(file, before.st_ctime_ns)
        assert rig.register() == 1
        rig.work(model)
        assert rig.register() == 0
    assert (model.images, _told(rig), rig.states()) == (scored, told, states)
    assert len(rig.db.incoming_files("bottles")) == 2
    assert check_database(rig.db.engine) == []


def test_what_failed_before_is_tried_again_when_its_file_is_touched(rig: Rig) -> None:
    class Young(BrightnessModel):
        def predict_pixels(self, images: object, *, with_maps: bool = False) -> list:  # type: ignore[type-arg]
            answers = super().predict_pixels(images, with_maps=with_maps)  # type: ignore[arg-type]
            if any(round(each.raw_score) == POISON for each in answers):
                raise RuntimeError("too dark")
            return answers

    file = write_image(rig.inbox / "dark.png", POISON)
    rig.inspect(Young())
    assert rig.states() == {"dark.png": "detector_failed"}
    before = file.stat()
    os.utime(file)
    until_ctime_differs(file, before.st_ctime_ns)
    rig.inspect()
    assert rig.states() == {"dark.png": "done"}


def test_an_older_content_that_comes_back_under_its_name_is_told_with_the_result_that_it_had(rig: Rig) -> None:
    file, model = rig.inbox / "a.png", BrightnessModel()
    for brightness in (50, 200, 50):
        write_image(rig.line.folder / "next.png", brightness).rename(file)
        rig.inspect(model)
    assert model.images == 2
    assert rig.db.count_predictions("bottles") == 2
    newest = due_notifications(rig.db, [("bottles", "file")])[-1]
    assert newest.content["predicted"] == "OK"


@pytest.mark.spec("Q1.08")
def test_a_trailer_behind_a_complete_image_is_no_second_part_however_often_it_is_touched(rig: Rig) -> None:
    file, model = rig.inbox / "a.jpg", BrightnessModel()
    Image.new("L", (16, 16), 50).save(file)
    rig.inspect(model)
    for change in (b"preview of the camera", b"", b" and more of it"):
        before = file.stat()
        with file.open("ab") as stream:
            stream.write(change)
        os.utime(file)
        until_ctime_differs(file, before.st_ctime_ns)
        assert rig.register() == 1
        rig.work(model)
        assert rig.register() == 0
    assert (model.images, rig.db.count_predictions("bottles"), _told(rig)) == (1, 1, 1)
    assert rig.states() == {"a.jpg": "done"}
    assert check_database(rig.db.engine) == []


def test_a_trailer_that_comes_before_the_first_look_leaves_one_part(rig: Rig) -> None:
    file = write_image(rig.inbox / "a.png", 50)
    rig.register()
    with file.open("ab") as stream:
        stream.write(b"trailer")
    rig.register()
    rig.work()
    assert sorted(rig.db.incoming_files("bottles")["rule"].fillna("").tolist()) == ["", "changed"]
    assert (rig.db.count_predictions("bottles"), _told(rig)) == (1, 1)


def test_a_longer_file_that_shows_something_else_is_another_part(rig: Rig) -> None:
    file = rig.inbox / "a.png"
    write_image(file, 50)
    rig.inspect()
    data = write_image(rig.line.folder / "other.png", 200, size=32).read_bytes()
    with file.open("r+b") as stream:  # the same inode
        stream.write(data)
    assert rig.inspect().predictions["predicted"].tolist() == ["NG"]
    assert rig.db.count_predictions("bottles") == 2


def test_a_thumbnail_in_front_of_a_picture_does_not_end_it(rig: Rig, tmp_path: Path) -> None:
    thumbnail, whole = tmp_path / "thumbnail.jpg", tmp_path / "whole.jpg"
    Image.effect_noise((16, 16), 50).save(thumbnail, quality=50)
    exif = b"Exif\x00\x00" + thumbnail.read_bytes()
    Image.effect_noise((128, 128), 80).convert("RGB").save(whole, exif=exif)
    data = whole.read_bytes()
    cut = data.index(b"\xff\xd9") + 2
    assert cut < len(data)
    file = tmp_path / "slow.jpg"
    file.write_bytes(data[:cut])
    assert not ends_whole(file)
    for length in range(cut, len(data) - 1, 97):
        file.write_bytes(data[:length])
        assert not ends_whole(file)
    file.write_bytes(data)
    assert ends_whole(file)


def test_each_part_of_a_camera_with_one_name_for_all_has_its_row_and_the_result_file_is_of_the_newest(
    rig: Rig,
) -> None:
    file = rig.inbox / "cam.png"
    for number, brightness in enumerate((50, 200, 60, 210)):
        write_image(rig.line.folder / "next.png", brightness, nonce=number).rename(file)
        rig.inspect()
    dataset, result = inspected_between(rig.db, "bottles", folder=rig.inbox, model_version="1")
    assert result.predictions["predicted"].tolist() == ["OK", "NG", "OK", "NG"]
    assert dataset.input_table["image_path"].tolist() == ["cam.png"] * 4
    due = due_notifications(rig.db, [("bottles", "file")])
    # They may be sent in any order, and again: only the newest is written beside the image.
    for each in (*due, *reversed(due)):
        assert write_result_file(each).state == "sent"
        if (written := file.with_name("cam.png.vad.json")).exists():
            assert due[-1].id in written.read_text()
    assert written.exists()


@pytest.mark.spec("Q1.11")
def test_a_quarantined_copy_stays_what_was_refused_when_the_next_picture_is_written_in_place(rig: Rig) -> None:
    file = rig.inbox / "a.png"
    file.write_bytes(b"\x89PNG damaged")
    rig.inspect()
    kept = Path(rig.file("a.png").quarantine_file)
    assert not kept.is_symlink()
    assert kept.stat().st_nlink == 1
    assert kept.stat().st_ino != file.stat().st_ino
    with file.open("wb") as stream:
        stream.write(write_image(rig.line.folder / "good.png", 50).read_bytes())
    rig.inspect()
    assert kept.read_bytes() == b"\x89PNG damaged"
    first = rig.db.incoming_files("bottles").iloc[0]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == first["sha256"]


def test_images_in_folders_named_like_temporary_files_are_inspected(rig: Rig) -> None:
    names = ["bracket.part/1.png", "shift.tmp/2.png", "~$old/3.png", "thumbs.db/4.png", "a.crdownload/deep/5.png"]
    for number, name in enumerate(names):
        write_image(rig.inbox / name, 50, nonce=number)
    write_image(rig.inbox / ".hidden" / "6.png", 50, nonce=9)
    rig.inspect()
    assert rig.states() == dict.fromkeys(names, "done")
