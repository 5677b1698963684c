"""FastFlow's network: a frozen backbone, and flows over its features. anomalib's parts, any convolutional backbone.

The state has the same names as that of anomalib's ``FastflowModel``, which is used unchanged for the two transformers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from vad_lib.detectors.fastflow.plan_arguments import SIDE_OF_BACKBONE
from vad_lib.encoders.build import Normalise, create_backbone, freeze, load_weights
from vad_lib.encoders.precision import in_own_precision
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.quietness import quiet

STAGES = (1, 2, 3)
"""timm's indices of the features that flows are put on: strides 4, 8 and 16."""


class _Permutation(torch.autograd.Function):
    """Reorders channels; the gradient is reordered back."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(inverse)
        return values.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(1, inverse), None, None


class FlowNetwork(nn.Module):
    """Backbone, layer norms, flows and the map.

    Args:
        weights: the backbone's.
        input_size: (height, width), a multiple of 16.
        flow_steps: coupling blocks on each of the three features.

    Paper: Yu et al., "FastFlow", https://arxiv.org/abs/2111.07677
    """

    def __init__(self, weights: BackboneWeights, input_size: tuple[int, int], flow_steps: int) -> None:
        super().__init__()
        with quiet():  # they import what their own libraries call deprecated
            from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
            from anomalib.models.image.fastflow.torch_model import FastflowModel, create_fast_flow_block

        self.weights = weights
        self.normalise = Normalise(weights)
        self._transformer: Any = None
        if weights.name in SIDE_OF_BACKBONE:
            whole = FastflowModel(input_size, weights.name, pre_trained=False, flow_steps=flow_steps)
            if weights.file is not None:
                load_weights(whole.feature_extractor, weights)
            self.feature_extractor = freeze(whole.feature_extractor)
            self.norms = nn.ModuleList()
            self.fast_flow_blocks = whole.fast_flow_blocks
            # Only its two ways of taking features are used; in a list, its parameters are not registered twice.
            self._transformer = [whole]
        else:
            self.feature_extractor = create_backbone(weights, STAGES)
            info = cast(Any, self.feature_extractor.feature_info)
            shapes = [
                [channels, input_size[0] // stride, input_size[1] // stride]
                for channels, stride in zip(info.channels(), info.reduction(), strict=True)
            ]
            self.norms = nn.ModuleList(nn.LayerNorm(shape, elementwise_affine=True) for shape in shapes)
            self.fast_flow_blocks = nn.ModuleList(
                create_fast_flow_block(shape, conv3x3_only=False, hidden_ratio=1.0, flow_steps=flow_steps)
                for shape in shapes
            )
        self.map_maker = AnomalyMapGenerator(input_size=input_size)
        self.use_permutations()

    def use_permutations(self) -> None:
        """Reorder channels by index.

        The blocks multiply by a 0/1 permutation matrix, which is a fifth of all their arithmetic at 64 to 256 channels;
        the result is the same to the last bit. To be called again after the matrices were loaded.
        """
        for flow in self.fast_flow_blocks:
            for block in cast(Any, flow).module_list:
                order = block.w_perm.detach().flatten(1).argmax(1)
                block.permute_function = _reorder(order, order.argsort())

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the backbone's features of images (N, 3, H, W) in 0..1; frozen, so they can be kept.

        On the CPU one image at a time, so that an image's features do not depend on its neighbours.
        """
        self.feature_extractor.eval()
        size = 1 if images.device.type == "cpu" else len(images)
        parts = [self.features_together(part) for part in images.split(size)]
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    @in_own_precision
    def features_together(self, images: torch.Tensor) -> list[torch.Tensor]:
        """As ``features``, all images at once."""
        images = self.normalise(images)
        if self._transformer is None:
            return list(self.feature_extractor(images))
        whole = self._transformer[0]
        if hasattr(whole.feature_extractor, "dist_token"):
            return list(whole._get_vit_features(images))
        return list(whole._get_cait_features(images))

    @in_own_precision
    def flow(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the hidden variables and the log determinants (N,) for each feature."""
        if len(self.norms):
            features = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        results = [block(feature) for block, feature in zip(self.fast_flow_blocks, features, strict=True)]
        return [hidden for hidden, _ in results], [determinant for _, determinant in results]

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters that a fit changes."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class FlowGraph(nn.Module):
    """FastFlow, fitted, for torch's exporter: float32 (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W)."""

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, _ = self.network.flow(self.network.features_together(images))
        maps = self.network.map_maker(hidden)[:, 0]
        return maps.amax((1, 2)), maps


def _reorder(order: torch.Tensor, inverse: torch.Tensor) -> Any:
    def permute(values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        del matrix
        return cast(
            torch.Tensor,
            _Permutation.apply(values, order.to(values.device), inverse.to(values.device)),  # type: ignore[no-untyped-call]
        )

    return permute
