"""The tables of the trees: output.csv and the performance files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vad_lib.artifacts.records import write_json
from vad_lib.metrics import Evaluation, classification_report, confusion_matrix

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def output_table(users: pd.DataFrame, rows: Sequence[int], results: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return the user's columns of some rows with our results behind them.

    Args:
        users: the table as read, its index the row.
        rows: of its index.
        results: our columns, each as long as ``rows``. One whose name the user has already taken is called
            'vad_<name>' (with more underscores as long as that is taken too), so that no user's column is lost.
    """
    table = users.loc[list(rows)].reset_index(drop=True)
    for name, values in results.items():
        own = name
        while own in table.columns:
            own = f"vad_{own}" if own == name else f"{own}_"
        table[own] = pd.Series(list(values), index=table.index, dtype=object if not len(table) else None)
    return table


def write_csv(table: pd.DataFrame, file: Path, *, index: bool = False) -> None:
    """Write a table as UTF-8 csv: numbers in full, so that they read back as they were, and formulas as text."""
    safe = table.rename(columns=_as_text).map(_as_text)
    safe.to_csv(file, index=index, encoding="utf-8", lineterminator="\n")


def _as_text(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe in front.

    >>> _as_text("=HYPERLINK(A1)"), _as_text("-1.5"), _as_text(-1.5), _as_text("a=b")
    ("'=HYPERLINK(A1)", '-1.5', -1.5, 'a=b')
    """
    if not isinstance(cell, str) or not cell.startswith(FORMULA_STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_performance(
    folder: Path,
    prefix: str,
    evaluation: Evaluation,
    labels: Sequence[str],
    is_anomalous: Sequence[bool],
    predicted: Sequence[str],
) -> None:
    """Write ``<prefix>_classification_report.json``, ``_confusion_matrix.csv`` and ``_score.csv``."""
    write_json(folder / f"{prefix}_classification_report.json", classification_report(labels, is_anomalous, predicted))
    write_csv(confusion_matrix(is_anomalous, predicted), folder / f"{prefix}_confusion_matrix.csv", index=True)
    write_csv(score_table(evaluation), folder / f"{prefix}_score.csv")


def score_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return the one row of the score file; what is undefined is empty."""
    return pd.DataFrame(
        [
            {
                "accuracy": evaluation.accuracy,
                "precision": evaluation.precision,
                "recall": evaluation.recall,
                "F1-score": evaluation.f1,
                "AUROC": evaluation.image_auroc,
                "average_precision": evaluation.average_precision,
                "false_alarm_rate": evaluation.false_alarm_rate,
                "miss_rate": evaluation.miss_rate,
                "n": evaluation.n,
                "tp": evaluation.tp,
                "fp": evaluation.fp,
                "tn": evaluation.tn,
                "fn": evaluation.fn,
            }
        ]
    )
