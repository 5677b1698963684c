"""Visual anomaly detection: plans, tables, readiness, detectors, thresholds, scoring and reports.

Everything that knows about images and models lives here. Nothing here imports dagster or mlflow;
heavy libraries (torch, anomalib) are imported inside the functions that use them.
"""

__version__ = "0.1.0"
