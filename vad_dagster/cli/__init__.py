"""The ``vad`` command: what the two UIs do not do well.

Commands that train or inspect run the same Dagster jobs on the same instance as the UI, so nothing happens outside the
lineage. Nothing heavy (dagster, mlflow, torch, pandas) is imported at the top of a module here: ``vad --help`` answers
at once.
"""

from vad_dagster.cli.app import app

__all__ = ["app"]
