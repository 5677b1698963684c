"""Building a backbone that returns the features of chosen layers, with every weight it needs loaded."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import vision_transformer
from torch import nn

from vad_lib.encoders.fallback import LAYERS
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError, PlanError


class TokenBackbone(nn.Module):
    """A plain transformer: features of some of its blocks behind the final norm, each (N, C, rows, columns).

    Args:
        model: of timm, without its head.
        indices: of the blocks.
    """

    def __init__(self, model: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.indices = list(indices)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        model: Any = self.model
        return list(model.forward_intermediates(images, self.indices, norm=True, intermediates_only=True))


class ChannelsFirst(nn.Module):
    """A network that gives features (N, rows, columns, C), such as Swin, as one that gives (N, C, rows, columns)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [features.permute(0, 3, 1, 2) for features in self.network(images)]


def create_backbone(weights: BackboneWeights, layers: Sequence[str] | Sequence[int]) -> nn.Module:
    """Return a network that maps (N, 3, H, W) to a list of feature maps (N, C, h, w), shallowest first.

    Layers beyond the deepest one asked for are not built, so their weights need not be in the file; but for plain
    transformers, whose last norm every layer needs. Where ``weights`` has no file (a saved model brings its own
    tensors, or random weights are allowed), nothing is loaded. Images may have any size where the architecture allows
    it. For convolutional networks the result has timm's ``feature_info``.

    Args:
        weights: what ``resolve_backbone_weights`` found.
        layers: names of layers, such as ``layer2``, or their indices in timm's list.

    Raises:
        PlanError: the backbone has no such layer, or no layers at all; lists those it has.
        ModelFormatError: the file lacks weights that these layers need, or has them in other shapes.
    """
    indices = sorted(layer if isinstance(layer, int) else layer_index(weights, layer) for layer in layers)
    options = {**_any_size(weights.name), **weights.create_kwargs}
    if _is_plain_transformer(weights.name):
        _keep_exportable()
        model = timm.create_model(weights.name, pretrained=False, **{"num_classes": 0, **options})
        if weights.file is not None:
            load_weights(model, weights)
        return freeze(TokenBackbone(model, indices))
    network = timm.create_model(weights.name, pretrained=False, features_only=True, out_indices=indices, **options)
    if weights.file is not None:
        load_weights(network, weights)
    last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
    return freeze(ChannelsFirst(network) if last else network)


def layer_names(weights: BackboneWeights) -> list[str]:
    """Return the names of the layers whose features can be taken, shallowest first.

    Raises:
        PlanError: no features can be taken from this architecture.
    """
    return [*_layer_names(weights.name, json.dumps(weights.create_kwargs, sort_keys=True))]


@functools.cache
def _layer_names(name: str, create_kwargs: str) -> tuple[str, ...]:
    try:
        with torch.device("meta"):  # names only: no memory, no random numbers
            network = timm.create_model(name, pretrained=False, features_only=True, **json.loads(create_kwargs))
    except Exception as error:  # each architecture refuses in its own way
        raise PlanError(f"No features of layers can be taken from the backbone {name}: {error}") from error
    return tuple(str(info["module"]) for info in network.feature_info.info)


@functools.cache
def _is_plain_transformer(name: str) -> bool:
    """Tell whether all blocks of an architecture have one resolution and tokens beside those of the image."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return all(hasattr(model, part) for part in ("forward_intermediates", "blocks", "num_prefix_tokens"))


@functools.cache
def _any_size(name: str) -> dict[str, Any]:
    """Return the argument that lets a transformer take images of any size, where its architecture has it."""
    option = {"dynamic_img_size": True}
    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, **option)
    except (TypeError, ValueError):
        return {}
    return option


@functools.cache
def _keep_exportable() -> None:
    """Have timm stretch position embeddings without antialiasing, as anomalib does: ONNX has no such operation."""
    vision_transformer.resample_abs_pos_embed = functools.partial(resample_abs_pos_embed, antialias=False)


def fitting_layers(weights: BackboneWeights, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers to take: the plan's, but for those of a sidecar, and of a fallback that lacks the plan's."""
    if weights.layers:
        return weights.layers
    if weights.is_fallback and not set(layers) <= set(layer_names(weights)):
        return LAYERS
    return tuple(layers)


def layer_index(weights: BackboneWeights, layer: str) -> int:
    """Return the index of a layer in timm's list.

    Raises:
        PlanError: the backbone has no such layer; lists those it has.
    """
    names = layer_names(weights)
    if layer not in names:
        raise PlanError(
            f"The plan names the layer {layer!r}, but the layers of {weights.name} are {', '.join(names)} "
            "(shallowest first)."
        )
    return names.index(layer)


def load_weights(network: nn.Module, weights: BackboneWeights) -> None:
    """Load the file's tensors; what the network has no place for is left out, what it needs must be there.

    Raises:
        ModelFormatError: see ``create_backbone``.
    """
    # timm flattens stages of a feature network (stages_0 for stages.0), so keys are compared without their dots; and
    # it puts some architectures into a model of their own, which a file of weights knows nothing of.
    tensors = weights.load_state_dict()
    if weights.in_order:
        tensors = dict(zip(_names_of_all_weights(weights.name), tensors.values(), strict=False))
    source = {key.replace(".", "_"): value for key, value in tensors.items()}
    wanted = network.state_dict()
    flat = {key: key.removeprefix("model.").replace(".", "_") for key in wanted}
    found = {key: source[flat[key]] for key in wanted if flat[key] in source}
    missing = sorted(key for key in wanted if key not in found and not key.endswith("num_batches_tracked"))
    if missing:
        raise ModelFormatError(
            f"{weights.file} lacks {len(missing)} of {len(wanted)} weights that {weights.name} needs for these layers, "
            f"such as {missing[0]}. Use a shallower layer, or put a complete file in its place."
        )
    wrong = [key for key, value in found.items() if value.shape != wanted[key].shape]
    if wrong:
        raise ModelFormatError(
            f"{weights.file} is not for {weights.name}: {wrong[0]} has shape {tuple(found[wrong[0]].shape)}, "
            f"wanted is {tuple(wanted[wrong[0]].shape)}."
        )
    network.load_state_dict(found, strict=False)


def _names_of_all_weights(name: str) -> list[str]:
    with torch.device("meta"):
        return list(timm.create_model(name, pretrained=False).state_dict())


def freeze(network: nn.Module) -> nn.Module:
    """Switch off training behaviour and gradients."""
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


class Normalise(nn.Module):
    """Subtracts the mean of the weights' training images and divides by their deviation; (N, 3, H, W) in 0..1."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: BackboneWeights) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(weights.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(weights.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std
