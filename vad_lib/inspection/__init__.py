"""Inspect images with a model and record each result durably, once.

``worker.work_on`` takes incoming files of a line from the queue all the way; a thread of the inference service and a
run of Dagster call the same function. ``inspect_queue`` is a run's loop around it, ``inspect_rows`` inspects the rows
of a table or the files of a folder: reading, scoring and deciding are the same, so the way of an image never changes
its result.
"""

from vad_lib.inspection.history import inspect_queue, inspected_between, result_of_run
from vad_lib.inspection.model import Model, Served
from vad_lib.inspection.rescore import rescore_predictions
from vad_lib.inspection.result import InspectionResult
from vad_lib.inspection.table_rows import inspect_rows

__all__ = [
    "InspectionResult",
    "Model",
    "Served",
    "inspect_queue",
    "inspect_rows",
    "inspected_between",
    "rescore_predictions",
    "result_of_run",
]
