"""The folder of a detector: ``model.safetensors`` and ``detector.json``. Nothing in it is pickled.

``detector.json`` holds the sha256 of the tensors and of its own contents, so a damaged, half-written or mixed-up folder
is told apart from a good one before anything is computed with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.encoders.store import sha256_of
from vad_lib.errors import ModelFormatError

if TYPE_CHECKING:
    import torch

TENSORS_FILE = "model.safetensors"
DESCRIPTION_FILE = "detector.json"
FORMAT_VERSION = 1
WHOLE = "contents_sha256"
"""The digest that stands for a whole model, its tensors included."""


def write_model_folder(folder: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write both files; the description last, so that a folder that has it is whole.

    Args:
        folder: made where absent; files of the same names are replaced.
        tensors: by name.
        description: plain JSON; ``format_version``, ``tensors_sha256`` and ``contents_sha256`` are added.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    partial = [folder / f".{name}.partial" for name in (TENSORS_FILE, DESCRIPTION_FILE)]
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial[0])
        text = description_text({**description, "tensors_sha256": sha256_of(partial[0])})
        partial[1].write_text(text, encoding="utf-8")
        os.replace(partial[0], folder / TENSORS_FILE)
        os.replace(partial[1], folder / DESCRIPTION_FILE)
    finally:
        for file in partial:
            file.unlink(missing_ok=True)


def read_model_folder(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read and verify both files.

    Raises:
        ModelFormatError: one is missing, damaged, from another model, or of a version that this one cannot read.
    """
    description = read_description(folder)
    tensors_file = folder / TENSORS_FILE
    if not tensors_file.is_file():
        raise ModelFormatError(f"{folder} has no {TENSORS_FILE}: the model is incomplete. Train or copy it again.")
    digest, wanted = sha256_of(tensors_file), description.get("tensors_sha256")
    if digest != wanted:
        raise ModelFormatError(
            f"{tensors_file} has the sha256 {digest}, but {DESCRIPTION_FILE} beside it says {wanted}: the file is "
            "damaged or belongs to another model. Copy the folder again."
        )
    from safetensors.torch import load_file

    try:
        return load_file(tensors_file), description
    except Exception as error:  # safetensors raises its own kind
        raise ModelFormatError(f"{tensors_file} cannot be read ({error}).") from error


def write_checkpoint(file: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write one file of tensors and text, whole or not at all."""
    import torch

    content = {
        "state_dict": {key: value.detach().cpu() for key, value in tensors.items()},
        "detector_json": description_text(description),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        torch.save(content, partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``write_checkpoint`` wrote; nothing but tensors and text is read from it.

    Raises:
        ModelFormatError: it is not such a file, or is damaged.
    """
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        tensors, description = content["state_dict"], json.loads(content["detector_json"])
    except Exception as error:  # damaged archives raise many kinds
        raise ModelFormatError(f"{file} is not a checkpoint of this software ({error}).") from error
    return tensors, verify_description(description, str(file))


def read_description(folder: Path) -> dict[str, Any]:
    """Read and verify ``detector.json`` alone.

    Raises:
        ModelFormatError: see ``read_model_folder``.
    """
    file = folder / DESCRIPTION_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{folder} has no {DESCRIPTION_FILE}: it is not the folder of a model.") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{file} cannot be read as JSON ({error}). Copy the folder again.") from error
    return verify_description(content, str(file))


def part_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each part of a model's description, of its tensors, and under ``WHOLE`` of everything.

    Somebody who changes a model can recompute the checksums inside its folder; digests that are kept elsewhere tell.

    Raises:
        ModelFormatError: see ``read_description``.
    """
    description = read_description(folder)
    whole = {WHOLE: description[WHOLE]}
    return {name: hashlib.sha256(_canonical(part)).hexdigest() for name, part in description.items()} | whole


def refuse_changed(folder: Path, registered: Mapping[str, str]) -> None:
    """Compare a model folder with its ``part_digests`` as they were when it was registered.

    Raises:
        ModelFormatError: it holds another model; the message names the parts that differ. Or see ``read_description``.
    """
    found = part_digests(folder)
    if found[WHOLE] == registered.get(WHOLE):
        return
    parts = sorted((found.keys() | registered.keys()) - {WHOLE})
    differ = [name.removesuffix("_sha256") for name in parts if found.get(name) != registered.get(name)]
    raise ModelFormatError(
        f"{folder} does not hold the model that was registered. What differs: {', '.join(differ) or 'its checksum'}. "
        "Copy the folder back from where it was saved, let another version serve (`vad model rollback LINE`), or train "
        "the line again."
    )


def description_text(description: dict[str, Any]) -> str:
    """Return a description as JSON text, with its format version and checksum added."""
    content = {**description, "format_version": FORMAT_VERSION}
    content["contents_sha256"] = contents_digest(content)
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def verify_description(content: Any, source: str) -> dict[str, Any]:
    """Check version and checksum of a description.

    Raises:
        ModelFormatError: it is not a description, or was changed by hand, or is of another version.
    """
    if not isinstance(content, dict) or "contents_sha256" not in content:
        raise ModelFormatError(f"{source} is not the description of a model.")
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelFormatError(
            f"{source} is of format {content.get('format_version')}, this version reads {FORMAT_VERSION}. "
            "Train the line again, or use the version that wrote it."
        )
    if contents_digest(content) != content["contents_sha256"]:
        raise ModelFormatError(
            f"{source} was changed after it was written: its contents do not match contents_sha256. "
            "Copy the folder again; to change a threshold, use the threshold table."
        )
    return content


def contents_digest(description: dict[str, Any]) -> str:
    """Return the sha256 of a description without its own checksum."""
    content = {key: value for key, value in description.items() if key != "contents_sha256"}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False).encode()
