"""The part of a detector that is a network, run by OpenVINO or ONNX Runtime instead of torch. Always float32.

What is compiled is the backbone with PatchCore's patch embedding, or the whole of FastFlow, for one image of one size.
PatchCore's search in its memory bank stays ours: it is faster than any of the runtimes' (``patchcore.screening``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import nn

from vad_lib.errors import VadError
from vad_lib.export import formats
from vad_lib.export.graph import whole_detector

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector

Backend = Literal["torch", "openvino", "onnx"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Runner = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""One image, float32 (1, 3, H, W) in 0..1, to what the network of the detector gives for it."""
FILES: dict[Backend, str] = {"openvino": "network.xml", "onnx": "network.onnx"}


class PatchEmbedding(nn.Module):
    """PatchCore up to the patches: (1, 3, H, W) to (1, rows, columns, D)."""

    def __init__(self, embedder: Any) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding, grid = self.embedder.embed(images)
        found: torch.Tensor = embedding.unflatten(1, grid)
        return found


def network_of(detector: Detector) -> nn.Module:
    """Return the part of a fitted detector that a backend runs.

    Raises:
        ModelFormatError: it is of a kind that has no such part.
    """
    if detector.facts.name == "patchcore":
        return PatchEmbedding(cast(Any, detector).embedder).eval().requires_grad_(False)
    return whole_detector(detector)


def write_network(detector: Detector, size: tuple[int, int], backend: Backend, folder: Path) -> None:
    """Write the network for a backend, for images of one size (height, width).

    Raises:
        VadError: it cannot be traced or converted.
    """
    program = formats.trace(network_of(detector), size, one_image=True)
    if backend == "onnx":
        formats.write_onnx(program, folder / FILES[backend], named=False)
        return
    openvino = formats.import_openvino()
    try:
        model = openvino.convert_model(program)
    except Exception as error:  # openvino raises its own kinds
        raise VadError(f"This detector cannot be converted for OpenVINO: {error}") from error
    openvino.save_model(model, folder / FILES[backend], compress_to_fp16=False)


def load_network(backend: Backend, folder: Path) -> Runner:
    """Return what runs the network that ``write_network`` wrote. It may be called by several threads, in turn."""
    turn = threading.Lock()
    run = (_load_openvino if backend == "openvino" else _load_onnx)(folder / FILES[backend])

    def runner(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with turn:
            return tuple(torch.from_numpy(found) for found in run(images.numpy()))

    return runner


def use_network(detector: Detector, runner: Runner | None) -> None:
    """Let a detector on the CPU score with a runner, or with torch again (None)."""
    cast(Any, detector).runner = runner


def _load_openvino(file: Path) -> Any:
    openvino = formats.import_openvino()
    settings = {
        # some processors would take bfloat16 by themselves: too coarse for a decision
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    # copies, because the runtime writes its next results into the same memory
    return lambda images: [found.copy() for found in compiled(images).values()]


def _load_onnx(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})
