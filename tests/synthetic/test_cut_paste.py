"""A piece that is moved: the same seed moves the same one, nothing changes far from it, and it is seen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from vad_lib.errors import InputError
from vad_lib.synthetic.cut_paste import Pixels, cut_paste


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return np.ascontiguousarray(data.astronaut()[::4, ::4])


@pytest.mark.parametrize("seed", range(8))
def test_a_piece_is_put_in_where_the_mask_says_and_the_seed_says_which(picture: Pixels, seed: int) -> None:
    before = picture.copy()
    made, mask = cut_paste(picture, seed)
    np.testing.assert_array_equal(picture, before)
    again, same = cut_paste(picture, seed)
    np.testing.assert_array_equal(again, made)
    np.testing.assert_array_equal(same, mask)
    assert np.abs(made[mask].astype(float) - picture[mask]).mean() / 255 >= 0.06
    near = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    np.testing.assert_array_equal(made[~near], picture[~near])
    rows, columns = np.nonzero(mask)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 0.30 * 128 + 1


def test_another_seed_moves_another_piece(picture: Pixels) -> None:
    assert not np.array_equal(cut_paste(picture, 1)[1], cut_paste(picture, 2)[1])


def test_the_smallest_and_a_plain_picture_get_a_mask_too_and_others_are_refused() -> None:
    for seed in range(10):
        made, mask = cut_paste(np.full((16, 16, 3), 90, np.uint8), seed)
        assert mask.any()
        assert made.shape == (16, 16, 3)
    for wrong in (np.zeros((16, 15, 3), np.uint8), np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3), np.float32)):
        with pytest.raises(InputError, match="16 pixels at least"):
            cut_paste(wrong, 0)
