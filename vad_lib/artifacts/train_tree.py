"""The guide's tree of a training: models, logs, performance, heatmaps, and a report for people.

::

    models/readiness/readiness_config.json      models/train/train_config.json
    models/train/{model_name}_model.ckpt        models/train/best_model_path.json
    log/experimental_history.json, pipeline.log, process.log
    extra_output/train/threshold_test_result.csv, .png        with anomalous validation rows only
    extra_output/train/images/{true label}_{predicted}_{original name}
    output/output.csv                           the validation rows
    output/validation_classification_report.json, _confusion_matrix.csv, _score.csv    with anomalous rows only
    report/report.html                          one file, nothing loaded from elsewhere
    score/                                      empty

``model.pickle`` is not written: nothing here is ever unpickled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vad_lib import __version__
from vad_lib.artifacts.pictures import Maps, SavedHeatmap, in_order_of_interest, rows_with_heatmaps, save_heatmaps
from vad_lib.artifacts.publishing import publish_tree
from vad_lib.artifacts.records import collect_logs, copy_logs, extend_history, write_json
from vad_lib.artifacts.tables import output_table, write_csv, write_performance
from vad_lib.artifacts.training_record import TrainingRecord
from vad_lib.artifacts.training_report import training_report
from vad_lib.progress import Progress, silent
from vad_lib.thresholds import plot_threshold_table

logger = logging.getLogger(__name__)

MOST_PICTURES_IN_REPORT = 24


@dataclass(frozen=True)
class TrainTree:
    """Where things lie in a published tree; all paths lead through the target, so they stay right.

    ``heatmaps`` is by row, those of most interest first: misses, false alarms, then the most anomalous.
    """

    folder: Path
    checkpoint: Path
    report: Path
    output: Path
    threshold_graph: Path | None
    heatmaps: Mapping[int, Path]

    def most_telling(self, most: int) -> list[Path]:
        """Return up to ``most`` heatmaps: misses first, then false alarms, then hits."""
        return list(self.heatmaps.values())[:most]


def write_train_tree(
    target: Path,
    record: TrainingRecord,
    *,
    maps: Maps | None = None,
    log_folder: Path | None = None,
    progress: Progress = silent,
    keep: int = 5,
) -> TrainTree:
    """Write the tree whole and publish it at once; if anything fails, the last one stays.

    Args:
        target: for instance ``Line.train_artifacts``.
        record: see there.
        maps: maps of the rows in `rows_with_heatmaps`, by row; None writes no heatmaps (save_validation_heatmap off).
        log_folder: with the logs that `collect_logs` gathered during the earlier steps.
        progress: told while heatmaps are drawn.
        keep: see `publish_tree`.
    """
    rows = in_order_of_interest(record.rows)
    with publish_tree(target, keep) as tree:
        folders = {
            name: tree / name
            for name in (
                "models/readiness",
                "models/train",
                "log",
                "extra_output/train/images",
                "score",
                "output",
                "report",
            )
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
        copy_logs(log_folder, folders["log"])
        with collect_logs(folders["log"]):
            _log_what_happened(record)
            write_json(folders["models/readiness"] / "readiness_config.json", record.dataset.config())
            checkpoint = folders["models/train"] / f"{record.model_name}_model.ckpt"
            _write_checkpoint(record.model_folder, checkpoint)
            # Relative to its own folder, so that the tree can be moved.
            write_json(folders["models/train"] / "best_model_path.json", {"best_model_path": checkpoint.name})
            write_json(folders["models/train"] / "train_config.json", _train_config(record))
            graph = _write_performance(tree, record)
            saved = _write_heatmaps(folders["extra_output/train/images"], record, maps, progress)
            _write_output(folders["output"] / "output.csv", record, saved)
            extend_history(target, folders["log"], _history_entry(record))
            report = training_report(record, rows, saved, graph, heatmap_folder="../extra_output/train/images")
            (folders["report"] / "report.html").write_text(report, encoding="utf-8")
            logger.info("train artifacts: %s", target)
    place = Path(target)
    names = {one.row: one.name for one in saved}
    return TrainTree(
        folder=place,
        checkpoint=place / "models/train" / checkpoint.name,
        report=place / "report/report.html",
        output=place / "output/output.csv",
        threshold_graph=place / "extra_output/train" / graph.name if graph else None,
        heatmaps={int(row): place / "extra_output/train/images" / names[row] for row in rows["row"] if row in names},
    )


def _write_checkpoint(model_folder: Path, file: Path) -> None:
    """Put the model folder into one file, which ``InspectionModel.load_checkpoint`` reads."""
    from vad_lib.detectors.storage import read_model_folder, write_checkpoint

    tensors, description = read_model_folder(model_folder)
    write_checkpoint(file, tensors, description)


def _write_performance(tree: Path, record: TrainingRecord) -> Path | None:
    rows, evaluation, table = record.rows, record.evaluation, record.learnt.table
    if not evaluation.has_anomalous:
        return None
    folder = tree / "extra_output/train"
    write_csv(table, folder / "threshold_test_result.csv")
    graph = folder / "threshold_test_result.png"
    title = f"{record.model_name}: thresholds on {evaluation.n} validation images"
    plot_threshold_table(table, graph, scores=rows["raw_score"], is_anomalous=rows["is_anomalous"], title=title)
    write_performance(
        tree / "output",
        "validation",
        evaluation,
        rows["label"].tolist(),
        rows["is_anomalous"].tolist(),
        rows["predicted"].tolist(),
    )
    return graph


def _write_heatmaps(folder: Path, record: TrainingRecord, maps: Maps | None, progress: Progress) -> list[SavedHeatmap]:
    """Write them all, but keep the pictures of only those that the report shows."""
    if maps is None or record.heatmap_scale is None:
        return []
    wanted = record.rows[rows_with_heatmaps(record.rows["is_anomalous"], record.rows["predicted"])]
    shown = set(in_order_of_interest(wanted)["row"].head(MOST_PICTURES_IN_REPORT))
    wanted = wanted.assign(sha256=wanted["row"].map(record.dataset.rows.set_index("row")["sha256"]))
    saved = save_heatmaps(folder, wanted, maps, record.heatmap_scale, progress, name_tells_result=True)
    return [one if one.row in shown else SavedHeatmap(one.row, one.name, None) for one in saved]


def _write_output(file: Path, record: TrainingRecord, saved: Sequence[SavedHeatmap]) -> None:
    rows, names = record.rows, {one.row: one.name for one in saved}
    results: dict[str, Any] = {
        "split": ["valid"] * len(rows),
        "predicted": rows["predicted"],
        "probability": rows["p"],
        "certainty": rows["certainty"],
        "raw_score": rows["raw_score"],
        "heatmap": [names.get(row, "") for row in rows["row"]],
    }
    write_csv(output_table(record.dataset.input_table, rows["row"].tolist(), results), file)


def _train_config(record: TrainingRecord) -> dict[str, Any]:
    dataset = record.dataset
    return {
        "arguments": record.train,
        "threshold": record.learnt.threshold,
        "calibration": record.learnt.calibration,
        "heatmap_scale": record.heatmap_scale,
        "class_names": {"OK": dataset.ok_class, "NG": sorted(set(dataset.valid_rows["label"]) - {dataset.ok_class})},
        "threshold_method": dataset.threshold_method,
        "monitor_metric": dataset.monitor_metric,
        "changed_arguments": list(dataset.changes),
        "allow_small_dataset": bool(dataset.arguments.get("readiness", {}).get("allow_small_dataset", False)),
        "backbone_weights": record.weights,
        "epochs": list(record.epochs),
        "notices": list(record.notices),
        "forecast": [{**asdict(one), "ratio": one.ratio} for one in record.comparisons],
        "vad_version": __version__,
        **record.facts,
    }


def _history_entry(record: TrainingRecord) -> dict[str, Any]:
    return {
        "pipeline": "train",
        "model_name": record.model_name,
        "n_train": len(record.dataset.train_rows),
        "n_valid": record.evaluation.n,
        "metrics": record.evaluation.numbers(),
        "threshold": {"value": record.learnt.threshold.value, "version": record.learnt.threshold.version},
        "arguments": record.train,
        **record.facts,
    }


def _log_what_happened(record: TrainingRecord) -> None:
    dataset = record.dataset
    logger.info("trained %s on %d images of %s", record.model_name, len(dataset.train_rows), dataset.data_folder)
    for change in dataset.changes:
        logger.info("changed %s from %r to %r: %s", change.argument, change.old, change.new, change.reason)
    for finding in dataset.findings:
        level = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}[finding.severity]
        logger.log(level, "%s: %s %s", finding.rule, finding.message, finding.advice)
    for notice in record.notices:
        logger.warning("%s", notice)
    logger.info("threshold %r by %s", record.learnt.threshold.value, record.learnt.threshold.method)
    logger.info("validation: %s", ", ".join(f"{name} {value:g}" for name, value in record.evaluation.numbers().items()))
