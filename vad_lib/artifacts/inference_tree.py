"""The guide's tree of an inspection: results, heatmaps, images for review, and the summary for the fleet manager.

::

    log/experimental_history.json, pipeline.log, process.log
    extra_output/inference/{Detector}/latest/images/{original name}      with save_anomaly_maps only
    score/inference_summary.yaml
    output/output.csv                           every row, those that could not be inspected with their problem
    output/{original name}                      copies of NG and doubtful images, for review and retraining
    output/inference_classification_report.json, _confusion_matrix.csv, _score.csv       with labels only
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.artifacts.pictures import Maps, copy_for_review, save_heatmaps
from vad_lib.artifacts.publishing import publish_tree
from vad_lib.artifacts.records import collect_logs, copy_logs, extend_history
from vad_lib.artifacts.tables import output_table, write_csv, write_performance
from vad_lib.heatmaps import HeatmapScale
from vad_lib.metrics import Evaluation, evaluate
from vad_lib.progress import Progress, silent
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.summary import InferenceSummary, SummaryStrategy, summarise
from vad_lib.tables import DroppedRows, Predictions

logger = logging.getLogger(__name__)

MOST_REVIEW_COPIES = 200
OUTPUT_FILE = "output.csv"


@dataclass(frozen=True)
class InspectionRecord:
    """Everything that is known when an inspection is over.

    Attributes:
        dataset: what was inspected, split 'inference'.
        predictions: ``tables.Predictions``.
        failed: ``tables.DroppedRows`` of images that failed only when they were scored; None for none. Those that
            readiness dropped are taken from the dataset.
        model_name: of the detector, as in the plan.
        version: of the model, for the summary.
        inference_threshold: on p, as it was used.
        review_certainty: OK images below it are copied for review too.
        heatmap_scale: of the model version; needed with maps.
        facts: other facts for the history, such as line, seconds, run_id.
    """

    dataset: ValidatedDataset
    predictions: pd.DataFrame
    model_name: str
    version: str
    failed: pd.DataFrame | None = None
    inference_threshold: float = 0.5
    review_certainty: float = 0.2
    heatmap_scale: HeatmapScale | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> pd.DataFrame:
        """Return what could not be inspected, as ``tables.DroppedRows``."""
        parts = [part for part in (self.dataset.dropped, self.failed) if part is not None and len(part)]
        return DroppedRows.validate(pd.concat(parts)) if parts else self.dataset.dropped

    def evaluation(self) -> Evaluation | None:
        """Return the performance on the rows whose labels are known; None where there are none."""
        known = self.predictions[self.predictions["is_anomalous"].notna()]
        if not len(known):
            return None
        return evaluate(known["raw_score"], known["is_anomalous"].astype(bool), known["predicted"])


@dataclass(frozen=True)
class InferenceTree:
    """Where things lie in a published tree."""

    folder: Path
    output: Path
    summary_file: Path
    summary: InferenceSummary
    heatmaps: Mapping[int, Path]
    review_copies: Mapping[int, Path]
    evaluation: Evaluation | None


def write_inference_tree(
    target: Path,
    record: InspectionRecord,
    *,
    maps: Maps | None = None,
    strategy: SummaryStrategy | None = None,
    most_review_copies: int = MOST_REVIEW_COPIES,
    log_folder: Path | None = None,
    progress: Progress = silent,
    keep: int = 5,
) -> InferenceTree:
    """Write the tree whole and publish it at once; if anything fails, the last one stays.

    Args:
        target: for instance ``Line.inference_artifacts``.
        record: see there.
        maps: maps by row; a heatmap is written for each, whatever was predicted; None writes none.
        strategy: what the summary says, see `summary.summarise`.
        most_review_copies: beyond it, images for review are marked in output.csv but not copied.
        log_folder: with the logs that `collect_logs` gathered during the earlier steps.
        progress: told while heatmaps are drawn.
        keep: see `publish_tree`.
    """
    predictions = Predictions.validate(record.predictions).reset_index(drop=True)
    problems = record.problems()
    evaluation = record.evaluation()
    images = Path("extra_output/inference", record.model_name.capitalize(), "latest/images")
    with publish_tree(target, keep) as tree:
        for folder in ("log", images, "score", "output"):
            (tree / folder).mkdir(parents=True)
        copy_logs(log_folder, tree / "log")
        with collect_logs(tree / "log"):
            for problem in problems.itertuples():
                logger.warning("not inspected: %s: %s", problem.image_path, problem.reason)
            heatmaps = _heatmap_names(tree / images, record, predictions, maps, progress)
            reviews = copy_for_review(
                tree / "output", predictions, record.review_certainty, most_review_copies, taken={OUTPUT_FILE}
            )
            write_csv(
                _every_row(record.dataset, predictions, problems, heatmaps, reviews), tree / "output" / OUTPUT_FILE
            )
            if evaluation is not None:
                known = predictions[predictions["is_anomalous"].notna()]
                flags = known["is_anomalous"].astype(bool).tolist()
                labels = known["label"].fillna("").tolist()
                write_performance(tree / "output", "inference", evaluation, labels, flags, known["predicted"].tolist())
            note = _note(predictions, problems, reviews)
            summary = summarise(predictions, record.version, note, strategy=strategy)
            summary.write(tree / "score/inference_summary.yaml")
            extend_history(target, tree / "log", _history_entry(record, summary, problems, evaluation))
            logger.info("inspected %d images: %s, certainty %s", len(predictions), summary.result, summary.score)
    place = Path(target)
    return InferenceTree(
        folder=place,
        output=place / "output" / OUTPUT_FILE,
        summary_file=place / "score/inference_summary.yaml",
        summary=summary,
        heatmaps={row: place / images / name for row, name in heatmaps.items()},
        review_copies={row: place / "output" / name for row, name in reviews.items() if name},
        evaluation=evaluation,
    )


def _heatmap_names(
    folder: Path, record: InspectionRecord, predictions: pd.DataFrame, maps: Maps | None, progress: Progress
) -> dict[int, str]:
    if maps is None or record.heatmap_scale is None:
        return {}
    saved = save_heatmaps(
        folder,
        predictions,
        maps,
        record.heatmap_scale,
        progress,
        inference_threshold=record.inference_threshold,
        name_tells_result=False,
    )
    return {one.row: one.name for one in saved}


def _every_row(
    dataset: ValidatedDataset,
    predictions: pd.DataFrame,
    problems: pd.DataFrame,
    heatmaps: Mapping[int, str],
    reviews: Mapping[int, str],
) -> pd.DataFrame:
    """Return the user's table with our columns; a row without a prediction says why."""
    by_row = predictions.set_index("row")
    rows = [int(row) for row in dataset.input_table.index]
    reasons: dict[int, str] = {}
    for problem in problems.itertuples():
        reasons.setdefault(int(str(problem.row)), str(problem.reason))
    aligned = by_row.reindex(rows)
    results: dict[str, Any] = {
        "predicted": aligned["predicted"],
        "probability": aligned["p"],
        "certainty": aligned["certainty"],
        "raw_score": aligned["raw_score"],
        "heatmap": [heatmaps.get(row, "") for row in rows],
        "review": ["yes" if row in reviews else "" for row in rows],
        "review_copy": [reviews.get(row, "") for row in rows],
        "problem": ["" if row in by_row.index else reasons.get(row, "not inspected") for row in rows],
    }
    return output_table(dataset.input_table, rows, results)


def _note(predictions: pd.DataFrame, problems: pd.DataFrame, reviews: Mapping[int, str]) -> str:
    parts = [f"{len(predictions)} inspected"]
    if len(problems):
        first = str(problems["image_path"].iloc[0])
        parts.append(f"{len(problems)} not: {first[:40]}" + (" and others" if len(problems) > 1 else ""))
    if reviews:
        copied = sum(1 for name in reviews.values() if name)
        parts.append(f"{len(reviews)} for review" + (f", {copied} copied" if copied < len(reviews) else ""))
    return "; ".join(parts)


def _history_entry(
    record: InspectionRecord, summary: InferenceSummary, problems: pd.DataFrame, evaluation: Evaluation | None
) -> dict[str, Any]:
    return {
        "pipeline": "inference",
        "model_name": record.model_name,
        "version": record.version,
        "inference_threshold": record.inference_threshold,
        "n_inspected": len(record.predictions),
        "n_not_inspected": len(problems),
        "result": summary.result,
        "score": summary.score,
        "metrics": evaluation.numbers() if evaluation else {},
        **record.facts,
    }
