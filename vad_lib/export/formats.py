"""One traced network, written in two ways. Batch size is free in each; height and width too where images keep theirs.

========== ====================== ============================================================
format     files                  what reads it
========== ====================== ============================================================
onnx       model.onnx             ONNX Runtime, and whatever else reads ONNX
openvino   model.xml, model.bin   OpenVINO; float32 weights, not compressed to 16 bit
========== ====================== ============================================================

``torch.export``'s own archive (.pt2) is not used: it holds pickles, and its loader unpickles them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vad_lib.errors import VadError
from vad_lib.quietness import quiet

OPSET = 18
"""The first ONNX operator set that has all that is needed; the runtimes of the last years read it."""
EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir")
"""Loggers that tell about the exporters themselves."""
INPUT, OUTPUTS = "images", ("scores", "maps")


def trace(network: Any, size: tuple[int, int], *, any_size: bool = False, one_image: bool = False) -> Any:
    """Return the network as a ``torch.export.ExportedProgram`` of the inference operations alone.

    Args:
        network: such as ``Detector.graph`` returns.
        size: (height, width) of the images.
        any_size: whether other sizes may come.
        one_image: whether the batch is always 1.

    Raises:
        VadError: torch cannot trace it.
    """
    import torch
    from torch.export import Dim

    shape: dict[int, Any] = {0: Dim("batch", min=1, max=4096)}
    if any_size:
        shape |= {2: Dim.AUTO, 3: Dim.AUTO}
    example = torch.rand(1 if one_image else 2, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with quiet(*EXPORTERS), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=None if one_image else (shape,))
    except Exception as error:  # the exporter raises many kinds
        raise VadError(f"This detector cannot be traced, so it cannot be exported or compiled: {error}") from error
    graph = program.graph_module.graph
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op == "call_function" and not _writes(node):
            graph.erase_node(node)
    program.graph_module.recompile()
    return program


def write_onnx(program: Any, file: Path, *, named: bool = True) -> None:
    """Write an ONNX file with the weights inside (at most 2 GB).

    Args:
        program: of ``trace``.
        file: to be written.
        named: whether its input and outputs are images, scores and maps.

    Raises:
        VadError: an operation has no counterpart in ONNX.
    """
    import torch

    try:
        with quiet(*EXPORTERS):
            torch.onnx.export(
                program,
                f=file,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT] if named else None,
                output_names=list(OUTPUTS) if named else None,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise VadError(f"This detector cannot be written as ONNX: {error}") from error


def write_openvino(onnx_file: Path, file: Path) -> None:
    """Write ``model.xml`` and ``model.bin`` from an ONNX file."""
    openvino = import_openvino()
    openvino.save_model(openvino.Core().read_model(onnx_file), file, compress_to_fp16=False)


def import_openvino() -> Any:
    """Import openvino without its telemetry, which would report the import, and write to the user's home."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _writes(node: Any) -> bool:
    """Tell whether an operation changes one of its inputs (its name ends in one underscore)."""
    name = getattr(node.target, "_opname", "_")
    return name.endswith("_") and not name.endswith("__")
