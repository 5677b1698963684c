"""One door to all detectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.backbones.weights import BackboneWeights, resolve_backbone_weights
from vad_lib.detectors.storage import read_model_folder
from vad_lib.errors import ModelFormatError, PlanError

if TYPE_CHECKING:
    import torch

    from vad_lib.detectors.base import Detector
    from vad_lib.plan.arguments import TrainArguments

DETECTORS = ("fastflow", "patchcore")
FASTFLOW_SIZES = {"cait_m48_448": (448, 448), "deit_base_distilled_patch16_384": (384, 384)}
"""(height, width) that these backbones are built for; FastFlow takes 256 x 256 with all others."""


def backbone_name(train: TrainArguments) -> str:
    """Return the name or path of the backbone that the plan's detector uses."""
    parameters = train.model_parameters
    return parameters.fastflow_backbone if train.model_name == "fastflow" else parameters.patchcore_backbone


def fixed_input_size(train: TrainArguments) -> tuple[tuple[int, int] | None, str]:
    """Return the (height, width) that the plan's detector insists on, or None, and why."""
    if train.model_name != "fastflow":
        return None, ""
    backbone = backbone_name(train)
    if backbone in FASTFLOW_SIZES:
        size = FASTFLOW_SIZES[backbone]
        return size, f"FastFlow with {backbone} is built for {size[0]} x {size[1]} pixels"
    return (256, 256), "FastFlow takes images of 256 x 256 pixels"


def create_detector(
    train: TrainArguments,
    *,
    weights_store: Path | None = None,
    work_folder: Path | None = None,
    cache_folder: Path | None = None,
) -> Detector:
    """Make the unfitted detector that a plan asks for.

    Args:
        train: the plan's train arguments.
        weights_store: where backbone weights lie; the home's by default.
        work_folder: where a fit may keep what it has done, to go on after a kill; nowhere by default.
        cache_folder: of features that earlier fits extracted (``feature_cache``); none by default.

    Raises:
        PlanError: an unknown detector or layer, or a GPU that is not there.
        WeightsMissingError: the backbone's weights are not on this machine.
        ModelFormatError: the weight file is damaged or lacks what is needed.
    """
    if train.model_name not in DETECTORS:
        raise PlanError(f"model_name is {train.model_name!r}; it can be {' or '.join(DETECTORS)}.")
    weights = resolve_backbone_weights(backbone_name(train), weights_store)
    parameters = train.model_parameters
    cache = None
    if cache_folder is not None and train.feature_cache:
        from vad_lib.detectors.feature_cache import FeatureCache

        cache = FeatureCache.from_environment(cache_folder)
    if train.model_name == "patchcore":
        from vad_lib.detectors.patchcore.detector import PatchCore

        return PatchCore(
            weights,
            parameters.patchcore_layers,
            parameters.patchcore_coreset_sampling_ratio,
            train.experiment_seed,
            train.batch_size,
            train.accelerator,
            memory_bank=parameters.patchcore_memory_bank,
            memory_budget_gib=parameters.patchcore_memory_budget_gib,
            bank_cap_rows=parameters.patchcore_bank_cap_rows,
            work_folder=work_folder,
            feature_cache=cache,
        )
    from vad_lib.detectors.fastflow.detector import FastFlow

    size, _ = fixed_input_size(train)
    return FastFlow(
        weights,
        flow_steps=parameters.fastflow_flow_steps,
        input_size=size or (256, 256),
        max_epochs=train.max_epochs,
        batch_size=train.batch_size,
        monitor_metric=train.monitor_metric,
        seed=train.experiment_seed,
        accelerator=train.accelerator,
        feature_cache=cache,
    )


def detector_from_description(
    description: dict[str, Any], tensors: dict[str, torch.Tensor], *, accelerator: str = "cpu"
) -> Detector:
    """Make a fitted detector from what ``describe`` and ``state_dict`` returned.

    Raises:
        ModelFormatError: they do not fit together, or are of an unknown detector.
    """
    try:
        name = description["name"]
        weights = BackboneWeights.from_json(description["backbone"])
        arguments = dict(description["arguments"])
    except (KeyError, TypeError) as error:
        raise ModelFormatError(f"The description of the detector is incomplete: {error!r}.") from error
    if name == "patchcore":
        from vad_lib.detectors.patchcore.detector import PatchCore

        patchcore = PatchCore(weights, accelerator=accelerator, **arguments).load_state_dict(tensors)
        patchcore.bank_record = dict(description.get("memory_bank", {}))
        return patchcore
    if name == "fastflow":
        from vad_lib.detectors.fastflow.detector import FastFlow

        arguments["input_size"] = tuple(arguments["input_size"])
        return FastFlow(weights, accelerator=accelerator, **arguments).load_state_dict(tensors)
    raise ModelFormatError(f"The model is of the detector {name!r}, which this version does not know.")


def load_detector(folder: Path, *, accelerator: str = "cpu") -> Detector:
    """Load what ``Detector.save`` wrote.

    Raises:
        ModelFormatError: see ``storage.read_model_folder``.
    """
    tensors, description = read_model_folder(folder)
    if "detector" not in description:
        raise ModelFormatError(f"{folder} holds no detector.")
    return detector_from_description(description["detector"], tensors, accelerator=accelerator)
