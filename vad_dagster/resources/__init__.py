"""What assets borrow from outside: MLflow."""

from vad_dagster.resources.tracking import MLflowTracking

__all__ = ["MLflowTracking"]
