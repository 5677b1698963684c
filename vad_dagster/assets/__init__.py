"""The assets of a line, by group."""

from vad_dagster.assets.data import ground_truth, validated_dataset

ALL_ASSETS = [ground_truth, validated_dataset]
