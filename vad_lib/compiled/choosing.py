"""Which backend scores a model version on this machine: measured once, kept beside the model's network, said.

A backend other than torch may score only after it decided alike on images (``export.parity``): every label the same,
every score within 1e-4 relative. Otherwise torch scores, and the record says why.

A bfloat16 model is always scored by torch, as it was fitted and calibrated. OpenVINO moves the roundings: its features
of resnet18 differ from torch's bfloat16 ones by 1.5 % in the mean, which is as much as bfloat16 differs from float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vad_lib.atomic_files import write_whole
from vad_lib.errors import PlanError, UnreadableImageError
from vad_lib.export.parity import ParityReport, compare
from vad_lib.images.decoding import StoredPixels, decode_image
from vad_lib.lines import vad_home
from vad_lib.models import InspectionModel
from vad_lib.settings import settings

SETTING = "VAD_SCORING_BACKEND"
SETTINGS = ("auto", "torch", "openvino", "onnx")
RUNS = 7
"""Images that each backend is timed on, after two that warm it up; the least counts."""
GAIN = 0.95
"""Share of torch's time that a backend must stay below to be taken."""
MOST_IMAGES = 32
RECORD = "choice.json"
logger = logging.getLogger("vad.compiled")


class ScoringChoice(BaseModel):
    """Which backend scores, and why."""

    model_config = ConfigDict(frozen=True)

    backend: str = Field(description="'torch', 'openvino' or 'onnx'.")
    reason: str = Field(description="In words.")
    milliseconds: dict[str, float] = Field(default={}, description="An image, by backend, the least of several.")
    parity: dict[str, ParityReport] = Field(default={}, description="With torch, by backend.")
    machine: dict[str, str] = Field(default={}, description="Processor, threads, versions: what it holds for.")
    settled: bool = Field(default=True, description="False where a backend failed: the next who measures tries again.")
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def in_words(self) -> str:
        """Say it in one line."""
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        return f"{self.backend}: {self.reason}{f' ({times} an image)' if times else ''}"


def load_for_scoring(
    folder: Path,
    *,
    accelerator: str = "cpu",
    images: Sequence[Path] = (),
    measure: bool = True,
    again: bool = False,
    cache: Path | None = None,
    setting: str | None = None,
) -> tuple[InspectionModel, ScoringChoice]:
    """Load a model folder, and let the fastest backend of this machine score.

    Where the cache cannot be written to (its rights, a full disk), torch scores, and the choice says why.

    Args:
        folder: of the model.
        accelerator: 'cpu' or 'gpu'; on a GPU torch scores.
        images: to compare backends on, best the validation images; noise, where there are none or none can be read.
        measure: whether a choice is made where none is recorded, which takes seconds to a minute; else torch scores.
        again: whether a choice that is recorded is made anew, as after one on a busy machine.
        cache: where networks and choices are kept; ``$VAD_HOME/cache/compiled`` by default.
        setting: auto, torch, openvino or onnx; ``$VAD_SCORING_BACKEND`` by default, else auto. A backend that is named
            is taken without regard to its speed, but not without parity.

    Raises:
        PlanError: an unknown setting, or no GPU where one is asked for.
        ModelFormatError: see ``InspectionModel.load``.
    """
    model = InspectionModel.load(folder, accelerator=accelerator)
    setting = setting or settings().scoring_backend
    if setting not in SETTINGS:
        raise PlanError(f"{SETTING} is {setting!r}; it can be {', '.join(SETTINGS)}.")
    size = model.preprocessing.image_size
    if setting == "torch":
        return model, ScoringChoice(backend="torch", reason="asked for")
    if model.detector.weights.precision != "float32":
        return model, ScoringChoice(backend="torch", reason="compiled networks round bfloat16 at other places")
    if accelerator != "cpu":
        return model, ScoringChoice(backend="torch", reason="a GPU scores")
    if isinstance(size, int):
        return model, ScoringChoice(backend="torch", reason="images keep their aspect, so there is no one size")
    cache = cache or vad_home() / "cache" / "compiled"
    place = cache / _digest(folder) / setting
    try:
        if not measure and not (place / RECORD).is_file():
            return model, ScoringChoice(backend="torch", reason="nothing was measured yet")
        place.mkdir(parents=True, exist_ok=True)
        # One process chooses or loads; the others wait and read what it chose.
        with FileLock(place.parent / f"{place.name}.lock"):
            choice = None if again else _recorded(place)
            if choice is None and not measure:
                return model, ScoringChoice(backend="torch", reason="nothing was measured yet")
            if choice is None or (measure and not choice.settled):
                choice = _choose(model, size, setting, place, images)
                _record(choice, place)
            if choice.backend != "torch":
                choice = _attach(model, choice, place)
            return model, choice
    except OSError as error:
        reason = f"the cache {place} cannot be used: {error}"
        logger.warning("networks cannot be kept", extra={"reason": reason})
        return model, ScoringChoice(backend="torch", reason=reason)


