"""Which of anomalib's image models can be trained here, what each needs, and why the others cannot.

``python -m tools.anomalib_page`` writes it into the README of this folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RESNET_LAYERS = ("layer1", "layer2", "layer3")


@dataclass(frozen=True)
class BuiltModel:
    """One of anomalib's models.

    Attributes:
        name: the module in ``anomalib.models.image``, and the plan's ``anomalib_model``.
        class_name: of the Lightning module.
        paper: where it is.
        backbone: timm's name of the network that the authors, or anomalib, took.
        backbone_argument: of the Lightning module; empty where it takes this backbone only.
        layers: that it reads by default; empty where a plan cannot choose them.
        square: whether it takes square images only.
        options: further arguments of the Lightning module.
        size_argument: of the Lightning module, that is told (height, width); none where empty.
        epochs_argument: of the Lightning module, that is told the number of epochs; none where empty.
        epochs: passes over the images, in words.
        gpu: whether one is wanted, in words.
        quick: whether its test is in the quick suite; else it is marked slow.
        exported: whether torch can trace the network, so that it can be exported and compiled.
    """

    name: str
    class_name: str
    paper: str
    backbone: str
    backbone_argument: str = "backbone"
    layers: tuple[str, ...] = ()
    square: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    size_argument: str = ""
    epochs_argument: str = ""
    epochs: str = "max_epochs"
    gpu: str = "advised"
    quick: bool = False
    exported: bool = True

    @property
    def is_transformer(self) -> bool:
        """Whether it needs a plain vision transformer, whose patches the sides of an image must be multiples of."""
        return self.backbone.startswith("vit_")


_DINOV2 = "vit_base_patch14_reg4_dinov2"
BUILT = {
    model.name: model
    for model in (
        BuiltModel(
            "dinomaly",
            "Dinomaly",
            "https://arxiv.org/abs/2405.14325",
            _DINOV2,
            "encoder_name",
            gpu="needed in practice",
            epochs="max_epochs; 5,000 steps of 16 images in the paper",
            quick=True,
        ),
        BuiltModel(
            "anomaly_dino",
            "AnomalyDINO",
            "https://arxiv.org/abs/2405.14529",
            "vit_small_patch14_dinov2",
            "encoder_name",
            epochs="1",
            gpu="no",
            quick=True,
        ),
        BuiltModel(
            "inp_former",
            "InpFormer",
            "https://arxiv.org/abs/2503.02424",
            _DINOV2,
            "encoder_name",
            square=True,
            gpu="needed in practice",
        ),
        BuiltModel(
            "general_ad",
            "GeneralAD",
            "https://arxiv.org/abs/2407.12427",
            "vit_base_patch14_dinov2",
            options={"layers": [12]},
            epochs_argument="epochs",
            epochs="max_epochs; 160 in anomalib",
            gpu="needed in practice",
        ),
        BuiltModel(
            "l2bt", "L2BT", "https://ieeexplore.ieee.org/document/11048772", _DINOV2, "", gpu="needed in practice"
        ),
        BuiltModel(
            "rad",
            "Rad",
            "https://arxiv.org/abs/2601.22763",
            "vit_base_patch16_dinov3",
            epochs="1",
            gpu="no",
            exported=False,
        ),
        BuiltModel(
            "padim",
            "Padim",
            "https://arxiv.org/abs/2011.08785",
            "resnet18",
            layers=RESNET_LAYERS,
            epochs="1",
            gpu="no",
            quick=True,
        ),
        BuiltModel("stfpm", "Stfpm", "https://arxiv.org/abs/2103.04257", "resnet18", layers=RESNET_LAYERS),
        BuiltModel(
            "reverse_distillation",
            "ReverseDistillation",
            "https://arxiv.org/abs/2201.10703",
            "wide_resnet50_2",
            options={"layers": RESNET_LAYERS},
        ),
        BuiltModel(
            "supersimplenet",
            "Supersimplenet",
            "https://arxiv.org/abs/2408.03143",
            "wide_resnet50_2.tv_in1k",
            layers=("layer2", "layer3"),
        ),
        BuiltModel(
            "cflow",
            "Cflow",
            "https://arxiv.org/abs/2107.12571",
            "wide_resnet50_2",
            layers=("layer2", "layer3", "layer4"),
            exported=False,
        ),
        BuiltModel(
            "glass",
            "Glass",
            "https://arxiv.org/abs/2407.09359",
            "wide_resnet50_2",
            layers=("layer2", "layer3"),
            size_argument="input_shape",
            gpu="needed in practice",
            exported=False,
        ),
        BuiltModel("dfm", "Dfm", "https://arxiv.org/abs/1909.11786", "resnet50", epochs="1", gpu="no", exported=False),
        BuiltModel(
            "mh_patchcore",
            "MHPatchcore",
            "https://arxiv.org/abs/2605.27748",
            "wide_resnet50_2.tv2_in1k",
            layers=("layer2", "layer3"),
            epochs="3",
            gpu="no",
            exported=False,
        ),
        BuiltModel("patchflow", "Patchflow", "https://arxiv.org/abs/2602.05238", "tf_efficientnet_b5"),
        BuiltModel("uflow", "Uflow", "https://arxiv.org/abs/2211.12353", "resnet18"),
    )
}
"""By name."""
NOT_BUILT = {
    "anomalyvfm": "downloads its own weights by an address in its code",
    "cfa": "takes its backbone from torchvision, which downloads the weights",
    "cfm": "needs clouds of points beside the images",
    "csflow": "takes its backbone from torchvision, which downloads the weights",
    "dfkde": "leaves its fit out without a word where there are few images, and makes no maps",
    "draem": "downloads a set of textures",
    "dsr": "downloads its own weights, as a pickle",
    "efficient_ad": "downloads its own teacher and a set of images",
    "fastflow": "is a detector of its own here: model_name: fastflow",
    "foundad": "takes its encoder by a name of its own, which timm does not know",
    "fre": "needs the number of its features in advance, which depends on backbone and image size",
    "ganomaly": "separates worse than chance in anomalib's own table (.421 on MVTec AD), and makes no maps",
    "patchcore": "is a detector of its own here: model_name: patchcore",
    "super_add": "cuts images into tiles of 448 pixels for a network of 840 million parameters",
    "uninet": "takes its backbone from torchvision, which downloads the weights",
    "vlm_ad": "asks a language model over the network",
    "winclip": "is a detector of its own here: model_name: winclip",
}
"""anomalib's other image models, and the reason why this detector does not train them."""


def models_markdown() -> str:
    """Return both tables: what can be trained, a row each, and what cannot, with the reason."""
    rows = [
        "| `anomalib_model` | paper | weights (by default) | layers | epochs | GPU | maps | export | tested |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in BUILT.values():
        weights = f"`{model.backbone}`" + ("" if model.backbone_argument else ", no other")
        layers = ", ".join(f"`{layer}`" for layer in model.layers) or "its own"
        tested = "in every run of the tests" if model.quick else "in the slow tests"
        rows.append(
            f"| `{model.name}` | [paper]({model.paper}) | {weights} | {layers} | {model.epochs} | {model.gpu} | yes "
            f"| {'yes' if model.exported else 'no'} | {tested} |"
        )
    rows += ["", "| not trained here | because it |", "|---|---|"]
    rows += [f"| `{name}` | {reason} |" for name, reason in NOT_BUILT.items()]
    return "\n".join(rows)
