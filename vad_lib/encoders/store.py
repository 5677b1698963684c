"""The weights store: one folder of weight files, each with an optional sidecar that says what the file is.

A file ``NAME.pth`` (or .pt, .bin, .safetensors) serves timm's model ``NAME``, and so does a file whose name begins with
``NAME_`` or ``NAME.``. The sidecar ``<file name>.json`` may hold ``architecture`` (timm's name), ``create_kwargs``,
``mean``, ``std``, ``layers``, ``licence``, ``in_order`` (the tensors are timm's in the same order, under other names)
and ``sha256``; where it gives a sha256, the file must match it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from vad_lib.errors import InputError, ModelFormatError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

KNOWN_FILES: dict[str, dict[str, Any]] = {
    # Exported from TensorFlow: other padding, 1001 classes, and input scaled to -1..1.
    "mobilenetv2_100_tf2ptq_dequant_timm": {
        "architecture": "mobilenetv2_100",
        "create_kwargs": {"pad_type": "same"},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "resnet18_tv_bnfolded_stem_to_layer3": {"architecture": "resnet18"},
    **{
        stem: {
            "architecture": f"tf_efficientnet_lite{number}",
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
            "in_order": True,
            "licence": "Apache-2.0",
        }
        for number, stem in enumerate(
            ("efficientnet-lite0-57934424", "efficientnet-lite1-77cc7160", "efficientnet-lite2-9656183e")
        )
    },
}
"""What sidecars would say of files that are passed around without one, by file stem."""

_SIDECAR_KEYS = {"architecture", "create_kwargs", "mean", "std", "layers", "licence", "sha256", "in_order"}


def sidecar_of(file: Path) -> Path:
    """Return where the sidecar of a weight file lies, whether or not it is there."""
    return file.with_name(file.name + ".json")


def read_sidecar(file: Path) -> dict[str, Any]:
    """Return what is known of a weight file: its sidecar, else the built-in table, else nothing.

    Raises:
        ModelFormatError: the sidecar is not a JSON object, or has a key of another name.
    """
    sidecar = sidecar_of(file)
    if not sidecar.is_file():
        return dict(KNOWN_FILES.get(file.stem, {}))
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{sidecar} cannot be read as JSON ({error}). Correct or delete it.") from error
    if not isinstance(content, dict) or (unknown := set(content) - _SIDECAR_KEYS):
        extra = "" if not isinstance(content, dict) else f" not {', '.join(sorted(unknown))}"
        raise ModelFormatError(f"{sidecar} must hold a JSON object of {', '.join(sorted(_SIDECAR_KEYS))},{extra}.")
    return content


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a store, sorted by name; none where the folder is absent."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())


def find_in_store(name: str, folder: Path) -> Path | None:
    """Return the file that serves timm's model ``name``, or None.

    A file of exactly that name goes first, then one whose sidecar names the architecture, then one whose name begins
    with it. `resnet18` is not served by `resnet18d.pth`.

    Raises:
        InputError: several files serve it equally well.
    """
    files = weight_files(folder)
    by_stem = [file for file in files if file.stem == name]
    by_sidecar = [file for file in files if read_sidecar(file).get("architecture") == name]
    by_prefix = [
        file
        for file in files
        if file.name.startswith((f"{name}_", f"{name}."))
        and read_sidecar(file).get("architecture", name) == name
        # vit_small_patch16_224.pth begins with vit_small_, and is a model of its own
        and not _is_other_architecture(file.stem, name)
    ]
    for candidates in (by_stem, by_sidecar, by_prefix):
        if len(candidates) > 1:
            raise InputError(
                f"{folder} holds several files for {name}: {', '.join(file.name for file in candidates)}. "
                "Keep one, or give the path of the one that is meant in the plan."
            )
        if candidates:
            return candidates[0]
    return None


def architecture_of(file: Path) -> str | None:
    """Return timm's name of the model that a file holds: its sidecar's word, else the longest name it begins with."""
    if architecture := read_sidecar(file).get("architecture"):
        return str(architecture)
    import timm

    stem = file.stem
    known = [name for name in timm.list_models() if stem == name or stem.startswith((f"{name}_", f"{name}."))]
    return max(known, key=len, default=None)


def _is_other_architecture(stem: str, name: str) -> bool:
    import timm

    first = stem.split(".")[0]
    return first != name.split(".")[0] and bool(timm.is_model(first))


def put_in_store(file: Path, name: str, folder: Path, facts: dict[str, Any] | None = None) -> Path:
    """Copy a weight file into the store as ``name``, whole or not at all, with a sidecar that holds its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}{file.suffix}"
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(file, partial)
        sidecar = {**read_sidecar(file), "architecture": name, **(facts or {}), "sha256": sha256_of(partial)}
        sidecar_of(target).write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
