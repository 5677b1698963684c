"""Images of a demo line, cut from photographs that scikit-image carries: brick, grass and gravel.

The photograph is divided before it is cut: training images come from its left and right, validation images and drops
from the middle, so no pixel that is inspected was seen in training. Validation and drops show the same part: a
threshold that was learnt on one part of the photograph says nothing about another that looks different.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from vad_lib.errors import InputError
from vad_lib.synthetic.defects import DEFECT_KINDS, DefectKind, draw_defect

Texture = Literal["brick", "grass", "gravel"]
TEXTURES: tuple[Texture, ...] = get_args(Texture)

Pixels = npt.NDArray[np.uint8]
Region = tuple[slice, slice]
NORMAL = "good"
_CUT = 128
"""Side, in pixels of the photograph, of one image."""
# rows, columns of the 512 x 512 photographs
_TRAIN: tuple[Region, ...] = ((slice(0, 512), slice(0, 176)), (slice(0, 512), slice(336, 512)))
_UNSEEN: tuple[Region, ...] = ((slice(0, 512), slice(176, 336)),)


@dataclass(frozen=True)
class DemoLine:
    """What was written.

    Attributes:
        train_folder: holds ``train.csv`` (image_path, label, train_val_split), ``good/`` and a folder for each kind.
        masks_folder: one PNG for each defective image, named ``<stem>_mask.png``, under the name of its kind.
        manifest: one row for each defective image: file, mask, split, and the columns of ``DefectRow``.
    """

    train_folder: Path
    masks_folder: Path
    manifest: Path


def make_demo_line(
    folder: Path,
    seed: int = 0,
    *,
    texture: Texture = "brick",
    train_normal: int = 120,
    valid_normal: int = 30,
    valid_of_each_kind: int = 10,
    side: int = 256,
    kinds: Sequence[DefectKind] = DEFECT_KINDS,
) -> DemoLine:
    """Write normal images for training, normal and defective ones for validation, masks, the table and the manifest.

    The same arguments write the same files, byte for byte. Files that are already there are overwritten.

    Args:
        folder: is created; gets ``train/``, ``ground_truth/`` and ``manifest.csv``.
        seed: of the places, the lighting and the defects.
        texture: which photograph.
        train_normal: normal images marked ``train``.
        valid_normal: normal images marked ``valid``.
        valid_of_each_kind: defective images of each kind, all marked ``valid``.
        side: height and width of an image in pixels.
        kinds: which defects.
    """
    rng = np.random.default_rng([seed, 1])
    photo = _photograph(texture)
    train = folder / "train"
    rows = []
    for index in range(train_normal + valid_normal):
        split, regions = ("train", _TRAIN) if index < train_normal else ("valid", _UNSEEN)
        path = f"{NORMAL}/{texture}_{index:04d}.png"
        _write(train / path, _tile(photo, regions, side, rng))
        rows.append({"image_path": f"./{path}", "label": NORMAL, "train_val_split": split})
    manifest = []
    for kind in kinds:
        for index in range(valid_of_each_kind):
            path = f"{kind}/{texture}_{kind}_{index:03d}.png"
            manifest.append(_write_defective(folder, "train", path, kind, _tile(photo, _UNSEEN, side, rng), rng))
            rows.append({"image_path": f"./{path}", "label": kind, "train_val_split": "valid"})
    pd.DataFrame(rows).to_csv(train / "train.csv", index=False)
    pd.DataFrame(manifest).to_csv(folder / "manifest.csv", index=False)
    return DemoLine(train, folder / "ground_truth", folder / "manifest.csv")


def make_demo_drop(
    folder: Path,
    seed: int = 0,
    *,
    texture: Texture = "brick",
    normal: int = 12,
    defective: int = 8,
    broken: int = 1,
    side: int = 256,
    prefix: str = "",
) -> pd.DataFrame:
    """Write a set of images as a camera might drop them: normal and defective ones mixed, some of them broken.

    Returns:
        One row a file: file, label (good, the kind of defect, or ``broken``), mask (empty unless defective). The same
        table is written as ``<folder>.csv`` beside the folder, the masks under ``<folder>_masks``: a landing folder
        must hold nothing but images.
    """
    rng = np.random.default_rng([seed, 2])
    photo = _photograph(texture)
    labels = [NORMAL] * normal + [DEFECT_KINDS[i % len(DEFECT_KINDS)] for i in range(defective)] + ["broken"] * broken
    masks = folder.with_name(f"{folder.name}_masks")
    rows = []
    for index, place in enumerate(rng.permutation(len(labels))):
        label, file, mask = labels[place], folder / f"{prefix}{texture}_{index:04d}.png", ""
        tile = _tile(photo, _UNSEEN, side, rng)
        if label in DEFECT_KINDS:
            drawn = draw_defect(tile, label, rng)
            mask = str(masks / f"{file.stem}_mask.png")
            _write(Path(mask), drawn.mask.astype(np.uint8) * 255)
            tile = drawn.image
        _write(file, tile)
        if label == "broken":
            # as a camera that lost its connection leaves it: the first third of a file
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 3])
        rows.append({"file": str(file), "label": label, "mask": mask})
    table = pd.DataFrame(rows)
    table.to_csv(folder.with_name(f"{folder.name}.csv"), index=False)
    return table


def contact_sheet(files: Iterable[Path], *, columns: int = 8, side: int = 128) -> Image.Image:
    """Put images side by side, for a look at many at once. Unreadable ones stay grey."""
    files = list(files)
    sheet = Image.new("RGB", (columns * side, -(-len(files) // columns) * side), "grey")
    for index, file in enumerate(files):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((side - 2, side - 2))
        except OSError:
            continue
        sheet.paste(small, (index % columns * side, index // columns * side))
    return sheet


def _photograph(texture: str) -> Pixels:
    if texture not in TEXTURES:
        raise InputError(f"There is no photograph {texture!r}; there are {', '.join(TEXTURES)}.")
    from skimage import data

    photo: Pixels = getattr(data, texture)()
    return photo


def _tile(photo: Pixels, regions: Sequence[Region], side: int, rng: np.random.Generator) -> Pixels:
    """Cut one image from one of the regions, with slightly changing light and the noise of a sensor."""
    region = photo[regions[int(rng.integers(len(regions)))]]
    top, left = (int(rng.integers(length - _CUT + 1)) for length in region.shape)
    cut = cv2.resize(region[top : top + _CUT, left : left + _CUT], (side, side), interpolation=cv2.INTER_CUBIC)
    light, noise = rng.uniform(0.96, 1.04), rng.normal(0, 1.0, cut.shape)
    tile: Pixels = np.clip(np.rint(cut * light + noise), 0, 255).astype(np.uint8)
    return tile


def _write(file: Path, pixels: Pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _write_defective(
    folder: Path, split_folder: str, path: str, kind: DefectKind, tile: Pixels, rng: np.random.Generator
) -> dict[str, object]:
    drawn = draw_defect(tile, kind, rng)
    mask = f"ground_truth/{kind}/{Path(path).stem}_mask.png"
    _write(folder / split_folder / path, drawn.image)
    _write(folder / mask, drawn.mask.astype(np.uint8) * 255)
    return {"file": f"{split_folder}/{path}", "mask": mask, **asdict(drawn.row)}
