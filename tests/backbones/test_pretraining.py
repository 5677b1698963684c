"""Drawing and training are repeatable: the same seed gives the same sheets, views and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tools.pretrain_backbone.drawing import FAMILIES, draw_sheet, draw_sheets
from tools.pretrain_backbone.train import parse, train
from tools.pretrain_backbone.views import Batches


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
    sheets = torch.from_numpy(draw_sheets(8, 0, 112))
    first = Batches(sheets, 64, 4, seed=3, start=0, stop=9)[5]
    again = Batches(sheets, 64, 4, seed=3, start=5, stop=9)[0]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.damage, again.damage)
    assert 0 <= first.images.min() <= first.images.max() <= 1
    assert first.ground.tolist() == [s for s in first.ground[::2].tolist() for _ in range(2)]


def test_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path):
    common = [
        "--cache",
        str(tmp_path),
        "--sheets",
        "8",
        "--sheet-size",
        "112",
        "--batch",
        "8",
        "--report",
        "1",
        "--processes",
        "1",
    ]
    train(parse([*common, "--steps", "4", "--keep", "2", "--out", str(tmp_path / "whole")]))
    train(parse([*common, "--steps", "4", "--keep", "2", "--stop", "2", "--out", str(tmp_path / "halves")]))
    assert not (tmp_path / "halves" / "vadnet10.safetensors").exists()
    train(parse([*common, "--steps", "4", "--keep", "2", "--out", str(tmp_path / "halves")]))
    whole, halves = (load_file(tmp_path / name / "vadnet10.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert len((tmp_path / "halves" / "log.csv").read_text().splitlines()) == 5
