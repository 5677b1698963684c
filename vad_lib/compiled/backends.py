"""The part of a detector that is a network, run by OpenVINO or ONNX Runtime instead of torch. Always float32.

What is compiled is what the detector says (``Detector.compiled_part``), for one image of one size.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vad_lib.errors import VadError
from vad_lib.export import formats

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector, Runner

Backend = Literal["torch", "openvino", "onnx"]
FILES: dict[Backend, str] = {"openvino": "network.xml", "onnx": "network.onnx"}


def write_network(detector: Detector, size: tuple[int, int], backend: Backend, folder: Path) -> None:
    """Write the network for a backend, for images of one size (height, width).

    Raises:
        VadError: it cannot be traced or converted.
    """
    program = formats.trace(detector.compiled_part().eval().requires_grad_(False), size, one_image=True)
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
