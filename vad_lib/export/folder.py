"""The exported folder: built aside, compared with the model itself through its own script, then put in place whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from vad_lib.detectors.storage import DESCRIPTION_FILE, description_text
from vad_lib.encoders.store import sha256_of
from vad_lib.errors import InputError, VadError
from vad_lib.export.parity import ParityReport, compare
from vad_lib.images.paths import FORMATS_TEXT
from vad_lib.models import InspectionModel
from vad_lib.progress import Progress, silent

Format = Literal["onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
SCRIPT, PARITY_FILE, README = "score.py", "parity.json", "README.md"
REQUIREMENTS: dict[Format, tuple[str, ...]] = {
    "onnx": ("numpy", "pillow", "onnxruntime"),
    "openvino": ("numpy", "pillow", "openvino"),
}


class ExportRefused(VadError):
    """The exported model decides differently from the model itself; nothing was put in place.

    Attributes:
        parity: what differed.
    """

    def __init__(self, message: str, parity: ParityReport) -> None:
        self.parity = parity
        super().__init__(message)


def export_model(
    model: InspectionModel,
    images: Sequence[Path],
    format: Format,
    folder: Path,
    *,
    model_version: str = "",
    inference_threshold: float = 0.5,
    progress: Progress = silent,
) -> ParityReport:
    """Write a folder that scores images without this software.

    The folder is complete and its script has scored ``images`` in a process of its own before it appears under its
    name. An earlier export of that name is replaced; anything else there is refused.

    Args:
        model: on the CPU.
        images: validation images, at least one; each is scored by the model and by the exported script.
        format: 'onnx' or 'openvino'.
        folder: to be made.
        model_version: label of the version, such as 'vad-bottles/3'.
        inference_threshold: on p, for the labels that are compared.
        progress: told of each image that the model scores.

    Raises:
        ExportRefused: a label flips, a score differs by more than 1e-4 relative, or one side cannot score an image.
        InputError: no images, an unknown format, or ``folder`` holds something else.
        VadError: the detector cannot be written in this format, or the model is a bfloat16 one.
    """
    if format not in FORMATS:
        raise InputError(f"There is no export format {format!r}; there are {', '.join(FORMATS)}.")
    if not images:
        raise InputError("An export is compared with the model on images: give at least one.")
    if model.detector.weights.precision != "float32":
        raise VadError(
            "A bfloat16 model cannot be exported: ONNX and OpenVINO round at other places, and its scores would differ "
            "by more than 1e-4 relative. Train the line with precision: float32, and export that model."
        )
    folder = Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and not _replaceable(folder)):
        raise InputError(f"{folder} exists and is no earlier export: name a folder that is not there yet.")
    if foreign := _foreign(folder):
        raise InputError(
            f"{folder} is an earlier export, but holds files that no export writes, such as {foreign[0]}: they would "
            "be lost. Move them elsewhere, or name another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        _write(model, format, partial, model_version)
        parity = check_parity(model, images, partial, inference_threshold, progress)
        (partial / PARITY_FILE).write_text(parity.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if not parity.passed:
            examples = ", ".join((*parity.flipped, *parity.disagreements)[:3])
            raise ExportRefused(
                f"The {format} export does not decide as the model does, so it was not written. {parity.in_words()} "
                f"{f'For example {examples}. ' if examples else ''}Try another format: {', '.join(FORMATS)}.",
                parity,
            )
        (partial / README).write_text(_readme(model, format, parity, model_version), encoding="utf-8")
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parity


def check_parity(
    model: InspectionModel,
    images: Sequence[Path],
    folder: Path,
    inference_threshold: float = 0.5,
    progress: Progress = silent,
    batch: int = 1,
) -> ParityReport:
    """Score images with the model and with the script of an exported folder, in an isolated process; compare.

    Raises:
        VadError: the script fails.
    """
    files = [Path(os.path.abspath(image)) for image in images]
    theirs = run_script(folder, files, batch)
    ours = list(model.predict_files(files, progress=progress))
    return compare(
        [str(file) for file in images],
        [result.raw_score for result in ours],
        [result["raw_score"] for result in theirs],
        model.calibration,
        inference_threshold,
    )


def run_script(folder: Path, files: Sequence[Path], batch: int = 1) -> list[dict[str, Any]]:
    """Return what ``score.py`` of an exported folder says about files, one mapping each.

    Raises:
        VadError: the script fails, or answers for another number of files.
    """
    with tempfile.TemporaryDirectory(prefix="vad_export_") as work:
        listing = Path(work) / "files.txt"
        listing.write_text("\n".join(map(str, files)), encoding="utf-8")
        # -I: neither the current folder nor the environment adds to what can be imported; -B: no caches are left
        command = [sys.executable, "-IB", str(folder / SCRIPT), "--list", str(listing), "--batch", str(batch)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    try:
        results = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        results = []
    if len(results) != len(files):
        raise VadError(f"{folder / SCRIPT} failed (exit code {done.returncode}): {done.stderr.strip()[-2000:]}")
    return results


def _write(model: InspectionModel, format: Format, folder: Path, model_version: str) -> None:
    from vad_lib.export import formats

    size = model.preprocessing.image_size
    any_size = isinstance(size, int)
    example = (size, max(size + 32, size * 5 // 4)) if isinstance(size, int) else size
    program = formats.trace(model.detector.graph().eval().requires_grad_(False), example, any_size=any_size)
    formats.write_onnx(program, folder / "model.onnx")
    if format == "openvino":
        formats.write_openvino(folder / "model.onnx", folder / "model.xml")
        (folder / "model.onnx").unlink()
    export = {
        "format": format,
        "files": {file.name: sha256_of(file) for file in sorted(folder.iterdir())},
        "model_version": model_version,
        "requirements": {name: version(name) for name in REQUIREMENTS[format]},
        "input": "images: float32 (N, 3, H, W) in 0..1, RGB; not normalised, that is inside",
        "outputs": "scores: float32 (N,), larger is more anomalous; maps: float32 (N, H, W)",
        "classes": {"OK": model.info.ok_class, "NG": "everything else"},
    }
    shutil.copy(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    (folder / DESCRIPTION_FILE).write_text(description_text({**model.describe(), "export": export}), encoding="utf-8")


def _replaceable(folder: Path) -> bool:
    """Tell whether a folder is empty or an earlier export, told by the two files that only an export has together."""
    if not folder.is_dir():
        return False
    return not any(folder.iterdir()) or all((folder / name).is_file() for name in (SCRIPT, PARITY_FILE))


def _foreign(folder: Path) -> list[str]:
    """Return what lies in an earlier export and was not put there by it: results, maps, notes."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return []
    ours = {SCRIPT, PARITY_FILE, README, DESCRIPTION_FILE, "__pycache__"}
    # where it is damaged, what cannot be told from a user's file counts as one
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        ours |= set(json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))["export"]["files"])
    return sorted(file.name for file in folder.iterdir() if file.name not in ours)


