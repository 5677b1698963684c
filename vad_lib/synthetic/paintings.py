"""A set of images of paintings: normal ones as a camera would take them again and again, and anomalous ones.

Two photographs are enough. What a camera changes from shot to shot is drawn (place, light, focus, noise, compression);
what is wrong with a painting is drawn too: shapes in the painting's own colours, the whole picture changed, and
reinterpretations as far as they can be made without a generative model. Everything is a function of the photographs and
the seed, and a manifest says what was done to each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from vad_lib.errors import InputError
from vad_lib.synthetic.defects import DEFECT_KINDS, DefectKind, DrawnDefect, draw_defect

Pixels = Any  # npt.NDArray[np.uint8]; OpenCV says of its results less than that
Mask = npt.NDArray[np.bool_]
Change = Callable[[Pixels, Pixels, np.random.Generator], Pixels]

NORMAL, ANOMALY = "non_anomaly", "anomaly"
"""The folders of the test images and their labels. One word holds the other: compare whole names."""
STRONG, WEAK = (0.55, 0.95), (0.15, 0.35)
"""Opacity of shapes that are easy and hard to see."""
_TRIES_FOR_DARK = 200


@dataclass(frozen=True)
class PaintingSet:
    """What was written.

    Attributes:
        folder: holds ``train/<painting>/``, ``test/anomaly/<painting>/``, ``test/non_anomaly/<painting>/``,
            ``ground_truth/<painting>/``, ``train.csv`` and ``manifest.csv``.
        manifest: one row for each image: ``file``, ``painting``, ``split`` ('train' or 'test'), ``label``, ``kind``,
            ``group`` ('normal', 'shape', 'whole' or 'reinterpretation'), ``mask`` (a file, or empty where the whole
            image is changed), ``area`` (share of the image), ``contrast`` and ``opacity`` (0..1, shapes only).
    """

    folder: Path
    manifest: pd.DataFrame


def read_photographs(folder: Path | None) -> dict[str, Pixels]:
    """Return the pictures of a folder by name; two photographs that scikit-image carries where there is no folder.

    Raises:
        InputError: the folder holds fewer than two pictures.
    """
    if folder is None:
        from skimage import data

        return {"astronaut": data.astronaut(), "coffee": data.coffee()}
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    if len(files) < 2:
        raise InputError(f"{folder} holds {len(files)} pictures (.jpg or .png); at least two paintings are needed.")
    return {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in files}


def make_paintings(
    folder: Path, photographs: Mapping[str, Pixels], seed: int = 0, *, train: int = 60, side: int = 256
) -> PaintingSet:
    """Write the set: for each painting ``train`` normal images to learn from, and 16 normal and 34 anomalous to test.

    Args:
        folder: is created; files that are there are overwritten.
        photographs: uint8 (H, W, 3) by name; at least two.
        seed: the same seed writes the same files.
        train: normal images of each painting to learn from; 50 to 100 is usual.
        side: height and width of each image in pixels; at least 64.

    Raises:
        InputError: fewer than two photographs.
    """
    if len(photographs) < 2:
        raise InputError("Two photographs of different paintings are needed: one lends its palette to the other.")
    names = list(photographs)
    small = {
        name: cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for name, picture in photographs.items()
    }
    rows: list[dict[str, object]] = []
    for number, name in enumerate(names):
        picture, other = small[name], small[names[(number + 1) % len(names)]]
        rng = np.random.default_rng([seed, number, 0])
        for index in range(train):
            path = f"train/{name}/{index:03d}.png"
            _write(folder / path, as_a_camera_sees_it(picture, rng))
            rows.append(_row(path, name, "train", "normal", "normal"))
        rng = np.random.default_rng([seed, number, 1])  # test images share no draw with those of training
        for index, (kind, group, changed) in enumerate(_test_images(picture, other, rng)):
            label = NORMAL if group == "normal" else ANOMALY
            stem = f"{index:03d}_{kind}"
            path, mask = f"test/{label}/{name}/{stem}.png", ""
            _write(folder / path, changed.image)
            if changed.mask is not None:
                mask = f"ground_truth/{name}/{stem}_mask.png"
                _write(folder / mask, changed.mask.astype(np.uint8) * 255)
            rows.append(_row(path, name, "test", kind, group, mask, changed))
    manifest = pd.DataFrame(rows)
    manifest.to_csv(folder / "manifest.csv", index=False)
    table = manifest[manifest["split"] == "train"][["file", "label"]].rename(columns={"file": "image_path"})
    table.to_csv(folder / "train.csv", index=False)
    return PaintingSet(folder, manifest)


def as_a_camera_sees_it(
    picture: Pixels, rng: np.random.Generator, strength: float = 1.0, mask: Mask | None = None
) -> Pixels:
    """Take the picture once more: place, perspective, light, focus, noise and compression change a little.

    Args:
        picture: uint8 (H, W, 3).
        rng: draws the change.
        strength: 1 for a camera on a tripod, 2 for one that is held by hand.
        mask: moved with the picture, in place.
    """
    side = len(picture)
    angle, zoom = strength * rng.uniform(-2, 2), 1 + strength * rng.uniform(0, 0.03)
    turn = np.vstack([cv2.getRotationMatrix2D((side / 2, side / 2), angle, zoom), [0, 0, 1]])
    turn[:2, 2] += strength * rng.uniform(-2, 2, 2) * side / 256
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    skew = cv2.getPerspectiveTransform(
        corners, corners + (strength * rng.uniform(-0.006, 0.006, (4, 2)) * side).astype(np.float32)
    )
    moved = cv2.warpPerspective(
        picture, skew @ turn, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    if mask is not None:
        mask[...] = cv2.warpPerspective(mask.astype(np.uint8), skew @ turn, (side, side), flags=cv2.INTER_NEAREST) > 0
    light = (moved / 255) ** (1 + strength * rng.uniform(-0.07, 0.07)) * (1 + strength * rng.uniform(-0.05, 0.05, 3))
    focus = cv2.GaussianBlur(light.astype(np.float32), (0, 0), 0.05 + strength * rng.uniform(0, 0.55))
    noise = rng.normal(0, strength * rng.uniform(0.003, 0.012), focus.shape)
    pixels = np.clip(np.rint((focus + noise) * 255), 0, 255).astype(np.uint8)
    packed: Any = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 96))])[1]
    unpacked: Any = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(unpacked[..., ::-1])


@dataclass(frozen=True)
class _Changed:
    image: Pixels
    mask: Mask | None = None
    contrast: float = float("nan")
    opacity: float = float("nan")


def _test_images(picture: Pixels, other: Pixels, rng: np.random.Generator) -> Iterator[tuple[str, str, _Changed]]:
    """Give kind, group and image of the 16 normal and 34 anomalous ones; each goes through the camera as well."""
    kind: str
    for index in range(16):
        moved = _move_highlight(picture, rng) if index % 4 == 3 else picture
        yield ("highlight" if index % 4 == 3 else "normal"), "normal", _Changed(as_a_camera_sees_it(moved, rng))
    for shape in DEFECT_KINDS:
        for opacity, least, dark in (
            (STRONG, 0.06, False),
            (STRONG, 0.06, False),
            (WEAK, 0.02, True),
            (WEAK, 0.02, False),
        ):
            drawn = _draw(picture, shape, rng, opacity, least, dark=dark and shape == "box")
            mask = drawn.mask.copy()
            image = as_a_camera_sees_it(drawn.image, rng, mask=mask)
            yield shape, "shape", _Changed(image, mask, drawn.row.contrast, drawn.row.opacity)
    for group, changes in (
        ("whole", (*WHOLE.items(), *WHOLE.items())),
        ("reinterpretation", REINTERPRETATIONS.items()),
    ):
        for kind, change in changes:
            yield kind, group, _Changed(as_a_camera_sees_it(change(picture, other, rng), rng))


def _draw(
    picture: Pixels,
    kind: DefectKind,
    rng: np.random.Generator,
    opacity: tuple[float, float],
    least: float,
    *,
    dark: bool,
) -> DrawnDefect:
    """Draw a shape; on a dark place where that is wanted, since such ones are missed most."""
    grey = cv2.blur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (15, 15))
    limit = np.quantile(grey, 0.25)
    for _ in range(_TRIES_FOR_DARK):
        drawn = draw_defect(picture, kind, rng, opacity=opacity, least_change=least)
        if not dark or grey[drawn.mask].mean() <= limit:
            break
    return drawn


def _move_highlight(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Move the brightest spot by up to 3 pixels of 256, as a lamp does: normal, though it looks like a change."""
    side = len(picture)
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), side / 128)
    y, x = np.unravel_index(int(grey.argmax()), grey.shape)
    return _pushed(picture, (float(x), float(y)), side / 20, rng.uniform(-3, 3, 2) * side / 256)


