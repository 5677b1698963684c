"""The image sets that backbones are compared on: read once, split once, cached as arrays of bytes.

Every set is cut in two by a fixed permutation: part ``A`` is for choosing (architecture, objective, stopping time),
part ``B`` shares no image with it, neither normal nor defective, and is for reporting once. Nothing in here is ever
trained on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 224
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True)
class BenchmarkSet:
    """Normal images to fit on and mixed images to score.

    Attributes:
        name: set and part, such as ``magnetic_tile/A``.
        train: uint8 (N, 224, 224, 3), normal only.
        test: uint8 (M, 224, 224, 3).
        is_anomalous: bool (M,).
        kinds: the kind of each test image, ``good`` for a normal one.
        masks: bool (M, 224, 224), or ``None`` where the set has none.
    """

    name: str
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    is_anomalous: NDArray[np.bool_]
    kinds: tuple[str, ...]
    masks: NDArray[np.bool_] | None


def data_folder() -> Path:
    """Folder of the evaluation sets: ``VAD_TEST_DATA``, else ``shared/data`` beside the repository."""
    given = os.environ.get("VAD_TEST_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"


def _read(file: Path, grey: bool = False) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    if pixels is None:
        raise FileNotFoundError(f"{file} cannot be read as an image.")
    interpolation = (
        cv2.INTER_NEAREST if grey else (cv2.INTER_AREA if min(pixels.shape[:2]) > SIZE else cv2.INTER_LINEAR)
    )
    pixels = cv2.resize(pixels, (SIZE, SIZE), interpolation=interpolation)
    return pixels if grey else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)


def _part(files: list[Path], part: str, share_a: float, most: int | None = None) -> list[Path]:
    """The files of part ``A`` (``share_a`` of them) or ``B`` (the rest) in a fixed shuffled order, at most ``most``."""
    order = np.random.default_rng(2026).permutation(len(files))
    cut = round(len(files) * share_a)
    chosen = order[:cut] if part == "A" else order[cut:]
    return [files[i] for i in chosen[:most]]


def _folder_set(
    name: str, part: str, share_train: float, share_test: float, most: tuple[int | None, int | None]
) -> BenchmarkSet:
    root = data_folder() / name
    train = [_read(file) for file in _part(_files(root / "train" / "good"), part, share_train, most[0])]
    test, masks, kinds = [], [], []
    has_masks = (root / "ground_truth").is_dir()
    for kind_folder in sorted((root / "test").iterdir()):
        for file in _part(_files(kind_folder), part, share_test, most[1]):
            test.append(_read(file))
            kinds.append(kind_folder.name)
            mask = root / "ground_truth" / kind_folder.name / f"{file.stem}_mask.png"
            masks.append(_read(mask, grey=True) > 127 if mask.exists() else np.zeros((SIZE, SIZE), bool))
    return BenchmarkSet(
        f"{name}/{part}",
        np.stack(train),
        np.stack(test),
        np.array([kind != "good" for kind in kinds]),
        tuple(kinds),
        np.stack(masks) if has_masks else None,
    )


def magnetic_tile(part: str, most: tuple[int | None, int | None] = (None, None)) -> BenchmarkSet:
    """Magnetic tile: part A 200 normal and 175 to score, part B 561 normal and the other 408."""
    return _folder_set("magnetic_tile", part, 200 / 761, 0.3, most)


def bottle(part: str, most: tuple[int | None, int | None] = (None, None)) -> BenchmarkSet:
    """Bottle: part A 63 normal and 25 to score, part B 146 normal and the other 58."""
    return _folder_set("mvtec_bottle", part, 0.3, 0.3, most)


def _damage(image: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One drawn defect: a scratch, a stain, a smear, or a piece of the same image pasted elsewhere."""
    height, width = image.shape[:2]
    y, x = rng.integers(30, height - 30), rng.integers(30, width - 30)
    mask = np.zeros((height, width), np.uint8)
    kind = rng.integers(4)
    if kind == 0:
        angle, length = rng.uniform(0, np.pi), rng.uniform(40, 100)
        end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
        cv2.line(mask, (int(x), int(y)), end, 255, int(rng.integers(2, 5)), cv2.LINE_AA)
    else:
        axes = (int(rng.integers(10, 28)), int(rng.integers(10, 28)))
        cv2.ellipse(mask, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    weight = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None].astype(np.float32) / 255
    pixels = image.astype(np.float32)
    if kind in (0, 1):
        other = pixels + rng.choice([-1, 1]) * rng.uniform(45, 90)
    elif kind == 2:
        other = cv2.GaussianBlur(pixels, (0, 0), 4.0)
    else:
        other = np.rot90(np.roll(pixels, tuple(rng.integers(40, 120, 2)), (0, 1)), 1).copy()
    damaged = pixels * (1 - weight) + other * weight
    return damaged.clip(0, 255).astype(np.uint8), weight[..., 0] > 0.5


def photographs(part: str) -> list[BenchmarkSet]:
    """Crops of scikit-image's texture photographs with drawn defects (brick, gravel in A; grass, ihc in B).

    Normals to fit on are from the left half, those to score from the right half.
    """
    from skimage import data

    sets = []
    for number, name in enumerate(("brick", "gravel") if part == "A" else ("grass", "immunohistochemistry")):
        rng = np.random.default_rng(10 * number + (part == "B"))
        photo = getattr(data, name)()
        photo = np.repeat(photo[..., None], 3, -1) if photo.ndim == 2 else photo
        half = photo.shape[1] // 2

        def crop(left: int, photo: NDArray[np.uint8] = photo, rng: np.random.Generator = rng, half: int = half):
            side = int(rng.integers(150, 200))
            y, x = rng.integers(0, photo.shape[0] - side), left + rng.integers(0, half - side)
            return cv2.resize(photo[y : y + side, x : x + side], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)

        train = np.stack([crop(0) for _ in range(100)])
        test = np.stack([crop(half) for _ in range(60)])
        masks = np.zeros(test.shape[:3], bool)
        for i in range(30):
            test[i], masks[i] = _damage(test[i], rng)
        bad = np.arange(60) < 30
        sets.append(
            BenchmarkSet(f"{name}/{part}", train, test, bad, tuple("drawn" if b else "good" for b in bad), masks)
        )
    return sets


def benchmark_sets(part: str, names: list[str] | None = None, quick: bool = False) -> Iterator[BenchmarkSet]:
    """The sets of a part, ``A`` for choosing or ``B`` for reporting, one after the other; all or those named.

    ``quick``: at most 200 normal images to fit on and 30 of each kind to score, and no photographs.
    """
    most = (200, 30) if quick else (None, None)
    for name, read in (("magnetic_tile", magnetic_tile), ("mvtec_bottle", bottle)):
        if names is None or name in names:
            yield read(part, most)
    if not quick and (names is None or "photographs" in names):
        yield from photographs(part)