def _put_in_place(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _readme(model: InspectionModel, format: Format, parity: ParityReport, model_version: str) -> str:
    size = model.preprocessing.image_size
    shown = f"shorter side {size}" if isinstance(size, int) else f"{size[0]} x {size[1]} (height x width)"
    packages = " ".join(f"'{name}>={version(name).partition('+')[0]}'" for name in REQUIREMENTS[format])
    return f"""# {model.info.model_name}, as {format}

{f"Version {model_version}, s" if model_version else "S"}cores images by itself: nothing but Python and
`pip install {packages}` is needed.

    python score.py IMAGE_OR_FOLDER [...]          # one JSON line an image
    python score.py --csv --maps maps FOLDER       # CSV, and anomaly maps as .npy
    python score.py --help

| column | meaning |
|---|---|
| `raw_score` | larger is more anomalous; the trained threshold is {model.threshold.value:.6g} |
| `p` | calibrated, 0..1; 0.5 exactly at the threshold |
| `label` | `NG` where `p` is at least `--threshold` (0.5), else `OK` (the class {model.info.ok_class!r}) |
| `error` | why an image has no score; the others are not affected |

Images are {FORMATS_TEXT} of any size; the script brings them to {shown}. `detector.json` holds preprocessing,
threshold, calibration, versions and the sha256 of the model's files, which the script verifies.

Compared with the model that it was exported from, through this script (`parity.json`): {parity.in_words()}
"""
