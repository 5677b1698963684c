"""What the pictures show."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from vad_lib.heatmaps import (
    PANEL,
    HeatmapScale,
    contact_sheet,
    data_url,
    draw_heatmap,
    learn_heatmap_scale,
    save_picture,
    thumbnail_markdown,
)
from vad_lib.images.decoding import decode_image

SCALE = HeatmapScale(low=1.0, high=5.0, contour=3.0)
CONTOUR = (0, 229, 255)
GREY = np.full((320, 320, 3), 120, np.uint8)
CAPTION = 26


def spot(height: float, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    one = np.ones(size, np.float32)
    one[8:16, 16:28] = height
    return one


def panels(picture: Image.Image, width: int = PANEL, height: int = PANEL) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return original, overlay and colour bar, without the frames."""
    pixels = np.asarray(picture)[CAPTION : CAPTION + height]
    overlay = pixels[1:-1, width + 11 : 2 * width + 9]
    return pixels[1:-1, 1 : width - 1], overlay, pixels[:, 2 * width + 20 :]


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(axis=-1).sum())


def test_what_is_ordinary_stays_as_it_was_and_what_is_not_glows() -> None:
    original, overlay, _ = panels(draw_heatmap(GREY, spot(5.0), SCALE))
    assert (original == 120).all()
    assert (overlay[200:, :100] == 120).all()
    hottest = overlay[PANEL * 12 // 32, PANEL * 22 // 32].astype(int)
    assert hottest[0] > 200  # inferno ends in light yellow
    assert hottest[0] - hottest[2] > 50


@pytest.mark.parametrize(("height", "drawn"), [(2.9, False), (3.2, True), (100.0, True)])
@pytest.mark.spec("V5.06")
def test_a_contour_surrounds_what_reaches_its_value_and_nothing_else(height: float, drawn: bool) -> None:
    _, overlay, bar = panels(draw_heatmap(GREY, spot(height), SCALE))
    assert (count(overlay, CONTOUR) > 100) == drawn
    if drawn:
        ys, xs = np.nonzero((overlay == CONTOUR).all(axis=-1))
        assert 70 < ys.min() < ys.max() < 215
        assert 165 < xs.min() < xs.max() < 360
    assert count(bar, CONTOUR) > 30  # the bar marks the contour always


def test_the_contour_is_marked_on_the_bar_where_it_lies_on_the_scale() -> None:
    for contour in (2.0, 3.0, 4.5):
        scale = HeatmapScale(low=1.0, high=5.0, contour=contour)
        bar = panels(draw_heatmap(GREY, spot(1), scale))[2]
        rows = np.nonzero((bar == CONTOUR).all(axis=-1).any(axis=1))[0]
        assert rows.mean() == pytest.approx(PANEL - 7 - (contour - 1) / 4 * (PANEL - 13), abs=2)


def test_equal_map_values_have_equal_colours_in_any_two_pictures_of_one_scale() -> None:
    quiet, loud = spot(2.5), spot(2.5)
    loud[24:28, 2:6] = 50.0
    place = (PANEL * 12 // 32, PANEL * 22 // 32)
    colours = [tuple(panels(draw_heatmap(GREY, one, SCALE))[1][place]) for one in (quiet, loud)]
    assert colours[0] == colours[1]


def test_a_higher_value_is_always_brighter() -> None:
    from skimage.color import rgb2lab

    black = np.zeros((8, 8, 3), np.uint8)
    lightness = []
    for value in np.linspace(1.5, 5, 15):
        scale = HeatmapScale(low=1.0, high=5.0, contour=9.0)
        pixel = panels(draw_heatmap(black, np.full((8, 8), value, np.float32), scale))[1][50, 50]
        lightness.append(float(rgb2lab(pixel[None, None] / 255)[0, 0, 0]))
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_a_number_spoils_nothing_else(bad: float) -> None:
    one = spot(1.0)
    one[0, 0] = bad
    overlay = panels(draw_heatmap(GREY, one, SCALE))[1]
    assert (overlay[100:, 100:] == 120).all()


@pytest.mark.parametrize(
    "shape", [(28, 28), (28, 28, 3), (1, 1, 3), (300, 200), (200, 1000, 3), (2000, 16), (16, 2000, 3), (1024, 1024, 3)]
)
def test_every_shape_of_image_gives_a_picture_of_useful_size(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = draw_heatmap(
        pixels, spot(4.0), SCALE, title="a/b.png", p=0.7, raw_score=3.2, predicted="NG", true_label="good"
    )
    assert picture.mode == "RGB"
    assert picture.width >= 440
    assert max(picture.size) <= 2 * PANEL + 130


def test_a_small_image_is_enlarged_so_that_its_pixels_can_be_seen() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    original = panels(draw_heatmap(pixels, spot(1.0), SCALE))[0]
    assert set(np.unique(original)) <= set(np.unique(pixels))


def test_the_caption_tells_misses_and_false_alarms_apart() -> None:
    def caption(**said: object) -> bytes:
        picture = draw_heatmap(GREY, spot(4.0), SCALE, p=0.7, raw_score=3.2, **said)  # type: ignore[arg-type]
        return np.asarray(picture)[:CAPTION].tobytes()

    hit = caption(predicted="NG", true_label="x", is_anomalous=True)
    false_alarm = caption(predicted="NG", true_label="x", is_anomalous=False)
    unknown = caption(predicted="NG", true_label="x", is_anomalous=None)
    assert hit != false_alarm
    assert hit == unknown


def test_names_of_any_kind_are_drawn_within_the_picture() -> None:
    for name in ("x" * 500, "불량/größe\n\x00.png", "[a](b)`<i>"):
        assert draw_heatmap(GREY, spot(4.0), SCALE, title=name).width == draw_heatmap(GREY, spot(4.0), SCALE).width


@pytest.mark.parametrize("size", [256, 1024])
def test_drawing_and_saving_takes_less_than_fifty_milliseconds(size: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(pixels).resize((size, size)))
    spent = []
    for _ in range(5):
        begin = time.process_time()
        save_picture(draw_heatmap(pixels, spot(4.0, (64, 64)), SCALE, title="a", p=0.7), tmp_path / "a.jpg")
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.05


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=12))
def test_every_set_of_maps_gives_an_ordered_scale(images: list[tuple[float, bool]]) -> None:
    maps = [np.array([[height, 0.0], [0.0, 0.0]], np.float32) for height, _ in images]
    scale = learn_heatmap_scale(iter(maps), [ng for _, ng in images])
    assert scale.low < scale.contour < scale.high


def test_the_contour_appears_in_the_images_that_were_decided_ng() -> None:
    """Also where the image score is another scale than the map."""
    heights = np.array([2.0, 2.2, 2.4, 6.0, 7.0, 40.0])
    is_ng = np.array([False] * 3 + [True] * 3)
    scale = learn_heatmap_scale((spot(h) for h in heights), is_ng)
    assert ((heights >= scale.contour) == is_ng).all()
    assert scale.low == pytest.approx(1)
    assert scale.high <= scale.low + 4 * (scale.contour - scale.low) + 1e-6  # one extreme does not darken the rest


def test_without_any_ng_no_contour_is_drawn() -> None:
    scale = learn_heatmap_scale((spot(h) for h in (2.0, 2.5)), [False, False])
    assert scale.contour > 2.5
    assert scale.contour == pytest.approx(2.5)


def test_maps_and_decisions_must_match() -> None:
    with pytest.raises(ValueError, match="one map for each"):
        learn_heatmap_scale([], [])
    with pytest.raises(ValueError, match="one map for each"):
        learn_heatmap_scale([spot(1)], [True, False])
    with pytest.raises(ValueError, match="low < high"):
        HeatmapScale(low=1, high=1, contour=1)


def test_the_picture_calls_the_value_of_its_contours_no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """One quantity has one name: the threshold is on the raw score, and images decided OK may bear a contour."""
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def write(draw: ImageDraw.ImageDraw, place: object, said: str, *more: object, **options: object) -> None:
        written.append(said)
        text(draw, place, said, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    draw_heatmap(GREY, spot(4.0), HeatmapScale(low=1.0, high=5.0, contour=3.25), raw_score=2.0, predicted="OK", p=0.4)
    assert {"contour", "3.25"} <= set(written)
    assert not any("threshold" in one for one in written)
    assert "threshold" not in HeatmapScale.model_fields


def test_thumbnails_carry_their_bytes_and_no_markup() -> None:
    markdown = thumbnail_markdown(draw_heatmap(GREY, spot(4.0), SCALE), "a](javascript:x).png", width=200)
    assert markdown.startswith("![a__javascript:x_.png](data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(markdown.split("base64,")[1][:-1]))) as small:
        assert small.width == 200
    assert len(data_url(draw_heatmap(GREY, spot(4.0), SCALE))) < 60_000


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 3, 2), (7, 3, 3)])
def test_a_contact_sheet_has_a_place_for_each_picture(n: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([Image.new("RGB", (200, 100), (10 * i, 0, 0)) for i in range(n)], 3, 100)
    assert sheet.size == (columns * 110 + 10, rows * 60 + 10)
    reds = {int(c[0]) for _, c in sheet.getcolors(10**5)}  # type: ignore[union-attr]
    assert {10 * i for i in range(n)} <= reds
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize(
    ("name", "format_"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.png", "PNG"), ("a.PNG", "PNG")]
)
@pytest.mark.spec("V12.06")
def test_the_format_is_that_of_the_name(name: str, format_: str, tmp_path: Path) -> None:
    save_picture(draw_heatmap(GREY, spot(4.0), SCALE), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == format_


def test_real_photographs_are_drawn(shared_data: Path) -> None:
    for pattern in (
        "mvtec_bottle/test/broken_large/*",
        "vad_sample/sample_data/train/abnormal/*",
        "magnetic_tile/test/crack/*",
    ):
        file = sorted(shared_data.glob(pattern))[0]
        image = decode_image(file)
        picture = draw_heatmap(image.pixels, spot(4.5), SCALE, title=file.name, p=0.8, predicted="NG")
        assert count(np.asarray(picture), CONTOUR) > 200
