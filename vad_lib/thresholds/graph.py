"""The threshold graph: performance over the threshold, above the scores that it cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vad_lib.thresholds.records import as_flags, as_scores

# Okabe and Ito's colours, which people with colour-blindness tell apart.
_COLOURS = {
    "f1": "#000000",
    "precision": "#0072B2",
    "recall": "#D55E00",
    "accuracy": "#999999",
    "false_alarm_rate": "#E69F00",
}
_COLUMNS_OF_MIXED_ROWS = ("f1", "precision", "recall", "accuracy")
_NAMES = {"f1": "F1", "false_alarm_rate": "false alarms"}


def plot_threshold_table(
    table: pd.DataFrame,
    path: Path,
    *,
    scores: ArrayLike | None = None,
    is_anomalous: ArrayLike | None = None,
    title: str = "",
) -> None:
    """Write the graph of a threshold table as PNG, 1200 x 800 pixels (1200 x 560 without scores).

    Args:
        table: see `threshold_table`.
        path: where to write.
        scores: the validation scores, shape (N,); with them their distribution is drawn below, by class.
        is_anomalous: shape (N,); needed with scores.
        title: a line above the graph.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lower = scores is not None and is_anomalous is not None
    figure = Figure(figsize=(10, 6.67 if lower else 4.67), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        2 if lower else 1, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [3, 1.4][: 1 + lower]}
    )[:, 0]
    chosen = table[table["chosen"]].iloc[0]
    _draw_curves(axes[0], table, chosen)
    if lower:
        _draw_scores(axes[1], scores, is_anomalous, float(chosen["threshold"]))
    axes[-1].set_xlabel("threshold on the raw score (NG at or above it)")
    axes[0].set_xlim(*_limits(table))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.savefig(path, format="png")


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    low, high = float(table["threshold"].min()), float(table["threshold"].max())
    margin = (high - low) * 0.03 or max(abs(low), 1.0) * 0.05
    return low - margin, high + margin


def _draw_curves(axes: Any, table: pd.DataFrame, chosen: pd.Series) -> None:
    columns = _COLUMNS_OF_MIXED_ROWS if table["f1"].notna().any() else ("false_alarm_rate",)
    for column in columns:
        # A cut stands for all thresholds between two scores, hence steps and not slopes.
        axes.step(
            table["threshold"],
            table[column],
            where="mid",
            color=_COLOURS[column],
            label=_NAMES.get(column, column),
            linewidth=2.4 if column == "f1" else 1.5,
        )
    said = ", ".join(
        f"{_NAMES.get(column, column)} {chosen[column]:.3f}" for column in columns if pd.notna(chosen[column])
    )
    axes.axvline(chosen["threshold"], color="#CC79A7", linewidth=2, linestyle="--", label="chosen threshold")
    axes.set_title(f"at the chosen threshold {chosen['threshold']:.5g}: {said}", loc="left", fontsize=10)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _draw_scores(axes: Any, scores: ArrayLike | None, is_anomalous: ArrayLike | None, threshold: float) -> None:
    values = as_scores(scores if scores is not None else [])
    flags = as_flags(is_anomalous if is_anomalous is not None else [], len(values))
    edges = np.histogram_bin_edges(values, bins=min(60, max(10, len(values) // 4)))
    for rows, colour, name in ((~flags, "#009E73", "normal"), (flags, "#D55E00", "anomalous")):
        if rows.any():
            axes.hist(values[rows], bins=edges, color=colour, alpha=0.6, label=f"{name} ({int(rows.sum())})")
    axes.axvline(threshold, color="#CC79A7", linewidth=2, linestyle="--")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
