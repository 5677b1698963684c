"""Sets of images that detectors are compared on. What is learnt from shares no image with what is reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vad_lib.detectors.masked_images import MaskedImage
from vad_lib.errors import InputError
from vad_lib.images.paths import is_image_name
from vad_lib.synthetic.demo_line import NORMAL, DemoLine
from vad_lib.synthetic.paintings import PaintingSet

HELD_OUT_EVERY = 5
"""Every fifth normal image is not fitted on: the threshold is learnt from its score."""


@dataclass(frozen=True)
class ImageSet:
    """One set.

    Attributes:
        name: for people.
        fit: normal images to fit on.
        held_out: normal images from whose scores the threshold is learnt.
        test: a row for each image that is reported on: ``file``, ``kind`` ('good' and the like for a normal one),
            ``is_anomalous``, ``mask`` (a file or empty), ``contrast`` and ``area`` (0..1 or NaN).
    """

    name: str
    fit: tuple[Path, ...]
    held_out: tuple[Path, ...]
    test: pd.DataFrame

    def described(self) -> str:
        """Say in one line how many images there are."""
        anomalous = int(self.test["is_anomalous"].sum())
        return (
            f"{self.name}: {len(self.fit)} normal images to fit on, {len(self.held_out)} for the threshold, "
            f"{len(self.test) - anomalous} normal and {anomalous} anomalous ones to report on"
        )


def folder_set(folder: Path, most_normal: int = 0, most_of_each_kind: int = 0) -> ImageSet:
    """Return a set with the folders of MVTec AD: ``train/good``, ``test/KIND``, ``ground_truth/KIND/STEM_mask.png``.

    Args:
        folder: of the set.
        most_normal: images to learn from, spread evenly over those that there are; all where it is 0.
        most_of_each_kind: images of each kind to report on, in the same way.

    Raises:
        InputError: there is no such folder.
    """
    if not (folder / "train" / NORMAL).is_dir() or not (folder / "test").is_dir():
        raise InputError(f"{folder} is no image set: it needs the folders train/{NORMAL} and test.")
    rows = []
    for kind in sorted(kind for kind in (folder / "test").iterdir() if kind.is_dir()):
        for file in _spread(_images(kind), most_of_each_kind):
            mask = folder / "ground_truth" / kind.name / f"{file.stem}_mask.png"
            rows.append((file, kind.name, kind.name != NORMAL, str(mask) if mask.is_file() else ""))
    train = _spread(_images(folder / "train" / NORMAL), most_normal)
    return _split(folder.name.replace("_", " "), train, _table(rows))


def masked_images(folder: Path, most_of_each_kind: int = 0) -> list[MaskedImage]:
    """Return what prompts can be learnt from in a folder as ``folder_set`` takes it: damaged images with a mask, and
    as many normal ones, spread evenly over those that there are.

    Raises:
        InputError: there is no such folder, or no damaged image in it has a mask.
    """
    images = folder_set(folder, 0, most_of_each_kind)
    pairs = zip(images.test["file"], images.test["mask"], strict=True)
    damaged = [MaskedImage(Path(file), Path(mask)) for file, mask in pairs if mask]
    if not damaged:
        raise InputError(f"{folder} holds no masks: prompts are learnt from damaged images with ground_truth/KIND.")
    normal = [*images.fit, *images.held_out, *map(Path, images.test.loc[~images.test["is_anomalous"], "file"])]
    return [*damaged, *map(MaskedImage, _spread(sorted(normal), len(damaged)))]


def drawn_set(line: DemoLine, most_normal: int = 0, most_of_each_kind: int = 0) -> ImageSet:
    """Return the drawn line: fitted on its training rows, reported on its validation rows; bounds as ``folder_set``."""
    table = pd.read_csv(line.train_folder / "train.csv")
    files = table["image_path"].map(lambda path: line.train_folder / path)
    rows = []
    for label in table["label"].drop_duplicates():
        of_kind = (table["label"] == label) & (table["train_val_split"] == "valid")
        for file in _spread(list(files[of_kind]), most_of_each_kind):
            mask = line.masks_folder / label / f"{file.stem}_mask.png"
            rows.append((file, label, label != NORMAL, str(mask) if mask.is_file() else ""))
    train = _spread(list(files[table["train_val_split"] == "train"]), most_normal)
    return _split("drawn line", train, _table(rows))


def painting_sets(paintings: PaintingSet) -> Iterator[ImageSet]:
    """Give a set for each painting."""
    for name, rows in paintings.manifest.groupby("painting", sort=False):
        train = [paintings.folder / path for path in rows.loc[rows["split"] == "train", "file"]]
        test = rows[rows["split"] == "test"].reset_index(drop=True)
        table = test.assign(
            file=[str(paintings.folder / path) for path in test["file"]],
            mask=[str(paintings.folder / mask) if mask else "" for mask in test["mask"]],
            is_anomalous=test["group"] != "normal",
        )
        yield _split(str(name).replace("_", " "), train, table)


def _split(name: str, train: list[Path], test: pd.DataFrame) -> ImageSet:
    held_out = tuple(train[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    kept = set(held_out)
    return ImageSet(name, tuple(file for file in train if file not in kept), held_out, test)


def _table(rows: list[tuple[Path, str, bool, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["file", "kind", "is_anomalous", "mask"])
    return table.assign(file=table["file"].astype(str), contrast=float("nan"), area=float("nan"))


def _spread(files: list[Path], most: int) -> list[Path]:
    if not most or len(files) <= most:
        return files
    return [files[index * len(files) // most] for index in range(most)]


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_image_name(file.name))
