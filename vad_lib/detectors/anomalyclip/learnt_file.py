"""The file of what AnomalyCLIP has learnt on other images: a few hundred kilobytes of numbers, and where they are from.

Two kinds. Prompts hold ``ctx`` (2, 12, W) and ``deep`` (8, 4, W) and go with any CLIP of that text width; the authors'
checkpoints are read as such. Vectors hold ``image`` (2, D) and ``level_0`` … (2, C) and go with one encoder only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vad_lib.encoders.store import sha256_of
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.lines import Home

FOLDER = "prompts"
"""In the weights store."""
KINDS = ("prompts", "vectors")


@dataclass(frozen=True)
class Learnt:
    """What was learnt, and on what.

    Attributes:
        kind: 'prompts' or 'vectors'.
        tensors: by name; see the module's docstring.
        provenance: plain JSON: ``encoder_sha256`` and ``levels`` where they are known, ``source``, ``images``.
        images_sha256: of the files that were learnt from; empty where they are not known.
    """

    kind: str
    tensors: dict[str, torch.Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    images_sha256: tuple[str, ...] = ()

    def save(self, file: Path) -> None:
        """Write the file; folders above it are made."""
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"kind": self.kind, "provenance": self.provenance, "images_sha256": list(self.images_sha256)}
        tensors = {name: value.detach().cpu().float().contiguous().clone() for name, value in self.tensors.items()}
        save_file(tensors, file, metadata={"learnt": json.dumps(told)})

    def refuse_images(self, sha256: set[str]) -> None:
        """Refuse to score a line on whose images this was learnt: its figures would be too good.

        Args:
            sha256: of the line's image files.

        Raises:
            InputError: some of them were learnt from.
        """
        if known := sha256 & set(self.images_sha256):
            raise InputError(
                f"{len(known)} images of this line were among those that the prompts were learnt from, so its figures "
                "would be better than on new images. Learn prompts on other lines only."
            )


def random_prompts(width: int, blocks: int) -> Learnt:
    """Return prompts that were learnt on nothing, for a text tower of this width and number of blocks."""
    draw = torch.Generator().manual_seed(1)
    deep = torch.randn(min(8, blocks - 1), 4, width, generator=draw)
    return Learnt("prompts", {"ctx": torch.randn(2, 12, width, generator=draw), "deep": deep})


def file_in_store(name: str, store: Path) -> Path:
    """Return where what is called so lies in the weights store.

    Raises:
        InputError: the name would leave the folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} is no name: take letters, digits, '-', '_' and '.'.")
    return store / FOLDER / f"{name}.safetensors"


def read_learnt(name: str, store: Path | None = None) -> Learnt:
    """Read what was learnt.

    Args:
        name: under prompts in the weights store, or the path of a file.
        store: the weights store; the home's by default.

    Raises:
        InputError: there is no such file; says how to get one.
        ModelFormatError: it is not such a file.
    """
    if "/" in name or name.endswith(".safetensors"):
        file = Path(name).expanduser()
    else:
        file = file_in_store(name, store if store is not None else Home.from_environment().weights_folder)
    if not file.is_file():
        raise InputError(
            f"anomalyclip_prompts is {name}, and there is no {file}. Bring the authors' checkpoint (an epoch_15.pth) "
            "with `vad weights add FILE --detector anomalyclip`, or learn prompts on images of other products with "
            "masks by `vad weights learn`."
        )
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            told = json.loads((content.metadata() or {})["learnt"])
        found = Learnt(
            str(told["kind"]),
            tensors,
            {**told["provenance"], "file_sha256": sha256_of(file)},
            tuple(map(str, told["images_sha256"])),
        )
        good = found.kind in KINDS and _shapes_fit(found)
    except Exception as error:  # safetensors raises its own kind, and JSON can hold anything
        raise ModelFormatError(f"{file} is not a file of learnt prompts ({error!r}). Make or copy it again.") from error
    if not good:
        raise ModelFormatError(f"{file} does not hold the tensors of learnt prompts. Make or copy it again.")
    return found


def read_checkpoint(file: Path) -> Learnt:
    """Read the authors' checkpoint; of its 22 MB only the tokens count, and nothing but tensors is unpickled.

    Raises:
        InputError: no such file.
        ModelFormatError: it is not such a checkpoint, or its shapes do not fit together.
    """
    if not file.is_file():
        raise InputError(f"There is no file {file}.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        state = content.get("prompt_learner", content)
        deep = [state[f"compound_prompts_text.{number}"] for number in range(_depth(state))]
        context = torch.stack([state["ctx_pos"].reshape(state["ctx_pos"].shape[-2:]), state["ctx_neg"][0, 0]])
        tensors = {"ctx": context.float(), "deep": torch.stack(deep).float()}
        found = Learnt("prompts", tensors, {"source": file.name, "source_sha256": sha256_of(file)})
        good = _shapes_fit(found)
    except Exception as error:  # damaged archives raise many kinds
        raise ModelFormatError(
            f"{file} is not a checkpoint of AnomalyCLIP ({error!r}): it must hold a prompt_learner with ctx_pos, "
            "ctx_neg and compound_prompts_text."
        ) from error
    if not good:
        raise ModelFormatError(f"The tokens in {file} do not fit together: they differ in width or are not numbers.")
    return found


def _depth(state: dict[str, Any]) -> int:
    return sum(key.startswith("compound_prompts_text.") for key in state)


def _shapes_fit(learnt: Learnt) -> bool:
    tensors = learnt.tensors
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        return False
    if learnt.kind == "prompts":
        context, deep = tensors["ctx"], tensors["deep"]
        # 77 tokens, of which the first one, the words and the end are not learnt
        return len(context) == 2 and 1 <= context.shape[1] <= 70 and context.shape[2] == deep.shape[2]
    names = {"image"} | {f"level_{number}" for number in range(len(tensors) - 1)}
    return set(tensors) == names and all(value.ndim == 2 and len(value) == 2 for value in tensors.values())
