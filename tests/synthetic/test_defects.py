"""Laws of the drawn defects, on real photographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from vad_lib.errors import InputError
from vad_lib.synthetic import DEFECT_KINDS, draw_defect

PICTURES = {"brick": data.brick()[:200, :160], "coffee": data.coffee()[60:180, 100:300]}

kinds = st.sampled_from(DEFECT_KINDS)
seeds = st.integers(0, 2**32 - 1)
pictures = st.sampled_from(sorted(PICTURES))


@pytest.mark.spec("P1.06", "P1.12")
@settings(deadline=None, max_examples=60)
@given(picture=pictures, kind=kinds, seed=seeds)
def test_a_defect_changes_pixels_inside_its_mask_and_none_outside(picture: str, kind: str, seed: int) -> None:
    image = PICTURES[picture]
    before = image.copy()
    drawn = draw_defect(image, kind, seed)
    assert np.array_equal(image, before), "the given picture is not touched"
    changed = (drawn.image != image).reshape(*image.shape[:2], -1).any(axis=2)
    assert changed.any()
    assert not (changed & ~drawn.mask).any()


@pytest.mark.spec("P1.12")
@settings(deadline=None, max_examples=60)
@given(picture=pictures, kind=kinds, seed=seeds)
def test_the_manifest_row_describes_the_mask_and_draws_the_same_defect_again(
    picture: str, kind: str, seed: int
) -> None:
    image = PICTURES[picture]
    drawn = draw_defect(image, kind, np.random.default_rng(seed))
    row = drawn.row
    ys, xs = np.nonzero(drawn.mask)
    assert (row.kind, row.area) == (kind, drawn.mask.sum())
    assert (row.x, row.y, row.x + row.width - 1, row.y + row.height - 1) == (xs.min(), ys.min(), xs.max(), ys.max())
    assert 0 < row.contrast + row.change <= 2
    again = draw_defect(image, kind, row.seed)
    assert np.array_equal(again.image, drawn.image)
    assert again.row == row


@pytest.mark.spec("P1.08")
@settings(deadline=None, max_examples=40)
@given(kind=kinds, seed=seeds)
def test_no_colour_leaves_the_range_of_the_picture(kind: str, seed: int) -> None:
    image = PICTURES["coffee"]
    painted = draw_defect(image, kind, seed).image
    assert (painted >= image.min(axis=(0, 1))).all()
    assert (painted <= image.max(axis=(0, 1))).all()


@pytest.mark.spec("P1.08")
@settings(deadline=None, max_examples=20)
@given(kind=st.sampled_from(["box", "circle"]), seed=seeds)
def test_an_opaque_defect_has_a_colour_of_the_picture_itself(kind: str, seed: int) -> None:
    image = PICTURES["coffee"]
    drawn = draw_defect(image, kind, seed, size=(0.4, 0.5), opacity=(1.0, 1.0))
    # smooth edges blend with what lies beneath, the many pixels between them do not
    values, counts = np.unique(drawn.image[drawn.mask], axis=0, return_counts=True)
    assert tuple(values[counts.argmax()].tolist()) in {tuple(c) for c in image.reshape(-1, 3).tolist()}


@pytest.mark.spec("P1.07")
def test_place_and_size_vary_from_seed_to_seed() -> None:
    image = PICTURES["brick"]
    for kind in DEFECT_KINDS:
        rows = [draw_defect(image, kind, seed).row for seed in range(30)]
        assert len({(row.x, row.y) for row in rows}) > 25
        assert len({row.area for row in rows}) > 15


@pytest.mark.spec("P5.05")
def test_low_opacity_makes_defects_that_are_harder_to_see() -> None:
    image = PICTURES["brick"]

    def strength(opacity: tuple[float, float]) -> float:
        drawn = [draw_defect(image, kind, s, opacity=opacity) for kind in DEFECT_KINDS for s in range(10)]
        return float(np.mean([d.row.change for d in drawn]))

    assert strength((0.1, 0.2)) < 0.6 * strength((0.8, 1.0))


@pytest.mark.parametrize(
    ("image", "kind", "options", "words"),
    [
        (np.zeros((64, 64), np.float32), "box", {}, "uint8"),
        (np.zeros((64, 64, 4), np.uint8), "box", {}, r"\(H, W, 3\)"),
        (np.zeros((8, 64), np.uint8), "box", {}, "too small"),
        (np.zeros((64, 64), np.uint8), "scratch", {}, "box, line, letters"),
        (np.zeros((64, 64), np.uint8), "box", {"size": (0.5, 0.2)}, "size"),
        (np.zeros((64, 64), np.uint8), "box", {"opacity": (0.0, 0.5)}, "opacity"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(
    image: np.ndarray, kind: str, options: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        draw_defect(image, kind, 0, **options)


def test_a_picture_of_one_single_colour_gets_its_mask_even_where_no_other_colour_exists() -> None:
    drawn = draw_defect(np.full((40, 40), 128, np.uint8), "circle", 3)
    assert drawn.mask.any()
    assert drawn.row.change == 0
