"""Finding the weights of a backbone. Nothing is ever trained on random weights by accident.

The order, and there is no other place that looks for weights:

1. a path in the plan, of a file or of a folder of open_clip (``clip_folder``);
2. the weights store, by the name of such a folder in it, or by timm's model name (``store``);
3. timm's own download, where the network allows; what comes is kept in the store, so the next run needs no network;
4. the backbone that an installed package carries (``fallback``), in place of the one asked for unless
   ``VAD_FALLBACK_BACKBONE=0`` forbids it: ``asked_for`` differs from ``name`` then, and whoever trains must say so
   loudly, with the measured cost.
"""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from vad_lib.encoders.clip_folder import (
    CONFIG_FILE,
    FURTHER_FILES,
    TENSORS_FILE,
    clip_folders,
    is_clip_folder,
    put_folder_in_store,
    read_clip_folder,
)
from vad_lib.encoders.fallback import fallback_backbone, measured_cost
from vad_lib.encoders.store import (
    SUFFIXES,
    architecture_of,
    find_in_store,
    put_in_store,
    read_sidecar,
    sha256_of,
    sidecar_of,
    weight_files,
)
from vad_lib.encoders.weight_file import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_BACKBONE,
    BackboneWeights,
    Source,
    read_state_dict,
)
from vad_lib.errors import InputError, ModelFormatError, VadError, WeightsMissingError
from vad_lib.lines import Home
from vad_lib.settings import settings

CONNECT_SECONDS = 3.0
"""How long to wait for a sign of a network before a download is given up."""


def resolve_backbone_weights(name_or_path: str, store: Path | None = None) -> BackboneWeights:
    """Find the weights of a backbone, in the order that this module's docstring gives.

    Args:
        name_or_path: timm's name of a model, such as ``resnet18``, the name of a folder of open_clip in the store, or
            the path of a weight file or of such a folder; empty for a detector that has no backbone.
        store: the weights store; the home's by default.

    Raises:
        WeightsMissingError: they are nowhere; says which file is wanted, where to put it, and the commands.
        ModelFormatError: the file does not match the sha256 of its sidecar.
        InputError: no such architecture, or several files of the store fit.
    """
    folder = store if store is not None else Home.from_environment().weights_folder
    asked = str(name_or_path)
    if not asked:
        return NO_BACKBONE
    if Path(asked).suffix in SUFFIXES or "/" in asked or os.sep in asked:
        return _from_path(Path(asked).expanduser(), folder)
    if is_clip_folder(folder / asked):
        return read_clip_folder(folder / asked, asked, "store")
    if file := find_in_store(asked, folder):
        return _from_file(file, asked, "store")
    fallback = fallback_backbone()
    if fallback is not None and asked == fallback.name:
        return fallback
    if settings().allow_random_weights:
        return BackboneWeights(asked, None, "random", "", asked_for=asked)
    if not _is_timm_model(asked):
        raise InputError(f"timm knows no model {asked!r}.{_nearest(asked)} `vad weights list` shows what is here.")
    try:
        return _from_file(fetch_weights(asked, store=folder), asked, "timm")
    except WeightsMissingError as error:
        if fallback is None:
            raise
        if settings().fallback_backbone:
            return replace(fallback, asked_for=asked)
        raise WeightsMissingError(
            f"{error}\nVAD_FALLBACK_BACKBONE=0 forbids that {fallback.name}, which is always there, is used "
            f"instead. {measured_cost()}"
        ) from error


def list_weights(store: Path | None = None) -> list[BackboneWeights]:
    """Return every backbone that can be had without a network: the store's, then the fallback."""
    folder = store if store is not None else Home.from_environment().weights_folder
    found = []
    for file in weight_files(folder):
        name = architecture_of(file)
        if name is not None:
            found.append(_from_file(file, name, "store"))
    found += [read_clip_folder(one, one.name, "store") for one in clip_folders(folder)]
    fallback = fallback_backbone()
    return found if fallback is None else [*found, fallback]


def add_weights(file: Path, name: str | None = None, *, store: Path | None = None) -> BackboneWeights:
    """Copy a weight file, or a folder of open_clip, into the store, after reading it, and record its sha256.

    Args:
        file: a safetensors file or a checkpoint of tensors only; or a folder (``clip_folder``).
        name: timm's name of the architecture, found from the file's name or sidecar where None; of a folder the name
            that plans will use, its own where None.
        store: the weights store; the home's by default.

    Raises:
        InputError: no such file, or its architecture is not clear; or the folder lacks a file.
        ModelFormatError: it is not a file of tensors, or they do not fit the folder's configuration.
        PlanError: open_clip, which checks a folder, is not installed.
    """
    folder = store if store is not None else Home.from_environment().weights_folder
    if file.is_dir():
        return _add_clip_folder(file, name, folder)
    if not file.is_file() or file.suffix not in SUFFIXES:
        raise InputError(f"{file} is not a weight file: it must exist and end in {', '.join(SUFFIXES)}.")
    architecture = name or architecture_of(file)
    if architecture is None or not _is_timm_model(architecture):
        raise InputError(
            f"{architecture or file.name!r} is not the name of a timm model: add --name with the architecture of the "
            f"file.{_nearest(architecture or file.stem)}"
        )
    read_state_dict(file)
    return _from_file(put_in_store(file, architecture, folder), architecture, "store")


def _add_clip_folder(source: Path, name: str | None, store: Path) -> BackboneWeights:
    from vad_lib.encoders.clip import OpenClipEncoder

    weights = read_clip_folder(source, source.name, "store")
    OpenClipEncoder(weights, ())  # both towers are whole, or it is refused here rather than in a training
    target = put_folder_in_store(source, name or weights.name, store)
    return read_clip_folder(target, target.name, "store")


