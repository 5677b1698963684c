"""Damaged JPEG files that still end with the end marker, and slow ones, beside whole ones of each kind."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from vad_lib.errors import UnreadableImageError
from vad_lib.images.decoding import decode_bytes
from vad_lib.images.jpeg import LINE_ENDS_CHANGED, MAX_SCANS

END = b"\xff\xd9"
HOW = {
    "plain": {},
    "coarse": {"quality": 10},
    "fine": {"quality": 100, "subsampling": 0},
    "own_tables": {"optimize": True, "subsampling": 1},
    "progressive": {"progressive": True},
    "progressive_fine": {"progressive": True, "quality": 97, "subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "many_restarts": {"restart_marker_blocks": 3},
    "progressive_restarts": {"progressive": True, "restart_marker_rows": 2},
}


def photograph(mode: str = "RGB", size: tuple[int, int] = (200, 136)) -> Image.Image:
    """Return what compresses like a photograph: soft forms, edges and grain."""
    width, height = size
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    soft = 90 + 60 * np.sin(across / 17) + 40 * np.cos(down / 23) + 50 * (np.hypot(across - 90, down - 60) < 40)
    grain = np.random.default_rng(3).normal(0, 6, (height, width, 3))
    pixels = np.clip(soft[:, :, None] * [1, 0.8, 0.6] + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **how)
    return stream.getvalue()


def damages(data: bytes) -> Iterator[bytes]:
    """Yield what transfers and cards make of a file: its end is there, and something before it is not."""
    start = data.index(b"\xff\xda") + 14
    for share in (0.02, 0.3, 0.5, 0.8, 0.95):
        place = int(start + share * (len(data) - start))
        yield data[:place] + END
        yield data[:place] + bytes(len(data) - place - 2) + END
    for share in (0.1, 0.45, 0.7):
        place = int(start + share * (len(data) - start))
        yield data[:place] + data[place + 512 :]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_of_which_a_part_is_missing_is_refused_though_its_end_is_there(how: str, mode: str) -> None:
    options = {name: value for name, value in HOW[how].items() if mode == "RGB" or name != "subsampling"}
    data = encoded(photograph(mode), **options)
    for damaged in damages(data):
        with pytest.raises(UnreadableImageError, match=r"damaged|truncated") as caught:
            decode_bytes(damaged, "a.jpg")
        assert len(caught.value.reason) < 120


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(200, 136), (9, 7), (64, 64), (33, 150)])
def test_a_whole_jpeg_of_any_kind_is_decoded_as_pillow_decodes_it(how: str, mode: str, size: tuple[int, int]) -> None:
    options = {name: value for name, value in HOW[how].items() if mode == "RGB" or name != "subsampling"}
    for image in (photograph(mode, size), Image.new(mode, size), Image.new(mode, size, (7,) * len(mode))):
        data = encoded(image, **options)
        expected = Image.open(io.BytesIO(data))
        expected = expected.convert("RGB") if mode == "CMYK" else expected
        assert np.array_equal(decode_bytes(data, "a.jpg").pixels, np.asarray(expected))


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = encoded(photograph(), progressive=True)
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    for last in scans[1:]:
        # the tables of a scan stand before it
        place = max(data.rfind(b"\xff\xc4", 0, last), 0)
        place = place if place > scans[scans.index(last) - 1] else last
        with pytest.raises(UnreadableImageError, match="scans are missing"):
            decode_bytes(data[:place] + END, "a.jpg")


def test_a_scan_without_data_is_refused() -> None:
    data = encoded(photograph())
    with pytest.raises(UnreadableImageError, match="without picture data"):
        decode_bytes(data[: data.index(b"\xff\xda") + 14] + END, "a.jpg")


@pytest.mark.parametrize("trailer", [b"\x00" * 700, b"\xff" * 64, b"\x1a" * 128, b"a preview follows" * 9])
@pytest.mark.parametrize("how", HOW)
def test_bytes_behind_the_end_of_a_jpeg_are_no_damage(how: str, trailer: bytes) -> None:
    data = encoded(photograph(), **HOW[how])
    assert np.array_equal(decode_bytes(data + trailer, "a.jpg").pixels, decode_bytes(data, "a.jpg").pixels)


def test_a_few_bytes_that_a_camera_leaves_before_the_end_marker_are_no_damage() -> None:
    data = encoded(photograph())
    for padding in (b"\xff", b"\xff\xff\xff", b"\x00" * 3):
        padded = data[:-2] + padding + END
        assert np.array_equal(decode_bytes(padded, "a.jpg").pixels, decode_bytes(data, "a.jpg").pixels)


def test_a_jpeg_with_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    data = encoded(photograph(size=(1600, 1200)), progressive=True)
    place = data.rindex(b"\xff\xda")
    end = len(data) - 2
    empty_scan = data[place:end][:10] + b"\x00" * 8
    started = time.process_time()
    with pytest.raises(UnreadableImageError, match=f"too many scans \\(more than {MAX_SCANS}"):
        decode_bytes(data[:end] + empty_scan * 6000 + END, "a.jpg")
    assert time.process_time() - started < 1
    decode_bytes(data, "a.jpg")


@pytest.mark.parametrize("how", HOW)
def test_a_jpeg_sent_in_ascii_mode_is_refused_with_the_remedy(how: str) -> None:
    data = encoded(photograph(size=(400, 300)), **HOW[how])
    with pytest.raises(UnreadableImageError) as caught:
        decode_bytes(data.replace(b"\n", b"\r\n"), "a.jpg")
    assert caught.value.reason == LINE_ENDS_CHANGED


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr"])
def test_a_tiff_that_holds_a_damaged_jpeg_is_refused_and_a_whole_one_is_not(mode: str) -> None:
    stream = io.BytesIO()
    photograph(mode, (400, 300)).save(stream, "TIFF", compression="jpeg")
    data = stream.getvalue()
    decode_bytes(data, "a.tif")
    middle = len(data) // 2
    for damage in (bytes(400), b"\xff\xd9" + bytes(398), np.random.default_rng(1).bytes(400)):
        with pytest.raises(UnreadableImageError, match=r"damaged|truncated"):
            decode_bytes(data[:middle] + damage + data[middle + 400 :], "a.tif")
