"""The architecture of the backbone that ships with the package, as a timm model named ``vadnet10``.

A resnet10 without its fourth stage and without a classifier, behind a fixed levelling of light: the layers that
patch-based detectors ask for, with the names, widths and strides of ``resnet18`` (layer1 64 channels at stride 4,
layer2 128 at 8, layer3 256 at 16). Importing this module registers the name, so ``timm.create_model("vadnet10",
features_only=True, out_indices=(2, 3))`` works afterwards. Inputs are RGB normalised by ImageNet's mean and standard
deviation, so that code written for ImageNet backbones needs no change.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model
from timm.models._registry import generate_default_cfgs
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F


class LevelLight(nn.Module):
    """Takes slow changes of light out of an image and gives the image as it came beside that; has no weights.

    Light multiplies, so this works on the logarithm: its local mean (over about 24 pixels) is subtracted, and the rest
    is divided by its local deviation plus a constant well above that of faint grain, so that grain is not blown up.
    Under one lamp a surface keeps its features from the bright side to the dark one, and from a bright picture to a
    dark one. What that hides, such as the tint of a part as a whole, is still in the image as it came.

    Args:
        cell: pixels of the cells that means are taken over, before a 3 x 3 average of cells.
        floor: added to the deviation of the logarithm.
        dark: added to values in 0..1 before the logarithm, about the noise of a dark place.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cell: int = 8, floor: float = 0.2, dark: float = 0.04) -> None:
        super().__init__()
        self.cell, self.floor, self.dark = cell, floor, dark
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), persistent=False)

    def _local(self, maps: Tensor) -> Tensor:
        cells = F.avg_pool2d(maps, self.cell, ceil_mode=True, count_include_pad=False)
        cells = F.avg_pool2d(cells, 3, 1, 1, count_include_pad=False)
        return F.interpolate(cells, maps.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        """Levelled images and those as they came (N, 6, H, W), for images (N, 3, H, W) normalised as ImageNet's."""
        light = torch.log((images * self.std + self.mean).clamp(min=0) + self.dark)
        light = light - self._local(light)
        deviation = self._local(light.square()).mean(1, keepdim=True).clamp(min=1e-8).sqrt()
        return torch.cat([light / (deviation + self.floor), images], 1)


def _stage(width_in: int, width: int, stride: int, depth: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or width_in != width:
        shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    first = BasicBlock(width_in, width, stride, downsample=shortcut)
    return nn.Sequential(first, *[BasicBlock(width, width) for _ in range(depth - 1)])


class VadNet(nn.Module):
    """Stem and three stages of basic residual blocks.

    Args:
        widths: channels of the three stages; the stem has those of the first.
        depths: blocks of the three stages.
        in_chans: channels of the input, always 3.
        num_classes: accepted because timm passes it; there is no classifier.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (64, 128, 256),
        depths: tuple[int, int, int] = (1, 1, 1),
        in_chans: int = 3,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.widths = widths
        self.num_classes = 0
        self.num_features = widths[2]
        self.level = LevelLight()
        self.conv1 = nn.Conv2d(2 * in_chans, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(widths[0], widths[0], 1, depths[0])
        self.layer2 = _stage(widths[0], widths[1], 2, depths[1])
        self.layer3 = _stage(widths[1], widths[2], 2, depths[2])
        self.feature_info = [
            {"num_chs": widths[0], "reduction": 2, "module": "act1"},
            {"num_chs": widths[0], "reduction": 4, "module": "layer1"},
            {"num_chs": widths[1], "reduction": 8, "module": "layer2"},
            {"num_chs": widths[2], "reduction": 16, "module": "layer3"},
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def layers(self, images: Tensor) -> list[Tensor]:
        """Features of layer1, layer2 and layer3, (N, C, H / stride, W / stride) each, for images (N, 3, H, W)."""
        first = self.layer1(self.maxpool(self.act1(self.bn1(self.conv1(self.level(images))))))
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def forward_features(self, images: Tensor) -> Tensor:
        """Features (N, C, H / 16, W / 16) of the last stage for images (N, 3, H, W)."""
        return self.layers(images)[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Same as :meth:`forward_features`."""
        return self.forward_features(images)


default_cfgs = generate_default_cfgs(
    {
        "vadnet10.drawn": {
            "url": "",
            "input_size": (3, 224, 224),
            "pool_size": None,
            "num_classes": 0,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": None,
            "license": "apache-2.0",
        }
    }
)


@register_model
def vadnet10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """resnet10 to its third stage, behind :class:`LevelLight`. Weights: :mod:`vad_lib.encoders.shipped`."""
    return build_model_with_cfg(VadNet, "vadnet10", pretrained, feature_cfg={"out_indices": (0, 1, 2, 3)}, **kwargs)
