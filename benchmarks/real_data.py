"""Where the benchmarks find real images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``: the folder of the sets, ``VAD_TEST_DATA`` by default, else ``shared/data`` beside the clone."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("VAD_TEST_DATA") or BESIDE),
        help="folder of the sets mvtec_bottle and magnetic_tile, and of weights",
    )
