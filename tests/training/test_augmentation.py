"""Augmentation: what each argument does, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from vad_lib.augmentation import TRANSFORMS, Augmentation
from vad_lib.errors import PlanError
from vad_lib.plan.arguments import TrainArguments
from vad_lib.preprocessing import Preprocessing
from vad_lib.training import augmentation_of


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    return Preprocessing((60, 90)).prepare(data.cat())


def make(*names: str, choice: int = 1, seed: int = 3, **degrees: float) -> Augmentation:
    arguments = TrainArguments(
        augmentation_list=names,
        augmentation_choice=choice,
        experiment_seed=seed,
        **degrees,  # type: ignore[arg-type]
    )
    augmentation = augmentation_of(arguments)
    assert augmentation is not None
    return augmentation


@pytest.mark.spec("V14.19")
def test_an_empty_list_means_no_augmentation() -> None:
    assert augmentation_of(TrainArguments()) is None


@pytest.mark.spec("V14.19")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_changes_the_image_but_neither_shape_nor_range(cat: torch.Tensor, name: str) -> None:
    changed = make(name).apply(cat, index=0)
    assert changed.shape == cat.shape
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0
    assert float((changed - cat).abs().max()) > 0.01


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(1, 50), st.sampled_from(TRANSFORMS))
@settings(max_examples=25, deadline=None)
def test_what_is_drawn_depends_on_seed_epoch_and_position_alone(
    cat: torch.Tensor, seed: int, index: int, epoch: int, name: str
) -> None:
    augmentation = make(name, seed=seed)
    first = augmentation.apply(cat, index=index, epoch=epoch)
    torch.rand(3)
    assert torch.equal(augmentation.apply(cat, index=index, epoch=epoch), first)


def test_images_and_epochs_are_changed_differently(cat: torch.Tensor) -> None:
    augmentation = make("brightness")
    means = {float(augmentation.apply(cat, index=i, epoch=e).mean()) for i in range(4) for e in range(4)}
    assert len(means) == 16


@pytest.mark.spec("V14.20")
@pytest.mark.parametrize("choice", [0, 1, 2, 3])
def test_the_choice_is_how_many_transforms_an_image_gets(
    cat: torch.Tensor, choice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vad_lib.augmentation as module

    applied: list[str] = []
    for name in TRANSFORMS:
        monkeypatch.setitem(module._APPLY, name, lambda _s, image, _d, name=name: applied.append(name) or image)
    augmentation = make("rotation", "blur", "hue", "contrast", choice=choice)
    sets = []
    for index in range(30):
        applied.clear()
        augmentation.apply(cat, index=index)
        assert len(applied) == len(set(applied)) == choice
        sets.append(frozenset(applied))
    if choice:
        assert len(set(sets)) > 1


@pytest.mark.spec("V14.20")
def test_a_choice_beyond_the_list_is_capped_with_a_notice() -> None:
    augmentation = make("blur", "rotation", choice=5)
    assert augmentation.choice == 2
    assert "augmentation_choice is 5, but there are 2 transforms" in augmentation.notices[0]


@pytest.mark.spec("V14.21")
def test_the_rotation_stays_within_the_angle_and_brings_no_black_corners() -> None:
    """A stripe through the middle tells the angle; a white picture would show black corners."""
    for angle in (5.0, 40.0):
        augmentation = make("rotation", rotation_angle=angle)
        stripe = torch.zeros(3, 101, 101)
        stripe[:, 49:52] = 1.0
        found = []
        for index in range(25):
            turned = augmentation.apply(stripe, index=index)[0].numpy()
            rows = [float(np.average(np.arange(101), weights=turned[:, column] + 1e-9)) for column in (40, 60)]
            found.append(np.degrees(np.arctan2(rows[0] - rows[1], 20)))
        assert max(np.abs(found)) <= angle + 1.5
        assert max(np.abs(found)) > angle / 2
        assert min(found) < 0 < max(found)
    assert float(make("rotation", rotation_angle=180.0).apply(torch.ones(3, 40, 60), index=1).min()) > 0.99


@pytest.mark.spec("V14.22", "V14.23", "V14.24")
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_degree_is_the_reach_of_the_factor_and_zero_changes_nothing(cat: torch.Tensor, name: str) -> None:
    still = make(name, **{f"{name}_degree": 0.0})
    torch.testing.assert_close(still.apply(cat, index=1), cat, atol=1e-6, rtol=0)

    def reach(degree: float) -> float:
        augmentation = make(name, **{f"{name}_degree": degree})
        return max(float((augmentation.apply(cat, index=i) - cat).abs().mean()) for i in range(12))

    assert reach(0.1) < reach(0.6)


@pytest.mark.spec("V14.22")
def test_brightness_is_multiplied_by_one_minus_d_to_one_plus_d() -> None:
    grey = torch.full((3, 8, 8), 0.4)
    augmentation = make("brightness", brightness_degree=0.5)
    factors = [float(augmentation.apply(grey, index=i)[0, 0, 0]) / 0.4 for i in range(60)]
    assert 0.5 <= min(factors) < 0.65
    assert 1.35 < max(factors) <= 1.5


@pytest.mark.spec("V14.25")
def test_hue_beyond_half_the_circle_is_refused() -> None:
    arguments = TrainArguments(augmentation_list=("hue",)).model_copy(update={"hue_degree": 0.7})
    with pytest.raises(PlanError, match=r"hue_degree is 0\.7"):
        augmentation_of(arguments)


@pytest.mark.spec("V14.26")
def test_blur_kernels_are_odd_and_at_most_as_large_as_asked(cat: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms.v2 import functional

    sizes: list[int] = []
    monkeypatch.setattr(functional, "gaussian_blur", lambda image, kernel: sizes.append(kernel[0]) or image)
    augmentation = make("blur", blur_kernel_size=8)
    for index in range(40):
        augmentation.apply(cat, index=index)
    assert set(sizes) == {3, 5, 7}


@pytest.mark.spec("V14.26")
@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_blur_below_three_pixels_is_none_with_a_notice(cat: torch.Tensor, size: int) -> None:
    augmentation = make("blur", blur_kernel_size=size)
    assert not augmentation.changes_images
    assert torch.equal(augmentation.apply(cat, index=0), cat)
    assert f"blur_kernel_size is {size}" in augmentation.notices[0]


@pytest.mark.spec("V14.28")
def test_colour_transforms_of_grey_images_are_left_out_with_a_notice() -> None:
    arguments = TrainArguments(augmentation_list=("saturation", "hue", "blur"), augmentation_choice=1)
    augmentation = augmentation_of(arguments, grey=True)
    assert augmentation is not None
    assert augmentation.transforms == ("blur",)
    assert "grey: saturation and hue would have no effect" in augmentation.notices[0]
