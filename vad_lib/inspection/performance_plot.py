"""Precision and recall of a line in use, by week, as a picture."""

from __future__ import annotations

import base64
import io

from vad_lib.inspection_db.field_performance import FieldPerformance

COLOURS = {"precision": "#0072B2", "recall": "#D55E00"}
"""Okabe and Ito's, which people with colour-blindness tell apart."""


def performance_plot(found: FieldPerformance) -> str:
    """Return a PNG as a data: URL: a point and its interval of 95 % for each week in which it is known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(8, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    weeks = list(found.weeks)
    for side, (name, colour) in enumerate(COLOURS.items()):
        known = [
            (place, one) for place, week in enumerate(weeks) if (one := getattr(found.weeks[week], name)) is not None
        ]
        if known:
            axes.errorbar(
                [place + 0.12 * (side - 0.5) for place, _ in known],
                [one.value for _, one in known],
                yerr=[[one.value - one.low for _, one in known], [one.high - one.value for _, one in known]],
                fmt="o",
                color=colour,
                capsize=3,
                label=name,
            )
    axes.set_xticks(range(len(weeks)), weeks, rotation=30, ha="right")
    axes.set_xlim(-0.6, max(len(weeks), 1) - 0.4)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing was judged yet", ha="center", transform=axes.transAxes)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