def _choose(
    model: InspectionModel, size: tuple[int, int], setting: str, place: Path, images: Sequence[Path]
) -> ScoringChoice:
    """Write each backend's network, measure it and compare it with torch; keep what is chosen."""
    from vad_lib.compiled.backends import load_network, write_network

    started = time.monotonic()
    names, pixels = _pixels(images, size)
    reference = _scores(model, pixels)
    milliseconds, parity, faults = {"torch": _time(model, pixels[0])}, {}, []
    # Whoever dies from here on leaves no record of a network that is half there. Networks are not written over: a
    # process that scores may have them mapped.
    for file in (place / RECORD, *place.glob("network.*")):
        file.unlink(missing_ok=True)
    for name in ["openvino"] if setting == "auto" else [setting]:
        backend: Any = name
        try:
            write_network(model.detector, size, backend, place)
            model.detector.runner = load_network(backend, place)
            milliseconds[name] = _time(model, pixels[0])
            parity[name] = compare(names, reference, _scores(model, pixels), model.calibration)
        except Exception as error:  # whatever a runtime does, torch still scores
            faults.append(f"{name} cannot: {str(error).strip()[:300]}")
        finally:
            model.detector.runner = None
    failed = bool(faults)
    allowed = [name for name in parity if parity[name].passed]
    faults += [f"{name} differs: {parity[name].in_words()}" for name in parity if name not in allowed]
    best = min(allowed, key=milliseconds.__getitem__, default="torch")
    if best == "torch":
        reason = "; ".join(faults)
    elif setting != "auto":
        reason = "asked for"
    elif milliseconds[best] > GAIN * milliseconds["torch"]:
        best, reason = "torch", f"{best} is not faster here"
    else:
        reason = "the fastest here, and it decides alike"
    choice = ScoringChoice(
        backend=best,
        reason=reason,
        milliseconds=milliseconds,
        parity=parity,
        machine=_machine(),
        settled=best != "torch" or not failed,
    )
    logger.info(
        "a scoring backend is chosen",
        extra={"choice": choice.in_words(), "seconds": round(time.monotonic() - started, 3)},
    )
    return choice


def _attach(model: InspectionModel, choice: ScoringChoice, place: Path) -> ScoringChoice:
    from vad_lib.compiled.backends import load_network

    backend: Any = choice.backend
    try:
        model.detector.runner = load_network(backend, place)
    except Exception as error:  # a damaged file, a runtime that was removed: torch still scores
        shutil.rmtree(place, ignore_errors=True)
        reason = f"{backend} cannot be loaded: {str(error).strip()[:300]}"
        logger.warning("a compiled network cannot be loaded", extra={"reason": reason})
        return ScoringChoice(backend="torch", reason=reason)
    return choice


def _scores(model: InspectionModel, pixels: Sequence[StoredPixels]) -> list[float]:
    return [result.raw_score for image in pixels for result in model.predict_pixels([image])]


def _time(model: InspectionModel, pixels: StoredPixels) -> float:
    """Return milliseconds of one image, the least of several."""
    image = model.preprocessing.prepare(pixels)[None]
    times = []
    for _ in range(RUNS + 2):
        start = time.perf_counter()
        model.detector.score(image, with_maps=False)
        times.append(time.perf_counter() - start)
    return round(1000 * min(times[2:]), 3)


def _pixels(images: Sequence[Path], size: tuple[int, int]) -> tuple[list[str], list[StoredPixels]]:
    """Return names and pixels of at most ``MOST_IMAGES``, spread evenly; noise of several contrasts without images."""
    step = -(-len(images) // MOST_IMAGES) or 1
    found: dict[str, StoredPixels] = {}
    for image in images[::step]:
        with contextlib.suppress(UnreadableImageError):
            found[str(image)] = decode_image(image).values
    draw = np.random.default_rng(0)
    for spread in () if found else (0, 5, 20, 60, 120):
        found[f"noise {spread}"] = np.clip(draw.normal(128, spread, (*size, 3)), 0, 255).astype(np.uint8)
    return list(found), list(found.values())


def _recorded(place: Path) -> ScoringChoice | None:
    """Return the choice that was made here, on this machine, with these versions."""
    try:
        choice = ScoringChoice.model_validate_json((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
    # the number of threads is told, but another process of this machine may have another one
    same = all(choice.machine.get(name) == value for name, value in _machine().items() if name != "threads")
    return choice if same else None


def _record(choice: ScoringChoice, place: Path) -> None:
    for file in place.glob("network.*"):
        if choice.backend == "torch":
            file.unlink()
    write_whole(place / RECORD, (choice.model_dump_json(indent=2) + "\n").encode())


def _digest(folder: Path) -> str:
    """Return what tells one model from all others: the checksum of its description, which holds that of its tensors."""
    from vad_lib.detectors.storage import read_description

    return str(read_description(folder)["contents_sha256"])[:16]


def _machine() -> dict[str, str]:
    """Return what a measurement holds for."""
    import torch

    found = {"processor": _processor(), "threads": str(torch.get_num_threads())}
    for package in ("vad", "torch", "openvino", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kept = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
        flags = hashlib.sha256(json.dumps(sorted(kept.get("flags", "").split())).encode()).hexdigest()[:8]
        return f"{kept.get('model name', platform.machine())} {flags}"
    except OSError:
        return platform.processor() or platform.machine()
