"""Pixels become the input of a detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from vad_lib.errors import ModelFormatError, PlanError, VadError
from vad_lib.preprocessing import Preprocessing, resolve_image_size


@pytest.mark.spec("V4.04", "V14.11")
@pytest.mark.parametrize(("size", "shape"), [((48, 80), (48, 80)), (64, (64, 85)), (300, (300, 400))])
def test_the_pair_is_height_and_width_and_one_number_is_the_shorter_side(
    size: int | tuple[int, int], shape: tuple[int, int]
) -> None:
    cat = data.cat()[:, :400]  # 300 high, 400 wide
    image = Preprocessing(size).prepare(cat)
    assert tuple(image.shape) == (3, *shape)
    assert image.dtype == torch.float32
    assert 0.0 <= float(image.min()) < float(image.max()) <= 1.0


def test_resizing_is_that_of_torchvision() -> None:
    from torchvision.transforms.v2 import Resize

    cat = data.cat()
    expected = Resize((96, 128), antialias=True)(torch.from_numpy(cat).permute(2, 0, 1).float() / 255)
    torch.testing.assert_close(Preprocessing((96, 128)).prepare(cat), expected)


@pytest.mark.spec("V9.03")
def test_grey_becomes_three_equal_channels() -> None:
    image = Preprocessing((64, 64)).prepare(data.brick())
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 512))
def test_the_shorter_side_is_exact_and_the_aspect_is_kept_to_half_a_pixel(height: int, width: int, side: int) -> None:
    new_height, new_width = Preprocessing(side).shape_for(height, width)
    assert min(new_height, new_width) == side
    exact = max(height, width) * side / min(height, width)
    assert abs(max(new_height, new_width) - exact) <= 0.5
    assert (new_height >= new_width) == (height >= width) or new_height == new_width


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_grey_keeps_every_level_of_the_bits_that_the_training_images_used(bits: int) -> None:
    levels = np.arange(2**bits, dtype=np.uint16).reshape(2 ** (bits // 2), -1)
    image = Preprocessing(levels.shape, grey_bits=bits).prepare(levels)
    assert len(torch.unique(image)) == 2**bits
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    brighter = Preprocessing((1, 2), grey_bits=12).prepare(np.array([[4095, 65535]], dtype=np.uint16))
    assert brighter.tolist() == [[[1.0, 1.0]]] * 3


def test_what_is_saved_is_read_back_and_anything_else_is_refused() -> None:
    for size in ((48, 80), 64):
        for bits in (12, 16):
            assert Preprocessing.from_json(Preprocessing(size, bits).to_json()) == Preprocessing(size, bits)
    for content in (
        {},
        {"image_size": [1]},
        {"image_size": "x"},
        {"image_size": [0, 3]},
        {"image_size": 8, "grey_bits": 40},
    ):
        with pytest.raises(ModelFormatError):
            Preprocessing.from_json(content)
    with pytest.raises(PlanError):
        Preprocessing((0, 5))


@pytest.mark.spec("V4.15", "V14.31")
def test_a_size_that_a_model_does_not_take_is_changed_and_recorded() -> None:
    size, changes = resolve_image_size((128, 512), (256, 256), "FastFlow takes 256 x 256")
    assert size == (256, 256)
    assert (changes[0].argument, changes[0].old, changes[0].new) == ("img_size", [128, 512], [256, 256])
    assert resolve_image_size((256, 256), (256, 256)) == ((256, 256), ())
    assert resolve_image_size(64, None) == (64, ())


def test_an_image_that_would_come_out_enormous_is_refused_before_it_takes_the_memory() -> None:
    thread = np.zeros((20, 1200), dtype=np.uint8)
    with pytest.raises(VadError, match="too long and thin"):
        Preprocessing(2048).prepare(thread)
    assert Preprocessing((64, 64)).prepare(thread).shape == (3, 64, 64)
