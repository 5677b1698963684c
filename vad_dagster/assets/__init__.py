"""The assets of a line, by group."""

from vad_dagster.assets.choice import model_choice
from vad_dagster.assets.data import confirmed_labels, ground_truth, validated_dataset
from vad_dagster.assets.extension import extended_model
from vad_dagster.assets.inference import inference_outputs, inference_summary
from vad_dagster.assets.monitoring import drift_report, field_performance
from vad_dagster.assets.registry import champion_model
from vad_dagster.assets.training import model_evaluation, threshold_table, trained_model, validation_scores
from vad_dagster.assets.words import finding_descriptions

ALL_ASSETS = [
    confirmed_labels,
    ground_truth,
    validated_dataset,
    trained_model,
    validation_scores,
    threshold_table,
    model_evaluation,
    champion_model,
    extended_model,
    model_choice,
    inference_outputs,
    inference_summary,
    drift_report,
    field_performance,
    finding_descriptions,
]
