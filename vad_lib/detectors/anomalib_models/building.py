"""Making anomalib's modules with our weights: no network, no components around the model that we have ourselves."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import timm
from torch import nn

from vad_lib.detectors.anomalib_models.table import BuiltModel
from vad_lib.encoders.build import load_weights
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.quietness import quiet

_ONE_AT_A_TIME = threading.RLock()
"""Two threads that replace a function of timm would each restore what the other one had put there."""


@contextmanager
def weights_of_the_store(weights: BackboneWeights) -> Iterator[None]:
    """Give these weights to whatever asks timm for pretrained ones; without a file the network stays as it was drawn.

    anomalib's models ask for pretrained weights by name, which would look for them in the network.

    Raises:
        ModelFormatError: the file lacks weights that the network needs, or has them in other shapes.
    """

    def create_with_weights(model_name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        given = weights.create_kwargs if pretrained else {}
        network: nn.Module = create(model_name, pretrained=False, **{**options, **given})
        if pretrained and weights.file is not None:
            load_weights(network, weights)
        return network

    with _ONE_AT_A_TIME:
        create = timm.create_model
        with mock.patch.object(timm, "create_model", create_with_weights):
            yield


def build_module(
    model: BuiltModel, weights: BackboneWeights, layers: Sequence[str], size: tuple[int, int], epochs: int
) -> Any:
    """Return anomalib's Lightning module, unfitted.

    Args:
        model: which one.
        weights: of its backbone.
        layers: of the backbone; the model's own where empty.
        size: (height, width) of the images that it will see.
        epochs: that it will be trained; some plan their learning rate for them.

    Raises:
        ModelFormatError: see ``weights_of_the_store``.
    """
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    with quiet():  # they import what their own libraries call deprecated
        from anomalib.pre_processing import PreProcessor

        module_class = getattr(importlib.import_module(f"anomalib.models.image.{model.name}"), model.class_name)

    options = dict(model.options)
    if model.backbone_argument:
        options[model.backbone_argument] = weights.name
    if layers:
        options["layers"] = list(layers)
    if model.name == "padim":  # anomalib knows the number for two backbones; for others it must be told
        options["n_features"] = 550 if weights.name.startswith("wide_resnet50_2") else 100
    if model.size_argument:
        options[model.size_argument] = size
    if model.epochs_argument:
        options[model.epochs_argument] = epochs
    with weights_of_the_store(weights):
        module = module_class(
            **options,
            # some read from it how images are prepared
            pre_processor=PreProcessor(Compose([Resize(size), Normalize(weights.mean, weights.std)])),
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
    module.pre_processor = None  # for images come prepared
    return module
