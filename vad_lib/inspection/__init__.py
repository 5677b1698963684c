"""Inspect images with a model and record each result durably, once.

``inspect_batch`` works on a batch of landed files, ``inspect_rows`` on the rows of a table or the files of a folder;
both go through the same code, so the way an image took never changes its result.
"""

from vad_lib.inspection.batches import inspect_batch, inspect_pending
from vad_lib.inspection.rescoring import rescore_predictions
from vad_lib.inspection.results import InspectionResult
from vad_lib.inspection.rows import inspect_rows

__all__ = ["InspectionResult", "inspect_batch", "inspect_pending", "inspect_rows", "rescore_predictions"]
