"""Drawing and training are repeatable: the same seed gives the same sheets, episodes and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tools.pretrain_backbone.drawing import FAMILIES, draw_sheet, draw_sheets
from tools.pretrain_backbone.episodes import Batches, Episodes
from tools.pretrain_backbone.objective import episodic_losses, log_distances, patch_embeddings
from tools.pretrain_backbone.train import parse, train


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_finite_fields_that_are_not_flat(family: str):
    for seed in range(4):
        field = FAMILIES[family](np.random.default_rng(seed), 64)
        assert field.shape == (64, 64)
        assert np.isfinite(field).all()
        assert field.std() > 0


def test_a_sheet_depends_on_its_number_and_the_seed_alone():
    assert np.array_equal(draw_sheets(3, 7, 112)[2], draw_sheet(2, 7, 112))
    assert not np.array_equal(draw_sheet(2, 7, 112), draw_sheet(2, 8, 112))


def test_a_batch_can_be_drawn_again_from_anywhere_in_the_sequence():
    sheets = draw_sheets(8, 0, 112)
    first = Batches(sheets, 64, 2, seed=3, start=0, stop=9)[5]
    again = Batches(sheets, 64, 2, seed=3, start=5, stop=9)[0]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.damage, again.damage)


def test_only_the_last_pictures_of_an_episode_are_damaged():
    sheets = draw_sheets(8, 0, 112)
    for number in range(4):
        drawn = Batches(sheets, 64, 3, seed=0, start=number, stop=9)[0]
        assert drawn.images.shape == (24, 3, 64, 64)
        assert 0 <= drawn.images.min() <= drawn.images.max() <= 1
        damage = drawn.damage.unflatten(0, (3, 8))
        assert not damage[:, :6].any()
        assert damage[:, 6:].amax((0, 2, 3)).min() > 0


def _pictures_with_a_spot(strength: float) -> Episodes:
    """Two episodes on flat ground; the damaged pictures have a spot of this strength in one cell of layer2."""
    noise = 0.01 * torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images, damage = 0.3 + noise, torch.zeros(16, 8, 8)
    images[8:] += 0.4
    for number in (6, 7, 14, 15):
        damage[number, 2, 5] = 1
        images[number, :, 16:24, 40:48] += strength
    return Episodes(images, damage, bank=4, episodes=2)


def test_a_spot_that_the_features_show_costs_less_than_one_that_they_do_not():
    def losses(strength: float) -> dict[str, torch.Tensor]:
        drawn = _pictures_with_a_spot(strength)
        return episodic_losses([torch.nn.functional.avg_pool2d(drawn.images, 8)], drawn, temperature=0.15)

    shown, hidden = losses(0.2), losses(0.0)
    assert shown["auroc"] == 1
    assert shown["patch"] < 0.1 * hidden["patch"]
    assert shown["image"] < 0.1 * hidden["image"]
    assert shown["sheet"] < 0.2


def test_distances_are_those_to_the_nearest_patch_of_the_own_bank():
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(2, 5, 4, generator=generator), torch.randn(2, 7, 4, generator=generator)
    expected = torch.cdist(queries, bank).amin(-1)
    assert torch.allclose(log_distances(queries, bank).exp(), expected, rtol=0.02)


def test_patches_are_joined_on_the_grid_of_the_first_layer():
    first, second = torch.rand(2, 4, 8, 8), torch.ones(2, 6, 4, 4)
    joined = patch_embeddings([first, second])
    assert joined.shape == (2, 10, 8, 8)
    assert torch.allclose(joined[:, 4:, 3, 3], torch.ones(2, 6))


def test_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path):
    small = {"sheets": 8, "sheet-size": 112, "size": 64, "episodes": 2, "steps": 4, "keep": 2, "report": 1}
    common = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    common += ["--processes", "1", "--cache", str(tmp_path)]
    train(parse([*common, "--out", str(tmp_path / "whole")]))
    train(parse([*common, "--stop", "2", "--out", str(tmp_path / "halves")]))
    assert not (tmp_path / "halves" / "vadnet10.safetensors").exists()
    train(parse([*common, "--out", str(tmp_path / "halves")]))
    whole, halves = (load_file(tmp_path / name / "vadnet10.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert len((tmp_path / "halves" / "log.csv").read_text().splitlines()) == 5
