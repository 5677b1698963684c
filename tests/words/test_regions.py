"""Regions of an anomaly map, boxes around them, and pictures that look alike."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vad_lib.errors import UnreadableImageError
from vad_lib.words.nearest import KnownImage, nearest, read_picture
from vad_lib.words.regions import beside_reference, draw_boxes, find_regions


def map_with(*spots: tuple[int, int, int, int, float]) -> np.ndarray:
    values = np.zeros((100, 200), np.float32)
    for top, left, bottom, right, value in spots:
        values[top:bottom, left:right] = value
    return values


def test_regions_come_by_their_peak_with_their_place_in_words_and_percent() -> None:
    found = find_regions(map_with((0, 0, 10, 20, 2.0), (80, 180, 100, 200, 5.0), (50, 90, 60, 110, 0.5)), 1.0)
    assert [(region.number, region.place) for region in found] == [(1, "bottom right"), (2, "top left")]
    assert found[0].told() == {
        "number": 1,
        "place": "bottom right",
        "left_percent": 90,
        "top_percent": 80,
        "right_percent": 100,
        "bottom_percent": 100,
        "area_percent": 2.0,
        "map_peak": 5.0,
        "above_contour": True,
    }


def test_specks_are_left_out_but_not_where_they_hold_the_maximum() -> None:
    specks = [(row, 100, row + 1, 101, 1.5) for row in range(10, 90, 4)]
    found = find_regions(map_with((0, 0, 10, 20, 2.0), *specks), 1.0)
    assert [region.place for region in found] == ["top left"]
    found = find_regions(map_with((0, 0, 10, 20, 2.0), (50, 100, 51, 101, 9.0)), 1.0)
    assert [region.place for region in found] == ["centre", "top left"]


def test_at_most_so_many_regions_are_returned() -> None:
    spots = [(10, left, 20, left + 10, 2.0) for left in range(0, 200, 20)]
    assert len(find_regions(map_with(*spots), 1.0)) == 6


@pytest.mark.parametrize("value", [0.4, float("nan")])
def test_without_an_area_above_the_contour_the_maximum_is_boxed_where_one_is_wanted(value: float) -> None:
    values = map_with((99, 199, 100, 200, 0.5))
    values[0, 0] = value
    assert find_regions(values, 1.0) == []
    (region,) = find_regions(values, 1.0, at_least_one=True)
    assert (region.place, region.is_above) == ("bottom right", False)
    assert region.box[2:] == (1.0, 1.0)


def test_a_map_of_nothing_but_nan_has_no_regions() -> None:
    assert find_regions(np.full((9, 9), np.nan), 0.0, at_least_one=True) == []


def test_boxes_surround_the_regions_and_leave_the_picture_itself_alone() -> None:
    (region,) = find_regions(map_with((40, 80, 60, 120, 2.0)), 1.0)
    picture = Image.new("RGB", (400, 200), (90, 90, 90))
    drawn = np.asarray(draw_boxes(picture, [region]))
    changed = np.argwhere((drawn != 90).any(axis=2))
    assert (picture.getextrema()) == ((90, 90),) * 3
    assert (drawn[85:115, 165:235] == 90).all(), "the region itself stays to be seen"
    assert changed.min(axis=0).tolist() >= [50, 150]
    assert changed.max(axis=0)[1] < 250


def test_a_region_is_enlarged_beside_the_same_place_of_a_reference_of_another_size() -> None:
    (region,) = find_regions(map_with((0, 0, 20, 40, 2.0)), 1.0)
    image = Image.new("RGB", (400, 200), "red")
    reference = Image.new("RGB", (100, 50), "blue")
    pair = beside_reference(image, reference, region, 448)
    alone = beside_reference(image, None, region, 448)
    assert pair.width == 2 * alone.width + 8
    assert alone.width > 2 * 40 * 2
    assert pair.getpixel((0, 0)) == (255, 0, 0)
    assert pair.getpixel((pair.width - 1, 0)) == (0, 0, 255)
    assert max(beside_reference(Image.new("RGB", (9000, 4000)), None, region, 448).size) == 448


def known(file: Path, brightness: int) -> KnownImage:
    Image.new("RGB", (40, 30), (brightness,) * 3).save(file)
    return KnownImage(file, sha256(file.read_bytes()).hexdigest())


def test_the_nearest_images_are_those_that_look_alike_and_are_still_what_they_were(tmp_path: Path) -> None:
    images = [known(tmp_path / f"{value}.png", value) for value in (10, 100, 120, 250, 110)]
    picture = Image.new("RGB", (80, 60), (111,) * 3)
    known(tmp_path / "110.png", 0)
    found = nearest(picture, images, 2)
    assert [position for position, _ in found] == [2, 1]
    assert found[0][1] == pytest.approx(9 / 255, abs=1e-4)
    with pytest.raises(UnreadableImageError, match="another image lies in its place"):
        read_picture(images[4])
