"""The arguments of PatchCore in a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from vad_lib.argument_fields import argument, words_of
from vad_lib.detectors.registry import DetectorArguments, whole_patches
from vad_lib.encoders.store import SUFFIXES, find_in_store
from vad_lib.errors import PlanError
from vad_lib.lines import Home
from vad_lib.preprocessing import ImageSize

RESNET = re.compile(r"(wide_)?resne[x]?t\d+(d|_2|_32x4d|_32x8d)?(\.\w+)?")
Preset = Literal["patchcore", "dinov2"]
DINOV2 = "vit_small_patch14_dinov2"
LAST_BLOCK = {"large": 23, "giant": 39}
"""Of DINOv2's networks, by a word of the name; of the smaller ones it is block 11."""
LAYERS_OF_RESNET = ("act1", "layer1", "layer2", "layer3", "layer4")
"""Known without timm, whose import takes seconds; a test holds the two equal."""


class PatchCoreArguments(DetectorArguments):
    """What a plan says about PatchCore under ``model_parameters``."""

    patchcore_backbone: str = argument(
        "wide_resnet50_2",
        "Network whose features PatchCore stores: any timm model that has the layers.",
        aliases=("patchcore_backborn",),
        min_length=1,
        allowed="the name of a timm model",
    )
    patchcore_coreset_sampling_ratio: float = argument(
        0.1, "Share of the patch features that PatchCore keeps.", gt=0, le=1
    )
    patchcore_memory_bank: Literal["auto", "exact", "streaming"] = argument(
        "auto",
        "How PatchCore chooses what it keeps: exact looks at all patches at once; streaming reads the images in one "
        "pass, in a memory that does not grow with their number, and comes close; auto is exact where that fits.",
        kind="own",
    )
    patchcore_memory_budget_gib: float = argument(
        0.0,
        "Memory in GiB that the choice may take beside the process itself; 0 takes half of the machine's.",
        kind="own",
        ge=0,
    )
    patchcore_bank_cap_rows: int = argument(
        100_000,
        "Most patches that PatchCore keeps, whatever the coreset ratio gives: scoring takes as long as they are many.",
        kind="own",
        ge=1,
    )
    patchcore_layers: tuple[str, ...] = argument(
        ("layer2", "layer3"),
        "Layers of the backbone that PatchCore reads.",
        min_length=1,
        allowed="a list of layer names of the backbone, such as [layer2, layer3]",
    )

    patchcore_preset: Preset = argument(
        "patchcore",
        "How PatchCore compares patches: patchcore as in its paper; dinov2 as in AnomalyDINO, by the cosine, with the "
        f"score as the mean of an image's strangest hundredth. With dinov2 the backbone is {DINOV2} and the layer its "
        "last block where the plan keeps the defaults of both, and img_size becomes a multiple of the patch.",
        kind="own",
    )

    def backbone(self) -> str:
        """Return the name or path of the backbone."""
        return DINOV2 if self._keeps_default("patchcore_backbone") else self.patchcore_backbone

    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers that are read."""
        if not self._keeps_default("patchcore_layers"):
            return self.patchcore_layers
        last = next((block for word, block in LAST_BLOCK.items() if word in self.backbone()), 11)
        return (f"blocks.{last}",)

    def size_for(self, asked: ImageSize) -> tuple[ImageSize, str]:
        """Return the sides in whole patches of the transformer, and why."""
        return whole_patches(asked, self.backbone()) if self.patchcore_preset == "dinov2" else (asked, "")

    def _keeps_default(self, name: str) -> bool:
        return self.patchcore_preset == "dinov2" and getattr(self, name) == type(self).model_fields[name].default

    @classmethod
    def recommended(cls, *, has_images: bool) -> dict[str, Any]:
        """Return the backbone that is always here, and its layers, where the default's weights are not."""
        from vad_lib.encoders.fallback import LAYERS, NAME, fallback_backbone

        default = cls.model_fields["patchcore_backbone"].default
        if find_in_store(default, Home.from_environment().weights_folder) or fallback_backbone() is None:
            return {}
        return {"patchcore_backbone": NAME, "patchcore_layers": LAYERS}

    def require_usable(self) -> None:
        """Refuse layers that the named backbone does not have. A weight file's own name says too little.

        Raises:
            PlanError: it has no such layer; lists those it has.
        """
        name = self.backbone()
        if "/" in name or Path(name).suffix in SUFFIXES:
            return
        if RESNET.fullmatch(name):
            names: Sequence[str] = LAYERS_OF_RESNET
        else:
            from vad_lib.encoders.build import layer_names
            from vad_lib.encoders.weight_file import BackboneWeights

            names = layer_names(BackboneWeights(name, None, "none", ""))
        if missing := [layer for layer in self.layers() if layer not in names]:
            raise PlanError(
                f"patchcore_layers names {', '.join(missing)}, but the layers of {name} are {', '.join(names)} "
                "(shallowest first)."
            )

    @field_validator("patchcore_layers", mode="before")
    @classmethod
    def _one_layer_or_a_list(cls, value: Any) -> Any:
        return words_of(value)

    @field_validator("patchcore_layers")
    @classmethod
    def _each_layer_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a layer twice")
        return value
