"""Orchestration of inspection lines with Dagster and MLflow. What can be said without Dagster is said in vad_lib."""
