"""The artifact trees of the guide, published whole: what a training and an inspection leave for people and tools."""

from __future__ import annotations

from vad_lib.artifacts.inference_tree import InferenceTree, InspectionRecord, write_inference_tree
from vad_lib.artifacts.naming import heatmap_name, safe_label, unique_name
from vad_lib.artifacts.publishing import publish_tree
from vad_lib.artifacts.records import collect_logs
from vad_lib.artifacts.train_tree import TrainTree, write_train_tree
from vad_lib.artifacts.training_record import TrainingRecord

__all__ = [
    "InferenceTree",
    "InspectionRecord",
    "TrainTree",
    "TrainingRecord",
    "collect_logs",
    "heatmap_name",
    "publish_tree",
    "safe_label",
    "unique_name",
    "write_inference_tree",
    "write_train_tree",
]
