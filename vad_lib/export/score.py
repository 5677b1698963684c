#!/usr/bin/env python3
"""Score images with the model in this folder. Needs Python 3.10 or newer, numpy, Pillow, and one runtime:

onnxruntime for model.onnx, or openvino for model.xml (detector.json names which).

    python score.py IMAGE_OR_FOLDER [...] [--csv] [--threshold 0.5] [--maps FOLDER] [--batch 1] [--threads N]

Prints one JSON line an image (or CSV with --csv), in the order given; folders are searched for image files:

    file        as given
    raw_score   larger is more anomalous
    p           calibrated score in 0..1: 0.5 exactly at the trained threshold
    label       NG where p >= --threshold, else OK
    error       why there is no score; the other images are not affected (exit code 1 at the end)

As a module: ``Model(folder).score([pixels, ...])`` with uint8 arrays (H, W) or (H, W, 3) RGB, or uint16 (H, W) of
16-bit grey. A batch larger than 1 needs memory for each image; a detector with a memory bank takes 4 bytes x patches x
rows of the bank.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
MAX_PIXELS, MAX_ASPECT, MAX_PREPARED_PIXELS, MAX_SCANS = 64_000_000, 64, 4096 * 4096, 50
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"),
)  # fmt: skip
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FLOAT32_MAX = float(np.finfo(np.float32).max)
COLUMNS = ("file", "raw_score", "p", "label", "error")


def decode(file: Path) -> np.ndarray:
    """Return uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W) of 16-bit grey, upright; transparent pixels are white."""
    data = file.read_bytes()
    kind = "WEBP" if data[:4] + data[8:12] == b"RIFFWEBP" else ""
    kind = kind or next((name for start, name in SIGNATURES if data.startswith(start)), "")
    if not kind:
        raise ValueError("no PNG, JPEG, BMP, TIFF or WebP image" if data else "empty file")
    if kind == "JPEG":
        check_jpeg(data)
    Image.MAX_IMAGE_PIXELS = None  # the limit below is our own
    with Image.open(file, formats=[kind, "MPO"] if kind == "JPEG" else [kind]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"too many pixels ({opened.width} x {opened.height})")
        if max(opened.size) > MAX_ASPECT * min(opened.size):
            raise ValueError(f"too long and thin ({opened.width} x {opened.height} pixels)")
        if kind in ("TIFF", "WEBP") and getattr(opened, "is_animated", False):
            raise ValueError("several pictures in one file")
        opened.seek(0)
        opened.load()
        image: Image.Image = opened
        try:
            if opened.getexif().get(0x0112, 1) not in (None, 1):
                image = ImageOps.exif_transpose(opened) or opened
        except Exception:
            image = opened  # a camera's broken EXIF block says nothing about the pixels
        if image.mode.startswith("I"):
            return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        target = "L" if image.mode in ("1", "L", "LA") else "RGB"
        if image.has_transparency_data:
            image = image.convert("LA" if target == "L" else "RGBA")
            if image.getchannel("A").getextrema()[0] != 255:
                white = Image.new(target, image.size, "white")
                white.paste(image.convert(target), mask=image.getchannel("A"))
                image = white
        return np.array(image.convert(target), dtype=np.uint8)


def check_jpeg(data: bytes) -> None:
    """Refuse what Pillow would decode without complaint, or for minutes.

    In picture data a byte 0xFF has 0x00 or a restart marker behind it, and one line end in 256 is 0x0D 0x0A by chance.
    """
    scan = b"\xff\xda"
    if data.rfind(b"\xff\xd9") < data.rfind(scan):
        raise ValueError("truncated (the JPEG's end is missing)")
    if data.count(scan) > MAX_SCANS:
        raise ValueError(f"too many scans (more than {MAX_SCANS}: decoding would take too long)")
    line_ends = data.count(b"\n", data.find(scan))
    if line_ends > 2 and line_ends == data.count(b"\r\n", data.find(scan)):
        raise ValueError("damaged (its line ends were changed, as FTP's ASCII mode does: send it in binary mode)")


def prepare(pixels: np.ndarray, image_size: int | Sequence[int], grey_bits: int = 16) -> np.ndarray:
    """Return float32 (3, H, W) in 0..1: stretched to (height, width), or the shorter side to one number.

    ``grey_bits`` are those that the training images used, where they were 16-bit grey. Pillow's bilinear filter on
    float images is the antialiased one that the model was trained with.
    """
    height, width = pixels.shape[:2]
    if isinstance(image_size, int):
        wide = height <= width
        rows = image_size if wide else max(1, round(height * image_size / width))
        columns = max(1, round(width * image_size / height)) if wide else image_size
    else:
        rows, columns = image_size
    if rows * columns > MAX_PREPARED_PIXELS:
        raise ValueError(f"too long and thin: {width} x {height} pixels become {columns} x {rows}")
    channels = [pixels] * 3 if pixels.ndim == 2 else [pixels[:, :, number] for number in range(3)]
    white = 2**grey_bits - 1 if pixels.dtype == np.uint16 else 255
    scaled = [np.minimum(channel, white).astype(np.float32) / np.float32(white) for channel in channels]
    if (rows, columns) != (height, width):
        scaled = [
            np.asarray(Image.fromarray(channel).resize((columns, rows), Image.Resampling.BILINEAR))
            for channel in scaled
        ]
    return np.clip(np.stack(scaled), 0, 1)


def calibrate(raw: np.ndarray, threshold: float, scale: float) -> np.ndarray:
    """Return p of float32 raw scores: 0.5 at the threshold, 0.25 and 0.75 one scale away, never two scores alike."""
    given = raw.astype(np.float64)
    rounded = np.clip(given, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
    z = (rounded.astype(np.float64) - threshold) / scale
    ranks = _rank(rounded) - _rank(np.array(threshold, np.float32))
    p = 0.5 + (0.5 - 2.0**-16) * (z / (1 + np.abs(z))) + 2.0**-50 * ranks
    p = np.where(given < threshold, np.minimum(p, np.nextafter(0.5, 0)), p)
    p = np.where(given > threshold, np.maximum(p, np.nextafter(0.5, 1)), p)
    return np.where(given == threshold, 0.5, p)


def _rank(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits + 2**31))


class Model:
    """The model of a folder: ``score`` for pixels, ``files`` for files.

    Args:
        folder: holds detector.json and the files that it names; their sha256 are checked.
        threads: of the runtime; its own choice by default.
    """

    def __init__(self, folder: Path = HERE, threads: int | None = None) -> None:
        self.facts: dict[str, Any] = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        for name, digest in self.facts["export"]["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{folder / name} is damaged or belongs to another model: copy the folder again")
        self.image_size = self.facts["preprocessing"]["image_size"]
        self.grey_bits = self.facts["preprocessing"]["grey_bits"]
        loaders = {"onnx": _load_onnx, "openvino": _load_openvino}
        self.run = loaders[self.facts["export"]["format"]](folder, threads)

    def score(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return raw scores and p, each (N,), and the anomaly maps, each float32 (H, W) at the model's size."""
        prepared = [prepare(pixels, self.image_size, self.grey_bits) for pixels in images]
        raw, maps = np.empty(len(images), np.float32), [np.empty(0, np.float32)] * len(images)
        for shape in {image.shape for image in prepared}:
            places = [place for place, image in enumerate(prepared) if image.shape == shape]
            scores, found = self.run(np.stack([prepared[place] for place in places]))
            for place, value, anomaly_map in zip(places, scores, found, strict=True):
                raw[place], maps[place] = value, anomaly_map
        calibration = self.facts["calibration"]
        return raw, calibrate(raw, calibration["threshold"], calibration["scale"]), maps

    def files(
        self, files: Sequence[Path], threshold: float = 0.5, batch: int = 1, maps: Path | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield one result a file, with the fields that the top of this file lists."""
        for start in range(0, len(files), batch):
            part, images, errors = files[start : start + batch], {}, {}
            for file in part:
                try:
                    images[file] = decode(file)
                except Exception as error:
                    errors[file] = str(error) or type(error).__name__
            results = self._scored(images, errors)
            for number, file in enumerate(part, start):
                if file in errors:
                    yield dict(zip(COLUMNS, (str(file), None, None, None, errors[file]), strict=True))
                    continue
                score, calibrated, anomaly_map = results[file]
                if maps is not None:
                    np.save(maps / f"{number:06d}_{file.name}.npy", anomaly_map, allow_pickle=False)
                label = "NG" if calibrated >= threshold else "OK"
                yield dict(zip(COLUMNS, (str(file), score, calibrated, label, None), strict=True))

    def _scored(
        self, images: dict[Path, np.ndarray], errors: dict[Path, str]
    ) -> dict[Path, tuple[float, float, np.ndarray]]:
        """Return raw score, p and map of each image; one that cannot be scored gets its reason and spoils no other."""
        try:
            raw, p, maps = self.score(list(images.values()))
        except Exception as error:
            if len(images) > 1:
                alone = [self._scored({file: pixels}, errors) for file, pixels in images.items()]
                return {file: result for found in alone for file, result in found.items()}
            errors.update(dict.fromkeys(images, f"cannot be scored: {str(error) or type(error).__name__}"))
            return {}
        return {file: (float(raw[k]), float(p[k]), maps[k]) for k, file in enumerate(images)}


def _load_onnx(folder: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["scores", "maps"], {"images": images})


def _load_openvino(folder: Path, threads: int | None) -> Any:
    # openvino reports its import to its maker unless this package is absent
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    # float32 arithmetic: some processors would take bfloat16 by themselves, too coarse for a decision
    settings = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
    return lambda images: list(compiled(images).values())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="image files, or folders of them")
    parser.add_argument("--list", type=Path, help="a text file with one image path a line")
    parser.add_argument("--csv", action="store_true", help="CSV instead of JSON lines")
    parser.add_argument("--threshold", type=float, default=0.5, help="on p; 0.5 is the trained threshold")
    parser.add_argument("--maps", type=Path, help="write anomaly maps here, <number>_<name>.npy, float32")
    parser.add_argument("--batch", type=int, default=1, help="images scored together")
    parser.add_argument("--threads", type=int, help="of the runtime")
    options = parser.parse_args()
    files: list[Path] = []
    for place in options.images:
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        files.extend(inside if place.is_dir() else [place])
    if options.list:
        files.extend(Path(line) for line in options.list.read_text(encoding="utf-8").splitlines() if line)
    if options.maps:
        options.maps.mkdir(parents=True, exist_ok=True)
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n") if options.csv else None
    if writer:
        writer.writeheader()
    failed = False
    for result in Model(threads=options.threads).files(files, options.threshold, max(1, options.batch), options.maps):
        failed |= result["error"] is not None
        if writer:
            writer.writerow(result)
        else:
            print(json.dumps(result, ensure_ascii=False), flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
