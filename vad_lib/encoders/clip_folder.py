"""A folder with a network of open_clip: what is read of it, and what is refused. Nothing here imports torch.

========================= ================================================================================
file                      what it holds
========================= ================================================================================
open_clip_config.json     ``model_cfg`` (both towers) and ``preprocess_cfg`` (mean, std)
open_clip_model.safetensors   the tensors of both towers
tokenizer.json, …         of folders whose text tower has another vocabulary than CLIP's; optional
README.md                 its card; a line ``license: …`` in it is shown; optional
========================= ================================================================================
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from vad_lib.encoders.clip_config import clean_config
from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.weight_file import BackboneWeights, Source
from vad_lib.errors import InputError, ModelFormatError

CONFIG_FILE = "open_clip_config.json"
TENSORS_FILE = "open_clip_model.safetensors"
FURTHER_FILES = ("README.md", "LICENSE", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def is_clip_folder(folder: Path) -> bool:
    """Tell whether a folder says that it holds a network of open_clip."""
    return (folder / CONFIG_FILE).is_file()


def clip_folders(store: Path) -> list[Path]:
    """Return the folders of a store that hold a network of open_clip, sorted by name."""
    return sorted(folder for folder in store.iterdir() if is_clip_folder(folder)) if store.is_dir() else []


def read_clip_folder(folder: Path, asked_for: str, source: Source) -> BackboneWeights:
    """Return the weights that a folder holds; its tensors are not read.

    Args:
        folder: with the two files of this module's table.
        asked_for: what the plan named.
        source: how the folder was found.

    Raises:
        InputError: a file is missing; says which one to take.
        ModelFormatError: the configuration cannot be read, or holds what is not allowed.
    """
    config_file, tensors = folder / CONFIG_FILE, folder / TENSORS_FILE
    if not config_file.is_file():
        raise InputError(
            f"{folder} has no {CONFIG_FILE}: take the whole folder of a network that open_clip can read, with "
            f"{CONFIG_FILE} and {TENSORS_FILE}."
        )
    if not tensors.is_file():
        others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
        has = f" It has {', '.join(others)}, which can hold more than numbers and is not read." if others else ""
        raise InputError(f"{folder} has no {TENSORS_FILE}.{has} Take {TENSORS_FILE} from where the folder came from.")
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
        preprocessing = content.get("preprocess_cfg") or {}
        mean, std = (
            tuple(float(value) for value in preprocessing.get(key, usual))
            for key, usual in (("mean", CLIP_MEAN), ("std", CLIP_STD))
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{config_file} cannot be read ({error}). Copy the folder again.") from error
    return BackboneWeights(
        name=re.sub(r"[^\w.-]", "_", folder.name),
        file=tensors,
        source=source,
        sha256=sha256_of(tensors),
        mean=mean,
        std=std,
        asked_for=asked_for,
        library="open_clip",
        licence=_licence_of(folder, content),
        model_config=clean_config(content.get("model_cfg"), str(config_file)),
    )


def warning_of(weights: BackboneWeights) -> str:
    """Return the sentence that says why a folder's features would be silently wrong, or nothing.

    OpenAI trained its networks with QuickGELU. Their tensors fit a network with the usual GELU as well, whose features
    are close to the right ones and worse.
    """
    if weights.library != "open_clip" or weights.model_config.get("quick_gelu") or weights.file is None:
        return ""
    told = f"{weights.file.parent.name} {_text_of(weights.file.with_name('README.md'))}".lower()
    is_vision_of_timm = "timm_model_name" in weights.model_config["vision_cfg"]
    if "openai" not in told or is_vision_of_timm:
        return ""
    return (
        f"{weights.file.parent} says that its weights are OpenAI's, which were trained with QuickGELU, but its "
        f'{CONFIG_FILE} does not say "quick_gelu": true. Its features would be slightly wrong everywhere, without any '
        "error. Take a folder whose configuration has it, or add it to model_cfg if the weights are OpenAI's."
    )


def put_folder_in_store(folder: Path, name: str, store: Path) -> Path:
    """Copy a folder into the store as ``name``, whole or not at all; what is there under that name is replaced."""
    store.mkdir(parents=True, exist_ok=True)
    target, partial = store / name, store / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for file in (CONFIG_FILE, TENSORS_FILE, *FURTHER_FILES):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, partial / file)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _licence_of(folder: Path, content: dict[str, Any]) -> str:
    if told := content.get("license") or content.get("licence"):
        return str(told)
    found = re.search(r"^license:\s*(\S+)\s*$", _text_of(folder / "README.md"), flags=re.MULTILINE)
    return found.group(1) if found else ""


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
