"""The backbone that ships with the package: the end of the search order, where it is the fallback for others.

``vadnet10`` was trained from nothing on images that a program draws (``tools/pretrain_backbone``), so its licence is
the package's own. What it costs against ImageNet weights was measured and lies beside the weights, in
``shipped/vadnet10.json``; :func:`measured_cost` says it in one sentence for reports, checks and tags.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError

FOLDER = Path(__file__).with_name("shipped")
NAME = "vadnet10"
LAYERS = ("layer2", "layer3")
"""What takes the place of the layers of a plan that this network does not have: a transformer's, or a deeper one's."""
TAG = "fallback_backbone"
"""The tag of a model version whose backbone is this one although the plan asked for another."""


@functools.cache
def shipped_facts() -> dict[str, Any]:
    """Return what is known of the shipped backbone: file, sha256, licence, how it was trained, what it measured."""
    facts: dict[str, Any] = json.loads((FOLDER / f"{NAME}.json").read_text(encoding="utf-8"))
    return facts


@functools.cache
def shipped_backbones() -> dict[str, BackboneWeights]:
    """Return the shipped backbones by name; the first one is the fallback for a backbone that cannot be had.

    Raises:
        ModelFormatError: the file in the package is not the one that its facts name.
    """
    file = FOLDER / f"{NAME}.safetensors"
    if not file.is_file():
        return {}
    digest, wanted = sha256_of(file), shipped_facts()["sha256"]
    if digest != wanted:
        raise ModelFormatError(
            f"{file} is not the file that belongs to this package: its sha256 is {digest}, {NAME}.json says {wanted}. "
            "Install the package again."
        )
    return {NAME: BackboneWeights(NAME, file, "shipped", digest, asked_for=NAME)}


def register_architectures() -> None:
    """Register the architectures of the shipped backbones with timm; called before any network is built."""
    from vad_lib.encoders import vadnet  # noqa: F401


def measured_cost() -> str:
    """Return one sentence: what the shipped backbone costs against ImageNet's weights of resnet18, as measured."""
    measured = ", ".join(
        f"{row['set'].replace('_', ' ')} {row['shipped']:.3f} instead of {row['imagenet']:.3f}"
        for row in shipped_facts()["measured"]
    )
    return f"Image AUROC with the same detector, against resnet18 trained on ImageNet: {measured}."
