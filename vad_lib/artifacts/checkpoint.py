"""The guide's ``{model_name}_model.ckpt``: the model folder in one file that torch reads without unpickling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vad_lib.errors import ModelFormatError

_ADDED_ON_WRITING = ("format_version", "tensors_sha256", "contents_sha256")


def write_checkpoint(model_folder: Path, file: Path) -> dict[str, Any]:
    """Write the checkpoint of a model folder and return the folder's description.

    The file is a dictionary of 'state_dict' (tensors by name) and 'description' (JSON text), and loads with
    ``torch.load(file, weights_only=True)``.

    Raises:
        ModelFormatError: the folder is incomplete or damaged.
    """
    import json

    import torch

    from vad_lib.detectors.storage import read_model_folder

    tensors, description = read_model_folder(model_folder)
    torch.save({"state_dict": tensors, "description": json.dumps(description)}, file)
    return description


def restore_model_folder(checkpoint: Path, model_folder: Path) -> None:
    """Write the model folder that a checkpoint was made from, so that ``InspectionModel.load`` reads it.

    Raises:
        ModelFormatError: the file is damaged, holds anything but tensors and text, or is of another version.
    """
    import json

    import torch

    from vad_lib.detectors.storage import verify_description, write_model_folder

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        tensors, description = content["state_dict"], json.loads(content["description"])
    except Exception as error:  # torch raises many kinds
        raise ModelFormatError(f"{checkpoint} is not a checkpoint of ours or is damaged ({error}).") from error
    verify_description(description, str(checkpoint))
    kept = {key: value for key, value in description.items() if key not in _ADDED_ON_WRITING}
    write_model_folder(model_folder, tensors, kept)
