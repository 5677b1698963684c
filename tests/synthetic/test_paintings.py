"""The set of paintings: the counts of the protocol, masks that tell the truth, and the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vad_lib.errors import InputError
from vad_lib.synthetic.paintings import (
    ANOMALY,
    NORMAL,
    PaintingSet,
    as_a_camera_sees_it,
    make_paintings,
    read_photographs,
)

SIDE = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PaintingSet:
    return make_paintings(tmp_path_factory.mktemp("paintings"), read_photographs(None), train=6, side=SIDE)


@pytest.mark.spec("P1.02", "P1.03", "P1.04", "P1.09", "P1.11")
def test_each_painting_has_normals_to_learn_from_and_sixteen_normal_and_thirty_four_anomalous_ones_to_test(
    made: PaintingSet,
) -> None:
    for _, rows in made.manifest.groupby("painting"):
        counts = rows.groupby(["split", "group"]).size().to_dict()
        assert counts == {
            ("train", "normal"): 6,
            ("test", "normal"): 16,
            ("test", "shape"): 20,
            ("test", "whole"): 8,
            ("test", "reinterpretation"): 6,
        }


@pytest.mark.spec("P1.10", "P2.05")
def test_the_folder_says_the_label_and_one_label_holds_the_other_s_word(made: PaintingSet) -> None:
    assert ANOMALY in NORMAL
    test = made.manifest[made.manifest["split"] == "test"]
    for file, label, painting in zip(test["file"], test["label"], test["painting"], strict=True):
        assert Path(file).parts[:3] == ("test", label, painting)
        assert (made.folder / file).is_file()


@pytest.mark.spec("P1.06", "P1.12")
def test_a_mask_covers_what_was_changed_and_little_else(made: PaintingSet) -> None:
    shapes = made.manifest[made.manifest["group"] == "shape"]
    strong = shapes[shapes["opacity"] > 0.5]
    for painting, rows in strong.groupby("painting"):
        normal = made.manifest[(made.manifest["painting"] == painting) & (made.manifest["kind"] == "normal")]
        usual = np.mean([_pixels(made.folder / file) for file in normal["file"]], axis=0)
        inside, outside = [], []
        for file, mask in zip(rows["file"], rows["mask"], strict=True):
            change = np.abs(_pixels(made.folder / file) - usual).mean(axis=2)
            covered = np.asarray(Image.open(made.folder / mask)) > 127
            inside.append(change[covered].mean())
            outside.append(change[~covered].mean())
        assert np.mean(inside) > 2 * np.mean(outside)


@pytest.mark.spec("P1.07", "P1.12")
def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    photographs = read_photographs(None)
    first, again, other = (
        make_paintings(tmp_path / name, photographs, seed, train=1, side=SIDE).folder
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    files = [file.relative_to(first) for file in sorted(first.rglob("*")) if file.is_file()]
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    changed = [file for file in files if (other / file).is_file() and file.suffix == ".png"]
    assert not any((first / file).read_bytes() == (other / file).read_bytes() for file in changed)


def test_a_camera_held_by_hand_changes_more_than_one_on_a_tripod() -> None:
    picture = read_photographs(None)["astronaut"][:SIDE, :SIDE]

    def change(strength: float) -> float:
        shots = [as_a_camera_sees_it(picture, np.random.default_rng(seed), strength) for seed in range(8)]
        return float(np.mean([np.abs(shot.astype(float) - picture).mean() for shot in shots]))

    assert change(2.0) > change(1.0) > 0


def test_one_photograph_is_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    Image.new("RGB", (80, 80)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="holds 1 pictures"):
        read_photographs(tmp_path)


def _pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file), dtype=float)
