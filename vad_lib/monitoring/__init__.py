"""Drift: whether light, focus, place and scores of the images that come are those that a model was trained on.

``charts`` see changes, ``camera`` and ``readiness.pose`` measure an image, ``reference`` is what normal images were
like, and ``monitor`` puts them together. docs/drift.md tells what is watched, how surely and how soon.
"""

from vad_lib.monitoring.monitor import ANSWERED_BY_TRAINING, CHARTS, ChartState, Monitor, MonitorSettings, Values

__all__ = ["ANSWERED_BY_TRAINING", "CHARTS", "ChartState", "Monitor", "MonitorSettings", "Values"]
