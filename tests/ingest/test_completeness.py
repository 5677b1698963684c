"""Whether the last bytes of a file say that it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from vad_lib.images.decoding import decode_image
from vad_lib.ingest.completeness import PADDING_BYTES, ends_whole


def _write(file: Path, **how: object) -> bytes:
    Image.effect_noise((96, 96), 60).convert("RGB").save(file, **how)
    return file.read_bytes()


HOW = {
    "a.png": {},
    "b.png": {"compress_level": 0},
    "a.jpg": {},
    "b.jpg": {"progressive": True},
    "c.jpg": {"exif": b"Exif\x00\x00" + bytes(3000)},
    "d.jpg": {"restart_marker_blocks": 4},
    "e.jpg": {"comment": b"\xff\xd9 is no end here"},
}


@pytest.mark.parametrize("name", HOW)
@pytest.mark.spec("I1.01")
def test_a_file_is_whole_with_its_last_byte_and_not_before(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    data = _write(file, **HOW[name])
    assert ends_whole(file)
    for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}:
        file.write_bytes(data[:length])
        assert not ends_whole(file), length


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("padding", [1, 511, PADDING_BYTES - 20])
@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"\x1a"])
def test_padding_behind_the_end_is_neither_damage_nor_still_writing(
    tmp_path: Path, name: str, padding: int, byte: bytes
) -> None:
    file = tmp_path / name
    file.write_bytes(_write(file) + byte * padding)
    assert ends_whole(file)
    decode_image(file)
    file.write_bytes(_write(file) + b"\x1a" + byte * (padding - 1))
    assert ends_whole(file)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.spec("I1.01")
def test_a_file_for_which_room_was_made_first_is_not_whole_before_its_end_is_written(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    data = _write(file)
    for length in (10, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length] + bytes(len(data) - length))
        assert not ends_whole(file)


@pytest.mark.parametrize("name", ["a.bmp", "a.webp"])
def test_a_file_is_whole_when_it_is_as_long_as_its_header_says(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    data = _write(file)
    assert ends_whole(file)
    for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}:
        file.write_bytes(data[:length])
        assert not ends_whole(file), length
        file.write_bytes(data[: max(0, length - 64)] + bytes(len(data) - max(0, length - 64)))
        assert not ends_whole(file), length


def test_the_end_of_a_tiff_says_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "a.tif")
    assert not ends_whole(tmp_path / "a.tif")


def test_other_bytes_behind_the_end_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(_write(file) + b"trailer")
    assert not ends_whole(file)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8\xff\xd9", b"\x89PNG", b"text", b"\xff\xd8\xff" * 2000])
def test_rubbish_is_not_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert not ends_whole(tmp_path / "a.jpg")


def test_what_cannot_be_opened_is_not_whole_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    _write(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for name in ("pipe.png", "link.png", "missing.png"):
        assert not ends_whole(tmp_path / name)
