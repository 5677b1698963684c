"""Orchestration of inspection lines with Dagster and MLflow. What can be said without Dagster is said in vad_lib."""

import vad_lib  # noqa: F401  all processes shall have its settings, and agree on them with their fork server
