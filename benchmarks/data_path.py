"""From files to scores: what decoding costs by each installed library, and what is gained by overlapping it.

1. Decoding of real PNG and JPEG files from memory, by Pillow (what the product uses, with all its checks and the
   sha256), by bare Pillow, OpenCV and torchvision: processor time an image and the largest difference of any pixel.
2. Images a second of read, decode, prepare and score: one after the other, and overlapped as training and inspection
   do it, with reading threads ahead of the network.

    python -m benchmarks.data_path --data FOLDER [--quick]
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.real_data import add_data_argument

Pixels = npt.NDArray[np.uint8]


def main() -> int:
    """Print both tables; status 1 where overlapping loses more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--quick", action="store_true", help="a dozen images")
    options = parser.parse_args()
    count = 12 if options.quick else 100
    for name, files in (
        ("mvtec_bottle", sorted((options.data / "mvtec_bottle" / "train" / "good").iterdir())[:count]),
        ("magnetic_tile", sorted((options.data / "magnetic_tile" / "train" / "good").iterdir())[:count]),
        ("paintings", sorted((options.data / "paintings").glob("*.jpg"))),
    ):
        decode_by_each(name, files)
    gain = overlap(sorted((options.data / "mvtec_bottle" / "test").glob("*/*"))[:count], options.data / "weights")
    return int(gain < 0.9)


def decode_by_each(name: str, files: list[Path]) -> None:
    """Print what each library takes, least of three rounds."""
    import cv2
    import torch
    import torchvision
    from PIL import Image

    from vad_lib.images.decoding import decode_bytes

    cv2.setNumThreads(1)

    def ours(data: bytes) -> Pixels:
        return decode_bytes(data, "image").pixels

    def pillow(data: bytes) -> Pixels:
        return np.asarray(Image.open(io.BytesIO(data)))

    def opencv(data: bytes) -> Pixels:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def by_torchvision(data: bytes) -> Pixels:
        pixels: Pixels = torchvision.io.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)

    content = [file.read_bytes() for file in files]
    wanted = [ours(data) for data in content]
    kind = "PNG" if content[0].startswith(b"\x89PNG") else "JPEG"
    print(f"{name}: {len(files)} {kind} files, the first of {wanted[0].shape}")
    readers: dict[str, Callable[[bytes], Pixels]] = {
        "the product (Pillow)": ours,
        "bare Pillow": pillow,
        "OpenCV": opencv,
        "torchvision": by_torchvision,
    }
    for reader, decode in readers.items():
        seconds = []
        for _ in range(3):
            began = time.thread_time()
            found = [decode(data) for data in content]
            seconds.append(time.thread_time() - began)
        pairs = zip(found, wanted, strict=True)
        difference = max(int(np.abs(one.astype(np.int16) - two.astype(np.int16)).max()) for one, two in pairs)
        print(f"  {reader:<22} {1000 * min(seconds) / len(files):7.2f} ms an image   largest difference {difference}")


def overlap(files: list[Path], store: Path) -> float:
    """Print images a second of both ways, the better of two rounds, and return their ratio."""
    import torch

    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.preprocessing import Preprocessing

    images = ImageDataset(files, Preprocessing((256, 256)), shapes=[(256, 256)] * len(files))
    detector = PatchCore(resolve_backbone_weights("resnet18", store), coreset_sampling_ratio=0.05)
    detector.fit(ImageDataset(files[:4], images.preprocessing, shapes=[(256, 256)] * 4))

    def in_turn() -> None:
        for number in range(len(images)):
            detector.score(images[number][None], with_maps=False)

    def overlapped() -> None:
        for batch in images.batches(8):
            detector.score(batch.images, with_maps=False)

    best: dict[str, float] = {}
    for _ in range(2):
        for name, way in (("one after the other", in_turn), ("overlapped", overlapped)):
            began = time.perf_counter()
            way()
            best[name] = max(best.get(name, 0.0), len(files) / (time.perf_counter() - began))
    print(f"read, decode, prepare and score, {torch.get_num_threads()} threads of torch, {os.cpu_count()} cores")
    for name, rate in best.items():
        print(f"  {name:<22} {rate:7.2f} images a second")
    gain = best["overlapped"] / best["one after the other"]
    print(f"  ratio {gain:.2f}")
    return gain


if __name__ == "__main__":
    raise SystemExit(main())
