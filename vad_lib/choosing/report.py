"""What a comparison on a line's own images says: tables, a recommendation with its reason, and a page with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path

import pandas as pd
from PIL import Image

from vad_lib.artifacts.html import page, table_of
from vad_lib.choosing.cross_validation import CrossValidated
from vad_lib.choosing.figures import Figures
from vad_lib.choosing.folds import DRAWN
from vad_lib.choosing.pairs import Difference, difference_of
from vad_lib.heatmaps import data_url
from vad_lib.images.decoding import decode_image
from vad_lib.progress import format_seconds

MOST_PICTURES = 12
PICTURE_SIDE = 240
FAR_OUT = 3.0
"""A normal image is suspicious where its score lies so many interquartile ranges above the upper quartile (Tukey)."""


@dataclass(frozen=True)
class Choice:
    """A comparison of detectors on a line.

    Attributes:
        line: its name.
        results: what ran and what did not, in the order of being asked for.
        figures: of those that ran, by name.
        differences: between each two of those that ran.
    """

    line: str
    results: tuple[CrossValidated, ...]
    figures: Mapping[str, Figures]
    differences: tuple[Difference, ...]

    @classmethod
    def of(cls, line: str, results: Sequence[CrossValidated], figures: Mapping[str, Figures]) -> Choice:
        """Compare each two of the detectors that ran."""
        ran = [one for one in results if not one.reason]
        return cls(line, tuple(results), figures, tuple(difference_of(*two) for two in combinations(ran, 2)))

    @property
    def ran(self) -> list[CrossValidated]:
        """Those that ran, the largest AUROC first."""
        ran = [one for one in self.results if not one.reason]
        return sorted(ran, key=lambda one: -self.figures[one.name].auroc.value)

    def recommended(self) -> CrossValidated | None:
        """Return the fastest of those that cannot be told from the best; None where nothing ran."""
        if not self.ran:
            return None
        best = self.ran[0]
        alike = {best.name}
        for one in self.differences:
            if best.name in (one.first, one.second) and not one.is_shown:
                alike |= {one.first, one.second}
        return min((one for one in self.ran if one.name in alike), key=lambda one: one.ms_per_image)

    def in_words(self) -> str:
        """Say which detector is recommended, and why."""
        chosen = self.recommended()
        if chosen is None:
            return "No detector ran: the reasons are below."
        best, figures = self.ran[0], self.figures[chosen.name]
        told = f"Recommended: {chosen.name}. Its AUROC is {figures.auroc} on {figures.auroc.n} images"
        if chosen is best:
            told += ", the largest." if len(self.ran) > 1 else "."
        else:
            told += (
                f". {best.name} has {self.figures[best.name].auroc}, but no difference can be shown on these images, "
                f"and {chosen.name} takes {chosen.ms_per_image:.0f} instead of {best.ms_per_image:.0f} ms an image."
            )
        if self.is_drawn:
            told += " The defects were drawn, as the line has no real ones: how well real ones are found is not known."
        return told

    @property
    def is_drawn(self) -> bool:
        """Whether the defects are drawn ones."""
        return any(one.rows["label"].str.startswith(DRAWN).any() for one in self.ran)

    def table(self) -> pd.DataFrame:
        """Return one row a detector that ran, as text for people, the largest AUROC first."""
        rows = []
        for one in self.ran:
            found = self.figures[one.name]
            rows.append(
                {
                    "detector": one.name,
                    "n": found.auroc.n,
                    "image AUROC": str(found.auroc),
                    "average precision": str(found.average_precision),
                    "F1": str(found.f1),
                    "recall": str(found.recall),
                    "false alarms": str(found.false_alarms),
                    "recall at 1 % false alarms": str(found.recall_at_1),
                    "recall at none": str(found.recall_at_0),
                    "fit": format_seconds(one.fit_seconds),
                    "ms an image": f"{one.ms_per_image:.0f}",
                    "MB": f"{one.megabytes:.0f}",
                    "encoder": one.encoder,
                }
            )
        return pd.DataFrame(rows)

    def unseen_table(self) -> pd.DataFrame:
        """Return the recall of each kind of defect where the threshold was learnt without that kind."""
        rows = []
        for one in self.ran:
            kinds = {kind: f"{each} n {each.n}" for kind, each in self.figures[one.name].unseen_recall.items()}
            rows.append({"detector": one.name, **kinds})
        return pd.DataFrame(rows).fillna("")

    def not_run(self) -> pd.DataFrame:
        """Return what did not run, and why."""
        return pd.DataFrame([{"detector": one.name, "why not": one.reason} for one in self.results if one.reason])

    def suspicious(self) -> pd.DataFrame:
        """Return images whose label most detectors contradict, the most suspicious first.

        A normal image is one where its score lies far above those of the others; a defective one where it lies below
        the median of the normal images. Each was scored by models that did not see it.

        Returns:
            row, file, label, why, and by how many detectors.
        """
        votes: list[pd.DataFrame] = []
        for one in self.ran:
            rows = one.rows
            normal = rows.loc[~rows["is_anomalous"], "raw_score"]
            low, high = normal.quantile(0.25), normal.quantile(0.75)
            far = (rows["raw_score"] - high) / max(high - low, 1e-12)
            odd_normal = ~rows["is_anomalous"] & (far > FAR_OUT)
            odd_defect = rows["is_anomalous"] & (rows["raw_score"] < normal.median())
            why = odd_normal.map({True: "called normal, and far from the other normal images", False: ""})
            why = why.mask(odd_defect, "called defective, and like the normal images")
            votes.append(rows.assign(why=why, far=far.abs())[odd_normal | odd_defect])
        if not votes:
            return pd.DataFrame(columns=["row", "file", "label", "why", "detectors"])
        found = pd.concat(votes).groupby(["row", "file", "label", "why"], as_index=False)
        table = found.agg(detectors=("far", "size"), far=("far", "mean"))
        table = table[table["detectors"] * 2 > len(self.ran)]
        return table.sort_values(["detectors", "far"], ascending=False).drop(columns="far").reset_index(drop=True)


def choice_page(choice: Choice, facts: Sequence[str]) -> str:
    """Return the page of a comparison.

    Args:
        choice: what was found.
        facts: what was compared and how, in sentences.
    """
    warnings = dict.fromkeys(found.warning for found in choice.figures.values() if found.warning)
    sections = [
        f"<h1>Detectors on {escape(choice.line)}</h1>",
        f"<p><b>{escape(choice.in_words())}</b></p>",
        *(f"<p>{escape(fact)}</p>" for fact in facts),
        *(f'<p class="warn">{escape(warning)}</p>' for warning in warnings),
    ]
    tables = {
        "Figures": choice.table().set_index("detector").T.reset_index(names="") if choice.ran else pd.DataFrame(),
        "Kinds of defect that the threshold had not seen": choice.unseen_table(),
        "Did not run": choice.not_run(),
    }
    for heading, table in tables.items():
        if len(table):
            shown = table_of([str(name) for name in table], table.to_numpy().tolist())
            sections.append(f'<h2>{escape(heading)}</h2><div class="wide">{shown}</div>')
    if choice.differences:
        sections += ["<h2>Differences</h2>", *(f"<p>{escape(one.in_words())}</p>" for one in choice.differences)]
    sections.append(_curves(choice))
    odd = [(str(row.file), f"{row.label}: {row.why}") for row in choice.suspicious().itertuples()]
    sections.append(_pictures("Images to look at: their label may be wrong", odd))
    sections.append(_pictures("Images on which the detectors differ", _differing(choice)))
    return page(f"Detectors on {choice.line}", sections)


def _differing(choice: Choice) -> list[tuple[str, str]]:
    """Return the images that some call OK and some NG, with who says what."""
    if len(choice.ran) < 2:
        return []
    said = pd.DataFrame({one.name: one.rows.set_index("file")["predicted"] for one in choice.ran})
    labels = choice.ran[0].rows.set_index("file")["label"].to_dict()
    differ = said[said.nunique(axis=1) > 1].to_dict("index")
    return [
        (str(file), f"{labels[file]}: " + ", ".join(f"{name} {verdict}" for name, verdict in row.items()))
        for file, row in differ.items()
    ]


def _pictures(heading: str, shown: Sequence[tuple[str, str]]) -> str:
    if not shown:
        return ""
    more = f"<p>The first {MOST_PICTURES} of {len(shown)}.</p>" if len(shown) > MOST_PICTURES else ""
    figures = []
    for file, words in shown[:MOST_PICTURES]:
        source = data_url(Image.fromarray(decode_image(Path(file)).pixels), PICTURE_SIDE)
        figures.append(
            f'<figure style="display:inline-block;width:{PICTURE_SIDE}px;margin:0 14px 14px 0;vertical-align:top">'
            f'<img alt="" src="{source}"><figcaption>{escape(Path(file).name)}<br>'
            f"{escape(words)}</figcaption></figure>"
        )
    return f"<h2>{escape(heading)}</h2>{more}{''.join(figures)}"


def _curves(choice: Choice) -> str:
    """Return the ROC curves as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from sklearn.metrics import roc_curve

    if not choice.ran:
        return ""
    canvas = Canvas(figsize=(7, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for one in choice.ran:
        false_alarms, recall, _ = roc_curve(one.rows["is_anomalous"], one.rows["raw_score"])
        axes.step(false_alarms, recall, where="post", label=f"{one.name} {choice.figures[one.name].auroc.value:.3f}")
    axes.set_xlabel("share of the normal images that are called NG")
    axes.set_ylabel("share of the defects that are found")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png")
    source = base64.b64encode(stream.getvalue()).decode()
    return f'<h2>Curves</h2><img class="graph" alt="ROC curves" src="data:image/png;base64,{source}">'