def fetch_weights(name: str, *, store: Path | None = None) -> Path:
    """Download weights into the store and return the file: through timm, or a folder of open_clip from the hub.

    Args:
        name: timm's name of a model, or OWNER/NAME of a repository that holds a folder of open_clip.
        store: the weights store; the home's by default.

    Raises:
        InputError: timm has no such model.
        WeightsMissingError: there is no network, or timm has no pretrained weights for the model.
    """
    folder = store if store is not None else Home.from_environment().weights_folder
    if name.count("/") == 1:
        return _fetch_clip_folder(name, folder)
    if not _is_timm_model(name):
        raise InputError(f"timm knows no model {name!r}.{_nearest(name)}")
    if reason := _why_no_download(name):
        raise WeightsMissingError(_missing_message(name, folder, reason))
    import timm
    from safetensors.torch import save_file

    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client raises many kinds; each means that nothing came
        raise WeightsMissingError(_missing_message(name, folder, f"the download failed ({error})")) from error
    folder.mkdir(parents=True, exist_ok=True)
    downloaded = folder / f".{name}.download.safetensors"
    try:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, downloaded)
        told = model.pretrained_cfg
        facts = {"mean": list(told["mean"]), "std": list(told["std"]), "licence": told.get("license") or ""}
        return put_in_store(downloaded, name, folder, facts)
    finally:
        downloaded.unlink(missing_ok=True)


def _fetch_clip_folder(repository: str, store: Path) -> Path:
    from huggingface_hub import snapshot_download

    if not (reason := _why_no_network()):
        try:
            with tempfile.TemporaryDirectory() as place:
                target = Path(place) / repository.split("/")[1]
                snapshot_download(
                    repository, local_dir=target, allow_patterns=[CONFIG_FILE, TENSORS_FILE, *FURTHER_FILES]
                )
                added = _add_clip_folder(target, None, store)
            return added.file or store
        except VadError:
            raise
        except Exception as error:  # the hub client raises many kinds; each means that nothing came
            reason = f"the download failed ({error})"
    raise WeightsMissingError(
        f"{repository} cannot be fetched: {reason}. On a machine with a network, download its folder with "
        f"{CONFIG_FILE} and {TENSORS_FILE}; copy it here and run `vad weights add FOLDER`."
    )


def _from_path(file: Path, folder: Path) -> BackboneWeights:
    if file.is_dir():
        return read_clip_folder(file, str(file), "plan")
    if not file.is_file():
        raise WeightsMissingError(
            f"The plan names the weight file {file}, which is not there. Put it there, or give the name of a timm "
            f"model and put its weights in {folder} with `vad weights add FILE`."
        )
    name = architecture_of(file)
    if name is None:
        raise InputError(
            f"{file.name} does not say which timm model it is for: begin its name with the model's name, or write "
            f'{{"architecture": "..."}} to {sidecar_of(file).name} beside it.'
        )
    return _from_file(file, str(file), "plan", name)


def _from_file(file: Path, asked_for: str, source: Source, name: str | None = None) -> BackboneWeights:
    facts = read_sidecar(file)
    digest = sha256_of(file)
    if (wanted := facts.get("sha256")) and wanted.lower() != digest:
        raise ModelFormatError(
            f"{file} is not the file that was put there: its sha256 is {digest}, {sidecar_of(file).name} says {wanted}."
            " Add or fetch it again."
        )
    architecture = name or str(facts.get("architecture", asked_for))
    mean, std = _normalisation(architecture, facts)
    return BackboneWeights(
        architecture,
        file,
        source,
        digest,
        dict(facts.get("create_kwargs", {})),
        mean,
        std,
        asked_for,
        tuple(facts.get("layers", ())),
        in_order=bool(facts.get("in_order", False)),
        licence=str(facts.get("licence", "")),
    )


def _normalisation(architecture: str, facts: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if "mean" in facts and "std" in facts:
        return tuple(facts["mean"]), tuple(facts["std"])
    import timm

    # anomalib normalises for ImageNet whatever timm says; the two agree for the networks that the guide names, except
    # that timm's default weights for deit and cait say the same too.
    config = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    return (tuple(config.mean), tuple(config.std)) if config else (IMAGENET_MEAN, IMAGENET_STD)


def _is_timm_model(name: str) -> bool:
    import timm

    return timm.is_model(name.split(".")[0])


def _nearest(name: str) -> str:
    import difflib

    import timm

    close = difflib.get_close_matches(name, timm.list_models(), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _why_no_download(name: str) -> str:
    """Return why a download need not be tried, found in seconds rather than by the client's retries; '' if it may."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return "timm has no pretrained weights for it"
    return _why_no_network()


def _why_no_network() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or settings().hf_hub_offline:
        return "downloads are switched off (HF_HUB_OFFLINE)"
    endpoint = urlsplit(constants.ENDPOINT)
    proxy = urlsplit(getproxies().get("https", ""))
    host, port = (proxy.hostname, proxy.port or 80) if proxy.hostname else (endpoint.hostname, endpoint.port or 443)
    try:
        socket.create_connection((host or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"there is no network ({error})"
    return ""


def _missing_message(name: str, folder: Path, reason: str) -> str:
    return (
        f"Weights of the backbone {name} are missing, and {reason}. Wanted: {name}.safetensors or {name}.pth in "
        f"{folder} (the folder is VAD_WEIGHTS, or weights under VAD_HOME). Where there is a network, "
        f"`vad weights fetch {name}` puts it there; then copy the file here and run `vad weights add FILE`."
    )