def _pushed(picture: Pixels, centre: tuple[float, float], reach: float, by: npt.NDArray[np.float64]) -> Pixels:
    """Push what lies around a place by (x, y) pixels, less with the distance from it."""
    ys, xs = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    share = np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * reach**2))
    return cv2.remap(
        picture,
        (xs - share * by[0]).astype(np.float32),
        (ys - share * by[1]).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )


def _blurred(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.5, 4) * len(picture) / 256)


def _inverted(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return 255 - picture


def _tilted(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    side = len(picture)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.choice([-1, 1]) * rng.uniform(8, 20), 1.0)
    return cv2.warpAffine(picture, turn, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _saturated(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.choice([0.0, 0.4, 1.8]), 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def _mirrored(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(picture[:, ::-1])


def _repainted(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Give the colours near one hue another hue."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hue = hsv[..., 0].astype(np.int64)
    chosen = int(hue[rng.integers(len(hue)), rng.integers(len(hue))])
    near = np.minimum((hue - chosen) % 180, (chosen - hue) % 180) < 15
    hsv[..., 0][near] = ((hue[near] + rng.integers(40, 140)) % 180).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _stylised(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return cv2.stylization(picture, sigma_s=40, sigma_r=0.4)


def _sketched(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return cv2.pencilSketch(picture, sigma_s=40, sigma_r=0.07, shade_factor=0.04)[1]


def _warped(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Push the upper middle, where a portrait has its face."""
    side = len(picture)
    centre = (side * rng.uniform(0.4, 0.6), side * rng.uniform(0.25, 0.5))
    angle = rng.uniform(0, 2 * np.pi)
    return _pushed(picture, centre, side / 10, np.array([np.cos(angle), np.sin(angle)]) * side / 14)


def _palette_of_other(picture: Pixels, other: Pixels, _: np.random.Generator) -> Pixels:
    """Give each channel of Lab the mean and deviation that it has in the other painting."""
    lab, wanted = (cv2.cvtColor(each, cv2.COLOR_RGB2LAB).astype(np.float64) for each in (picture, other))
    spread = wanted.std((0, 1)) / np.maximum(lab.std((0, 1)), 1)
    matched = (lab - lab.mean((0, 1))) * spread + wanted.mean((0, 1))
    return cv2.cvtColor(np.clip(matched, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


WHOLE: Mapping[str, Change] = {"blur": _blurred, "invert": _inverted, "tilt": _tilted, "saturation": _saturated}
REINTERPRETATIONS: Mapping[str, Change] = {
    "mirror": _mirrored,
    "repaint": _repainted,
    "style": _stylised,
    "sketch": _sketched,
    "face": _warped,
    "palette": _palette_of_other,
}


def _row(
    path: str, painting: str, split: str, kind: str, group: str, mask: str = "", changed: _Changed | None = None
) -> dict[str, object]:
    area = float(changed.mask.mean()) if changed is not None and changed.mask is not None else float("nan")
    return {
        "file": path,
        "painting": painting,
        "split": split,
        "label": NORMAL if group == "normal" else ANOMALY,
        "kind": kind,
        "group": group,
        "mask": mask,
        "area": area,
        "contrast": changed.contrast if changed is not None else float("nan"),
        "opacity": changed.opacity if changed is not None else float("nan"),
    }


def _write(file: Path, pixels: Pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
