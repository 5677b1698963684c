"""Taking a model to a machine without this software: a folder with the model, a short script, and proof of parity."""

from vad_lib.export.folder import FORMATS, ExportRefused, export_model
from vad_lib.export.parity import ParityReport

__all__ = ["FORMATS", "ExportRefused", "ParityReport", "export_model"]
