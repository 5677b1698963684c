"""Real files made by Pillow, whole and broken, through the one door that opens images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vad_lib.errors import UnreadableImageError, UnsafePathError
from vad_lib.images.decoding import decode_bytes, decode_image
from vad_lib.images.jpeg import LINE_ENDS_CHANGED
from vad_lib.images.paths import is_image_name, resolve_inside

GRADIENT = np.add.outer(np.arange(40) * 3, np.arange(60) * 2).astype(np.uint8)  # 40 high, 60 wide
COLOURS = np.stack([GRADIENT, 255 - GRADIENT, GRADIENT // 2], axis=2)


def save(file: Path, image: Image.Image, **options: object) -> Path:
    image.save(file, **options)
    return file


def png_with_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.spec("V9.03", "V8.01", "V2.09")
def test_grey_and_colour_come_back_unchanged_with_the_checksum_of_the_file(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.PNG", Image.fromarray(GRADIENT))
    colour = save(tmp_path / "colour.png", Image.fromarray(COLOURS))
    image = decode_image(grey)
    assert (image.width, image.height, image.channels, image.notices) == (60, 40, 1, ())
    assert np.array_equal(image.pixels, GRADIENT)
    assert image.sha256 == hashlib.sha256(grey.read_bytes()).hexdigest()
    image = decode_image(colour)
    assert (image.channels, image.notices) == (3, ())
    assert np.array_equal(image.pixels, COLOURS)


@pytest.mark.spec("V9.03")
@pytest.mark.parametrize(("bits", "suffix"), [(8, "png"), (10, "png"), (12, "png"), (14, "png"), (16, "png")])
def test_16_bit_grey_keeps_its_values_for_the_model_and_is_shown_in_the_bits_that_it_uses(
    tmp_path: Path, bits: int, suffix: str
) -> None:
    white = 2**bits - 1
    values = np.array([[0, white // 4, white // 2, white]], dtype=np.uint16)
    image = decode_image(save(tmp_path / f"deep.{suffix}", Image.fromarray(values)))
    assert image.values.dtype == np.uint16
    assert image.values.tolist() == values.tolist()
    assert image.pixels.dtype == np.uint8
    assert np.abs(image.pixels.astype(int) - [[0, 63, 127, 255]]).max() <= 1
    assert image.notices == (f"16-bit grey: values of {bits} bits",)


def test_an_8_bit_image_gives_the_model_its_pixels(tmp_path: Path) -> None:
    image = decode_image(save(tmp_path / "grey.png", Image.fromarray(GRADIENT)))
    assert image.values is image.pixels


@pytest.mark.spec("V9.03")
@pytest.mark.parametrize(
    ("name", "image", "expected", "notice"),
    [
        ("bits.png", Image.fromarray(GRADIENT > 90), np.where(GRADIENT > 90, 255, 0), "1-bit grey"),
        ("palette.png", Image.fromarray(COLOURS).quantize(8), None, "palette"),
        ("cmyk.jpg", Image.fromarray(COLOURS).convert("CMYK"), None, "CMYK"),
        ("opaque.png", Image.fromarray(COLOURS).convert("RGBA"), COLOURS, "all opaque"),
        ("grey_alpha.png", Image.fromarray(GRADIENT).convert("LA"), GRADIENT, "all opaque"),
    ],
)
def test_other_kinds_of_pixels_are_converted_and_said(
    tmp_path: Path, name: str, image: Image.Image, expected: np.ndarray | None, notice: str
) -> None:
    decoded = decode_image(save(tmp_path / name, image))
    assert len(decoded.notices) == 1
    assert notice in decoded.notices[0]
    if expected is None:
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    assert np.array_equal(decoded.pixels, expected)


def test_transparent_pixels_are_laid_on_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (200, 10, 10, 255)
    pixels[1, 1] = (0, 255, 0, 0)
    decoded = decode_image(save(tmp_path / "alpha.png", Image.fromarray(pixels)))
    assert decoded.pixels[0, 0].tolist() == [200, 10, 10]
    assert decoded.pixels[1, 1].tolist() == [255, 255, 255]
    assert "white" in decoded.notices[0]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("b.tif", {"compression": "tiff_adobe_deflate"}),
        ("a.webp", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("pixels", [GRADIENT, COLOURS], ids=["grey", "colour"])
def test_other_formats_of_cameras_come_back_unchanged_and_cut_ones_are_refused(
    tmp_path: Path, name: str, how: dict[str, object], pixels: np.ndarray
) -> None:
    file = save(tmp_path / name, Image.fromarray(pixels), **how)
    assert is_image_name(name.upper())
    image = decode_image(file)
    shown = image.pixels if image.pixels.ndim == pixels.ndim else image.pixels[:, :, 0]
    assert np.array_equal(shown, pixels)
    data = file.read_bytes()
    for length in (3, 20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(UnreadableImageError):
            decode_bytes(data[:length], name)


def test_a_tiff_of_12_bits_keeps_its_values(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for how in ({}, {"compression": "tiff_lzw"}):
        assert np.array_equal(decode_image(save(tmp_path / "a.tif", Image.fromarray(values), **how)).values, values)


def test_a_file_of_several_pictures_is_refused_because_nobody_knows_which_is_meant(tmp_path: Path) -> None:
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    for name in ("a.tif", "a.webp"):
        with pytest.raises(UnreadableImageError, match="several pictures in one file"):
            decode_image(save(tmp_path / name, first, save_all=True, append_images=[second]))


def test_numbers_that_are_no_grey_levels_are_refused(tmp_path: Path) -> None:
    for mode in ("F", "I"):
        with pytest.raises(UnreadableImageError, match=f"unsupported kind of pixels \\({mode}\\)"):
            decode_image(save(tmp_path / "a.tif", Image.fromarray(GRADIENT).convert(mode)))


def test_limits_hold_for_the_header_of_each_format(tmp_path: Path) -> None:
    start = time.process_time()
    bmp = save(tmp_path / "a.bmp", Image.fromarray(COLOURS)).read_bytes()
    tiff = save(tmp_path / "a.tif", Image.fromarray(GRADIENT)).read_bytes()
    huge = struct.pack("<II", 40000, 40000)
    webp = b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\x3f\x9c\0" * 2 + bytes(30)
    entry = tiff.index(struct.pack("<H", 256), 8)  # the tags of width and height, of 12 bytes each
    values = tiff[entry + 12 : entry + 20]
    wide = tiff[:entry] + struct.pack("<HHII", 256, 4, 1, 40000) + struct.pack("<HHII", 257, 4, 1, 40000)
    assert struct.unpack("<H", values[:2]) == (257,)
    for data in (bmp[:18] + huge + bmp[26:], webp, wide + tiff[entry + 24 :]):
        with pytest.raises(UnreadableImageError, match="40000 x 40000"):
            decode_bytes(data, "a")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_files_come_back_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(save(tmp_path / "turned.png", Image.fromarray(GRADIENT), exif=exif))
    turned = GRADIENT.T.shape if orientation >= 5 else GRADIENT.shape
    assert (decoded.height, decoded.width) == turned == decoded.pixels.shape
    assert len(decoded.notices) == (orientation != 1)
    if orientation == 6:  # stored lying on its left side
        assert np.array_equal(decoded.pixels, np.rot90(GRADIENT, -1))


def test_a_jpeg_named_png_is_decoded_and_said(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").rename(tmp_path / "photo.png")
    decoded = decode_image(tmp_path / "photo.png")
    assert decoded.channels == 3
    assert decoded.notices == ("named .png, but the content is JPEG",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "empty file"),
        ("text.png", b"image_path,label\n./a.png,good\n", "it is text"),
        ("lfs.png", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("bitmap.png", b"BM" + bytes(100), "damaged header"),
        ("film.png", b"GIF89a" + bytes(100), "not a PNG, JPEG, BMP, TIFF or WebP image (it looks like GIF)"),
        ("zeros.png", bytes(4096), "begins with zeros"),
        ("noise.png", bytes(range(128, 256)) * 9, "unknown content"),
        ("start.png", b"\x89PNG", "first bytes"),
        ("huge.png", png_with_size(40000, 40000), "40000 x 40000 = 1600 megapixels"),
        ("short.png", png_with_size(400, 400), "truncated"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(tmp_path / name)
    assert reason in caught.value.reason
    assert len(caught.value.reason) < 120


@pytest.mark.parametrize(
    "line_end", [(b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\r\n", b"\r"), (b"\r", b""), (b"\r", b"\n")]
)
def test_a_png_sent_in_ascii_mode_is_refused_with_the_remedy(line_end: tuple[bytes, bytes]) -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, "PNG")
    with pytest.raises(UnreadableImageError) as caught:
        decode_bytes(stream.getvalue().replace(*line_end), "a.png")
    assert caught.value.reason == LINE_ENDS_CHANGED


@pytest.mark.parametrize(
    ("kind", "how"), [("BMP", {}), ("WEBP", {"quality": 100}), ("WEBP", {"lossless": True})], ids=str
)
def test_a_bmp_or_webp_sent_in_ascii_mode_is_refused_with_the_remedy_and_padding_is_no_damage(
    kind: str, how: dict[str, object]
) -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **how)
    data = stream.getvalue()
    assert b"\n" in data[60:]
    with pytest.raises(UnreadableImageError) as caught:
        decode_bytes(data.replace(b"\n", b"\r\n"), "a")
    assert caught.value.reason == LINE_ENDS_CHANGED
    assert np.array_equal(decode_bytes(data + b"\r\n" * 9, "a").pixels, decode_bytes(data, "a").pixels)


def test_a_gigantic_header_is_refused_before_a_pixel_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png_with_size(60000, 60000))
    start = time.process_time()
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        decode_image(tmp_path / "huge.png")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (32, 2049)])
def test_a_picture_like_a_thread_is_refused_before_it_is_stretched(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "thread.png")
    with pytest.raises(UnreadableImageError, match=f"too long and thin \\({size[0]} x {size[1]} pixels"):
        decode_image(tmp_path / "thread.png")
    Image.new("L", (32, 1920)).save(tmp_path / "lawful.png")
    assert decode_image(tmp_path / "lawful.png").height == 1920


@pytest.mark.parametrize("options", [{"quality": 90}, {"progressive": True}])
def test_a_jpeg_whose_tail_is_not_written_yet_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    data = save(tmp_path / "a.jpg", Image.fromarray(COLOURS), **options).read_bytes()
    half = data[: len(data) * 2 // 3]
    for broken in (half, half + bytes(len(data) - len(half))):
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode_bytes(broken, "a.jpg")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, "PNG" if kind == "png" else "JPEG", progressive=kind == "progressive")
    return stream.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("png", "jpeg", "progressive")}


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_a_cut_file_gives_the_whole_picture_or_a_reason_and_never_half_a_picture(
    kind: str, data: st.DataObject
) -> None:
    whole = WHOLE[kind]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(UnreadableImageError):
        pixels = decode_bytes(cut, f"a.{kind}").pixels
        assert np.array_equal(pixels, decode_bytes(whole, f"a.{kind}").pixels)


@settings(deadline=None, max_examples=150)
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_damaged_bytes_raise_nothing_but_a_refusal(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableImageError):
        image = decode_bytes(bytes(damaged), "a.png", max_pixels=1_000_000)
        assert image.pixels.shape[:2] == (image.height, image.width)


def test_folders_pipes_and_missing_files_are_refused_without_being_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (("folder.png", "is a folder"), ("pipe.png", "named pipe"), ("none.png", "not found")):
        with pytest.raises(UnreadableImageError, match=reason):
            decode_image(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "locked.png", Image.fromarray(GRADIENT))
    file.chmod(0)
    with pytest.raises(UnreadableImageError, match="no permission"):
        decode_image(file)


def test_permission_errors_become_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path / "locked.png", Image.fromarray(GRADIENT))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableImageError, match="no permission"):
        decode_image(file)


@pytest.mark.spec("V8.12")
@pytest.mark.parametrize(
    "path", ["../out.png", "good/../../out.png", "/etc/hostname", "link.png", "linked/out.png", "", "a\0b"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "data"
    (folder / "good").mkdir(parents=True)
    (tmp_path / "out.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UnsafePathError):
        resolve_inside(folder, path)


@pytest.mark.spec("V8.12", "V8.04")
@pytest.mark.parametrize(
    "path", ["./good/a 'b\" ü.png", ".\\good\\a 'b\" ü.png", "good/../good/a 'b\" ü.png", "inside.png"]
)
def test_a_path_that_stays_in_the_folder_is_found(tmp_path: Path, path: str) -> None:
    (tmp_path / "good").mkdir()
    file = tmp_path / "good" / "a 'b\" ü.png"
    file.write_bytes(b"x")
    (tmp_path / "inside.png").symlink_to(file)
    assert resolve_inside(tmp_path, path) == file
    assert resolve_inside(tmp_path, str(file)) == file


@pytest.mark.parametrize(("bits", "said"), [(12, "loses most of the 12 bits in use"), (16, "the high byte is taken")])
def test_16_bit_colour_of_a_camera_with_fewer_bits_says_that_most_of_it_is_lost(
    tmp_path: Path, bits: int, said: str
) -> None:
    values = np.linspace(0, 2**bits - 1, 48).astype(np.uint16).reshape(4, 4, 3)
    (tmp_path / "colour.png").write_bytes(cv2.imencode(".png", values)[1].tobytes())
    image = decode_image(tmp_path / "colour.png")
    np.testing.assert_array_equal(image.values, values[..., ::-1] >> 8)
    (notice,) = image.notices
    assert said in notice
    assert ("save as 8-bit colour" in notice) == (bits < 16)
