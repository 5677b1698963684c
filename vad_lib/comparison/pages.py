"""What a comparison says: tables in markdown and as data, and one page with pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vad_lib.artifacts.html import page, table_of
from vad_lib.comparison.running import PERCENTILE, Compared
from vad_lib.heatmaps import data_url, draw_heatmap, learn_heatmap_scale
from vad_lib.metrics import interval

MOST_PICTURES = 6
"""Heatmaps of each detector on a page: the misses and false alarms first."""
WEAKEST, STRONGEST = "low contrast", "high contrast"


def result_table(results: Iterable[Compared]) -> pd.DataFrame:
    """Return a row for each detector that ran on a set, as text for people: set by set, the largest AUROC first."""
    rows = []
    for one in _by_set(results):
        found = one.evaluation
        if found is None:
            continue
        low, high = one.interval or (float("nan"), float("nan"))
        right_low, right_high = interval(found.tp + found.tn, found.n)
        rows.append(
            {
                "set": one.images,
                "detector": one.candidate.detector,
                "note": one.candidate.note,
                "encoder": one.encoder,
                "n": str(found.n),
                "tp": str(found.tp),
                "fp": str(found.fp),
                "tn": str(found.tn),
                "fn": str(found.fn),
                "accuracy (95 %)": f"{found.accuracy:.3f} ({right_low:.3f} to {right_high:.3f})",
                "image AUROC (95 %)": f"{found.image_auroc:.3f} ({low:.3f} to {high:.3f})",
                "pixel AUROC": "" if one.pixel_auroc is None else f"{one.pixel_auroc:.3f}",
                "fit s": f"{one.fit_seconds:.0f}",
                "ms an image": f"{one.ms_per_image:.0f}",
                "MB": f"{one.megabytes:.0f}",
            }
        )
    return _without_empty(pd.DataFrame(rows))


def not_run_table(results: Iterable[Compared]) -> pd.DataFrame:
    """Return what did not run, and why: a row for each detector and reason."""
    sets: dict[tuple[str, str, str], list[str]] = {}
    for one in results:
        if one.evaluation is None:
            sets.setdefault((one.candidate.detector, one.candidate.note, one.reason), []).append(one.images)
    rows = [
        {"detector": name, "note": note, "sets": ", ".join(on), "why not": why}
        for (name, note, why), on in sets.items()
    ]
    return _without_empty(pd.DataFrame(rows))


def _by_set(results: Iterable[Compared]) -> list[Compared]:
    every = list(results)
    sets = list(dict.fromkeys(one.images for one in every))

    def place(one: Compared) -> tuple[int, float]:
        return sets.index(one.images), -((one.evaluation.image_auroc if one.evaluation else None) or 0.0)

    return sorted(every, key=place)


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the columns that are empty throughout."""
    told = table.fillna("")
    return told.loc[:, [bool((told[column].astype(str) != "").any()) for column in told]]


def mean_table(results: Sequence[Compared]) -> pd.DataFrame:
    """Return the means over the sets, a row for each detector that ran on all of them."""
    rows = []
    for name in dict.fromkeys((one.candidate.detector, one.candidate.note) for one in results):
        own = [one for one in results if (one.candidate.detector, one.candidate.note) == name]
        if any(one.evaluation is None for one in own):
            continue
        found = [one.evaluation for one in own if one.evaluation is not None]
        pixels = [one.pixel_auroc for one in own if one.pixel_auroc is not None]
        rows.append(
            {
                "detector": name[0],
                "note": name[1],
                "sets": len(own),
                "n": sum(one.n for one in found),
                "accuracy": f"{np.mean([one.accuracy for one in found]):.3f}",
                "image AUROC": f"{np.mean([one.image_auroc for one in found]):.3f}",
                "pixel AUROC": f"{np.mean(pixels):.3f}" if len(pixels) == len(own) else "",
            }
        )
    return pd.DataFrame(rows)


def recall_table(results: Iterable[Compared]) -> pd.DataFrame:
    """Return the share of anomalous images that were found, as 'found/all', by kind, contrast and size."""
    rows = []
    for one in _by_set(results):
        if one.evaluation is None:
            continue
        bad = one.rows[one.rows["is_anomalous"]]
        groups = {str(kind): rows for kind, rows in bad.groupby("kind")}
        for column, small, large in (("contrast", WEAKEST, STRONGEST), ("area", "small", "large")):
            known = bad[bad[column].notna()]
            if len(known):
                groups[small] = known[known[column] <= known[column].median()]
                groups[large] = known[known[column] > known[column].median()]
        found = {name: f"{int((rows['predicted'] == 'NG').sum())}/{len(rows)}" for name, rows in groups.items()}
        rows.append({"set": one.images, "detector": one.candidate.detector, "note": one.candidate.note, **found})
    return _without_empty(pd.DataFrame(rows))


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table in markdown."""
    kept = _without_empty(table)
    lines = [f"| {' | '.join(map(str, kept))} |", f"|{'---|' * len(kept.columns)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in kept.to_numpy()]
    return "\n".join(lines)


def comparison_page(
    title: str, introduction: Sequence[str], results: Sequence[Compared], tables: Mapping[str, pd.DataFrame]
) -> str:
    """Return the page: what was compared, the tables, and for each detector pictures of what it got wrong and right."""
    facts = [
        *introduction,
        f"Each threshold is the {PERCENTILE} quantile of the scores of normal images that were held back; no anomalous "
        "image had a part in it. The intervals are of 95 %.",
    ]
    sections = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(fact)}</p>" for fact in facts)]
    for heading, table in tables.items():
        shown = table_of([str(name) for name in table], table.to_numpy().tolist())
        sections.append(f'<h2>{escape(heading)}</h2><div class="wide">{shown}</div>')
    sections += [_pictures(one) for one in _by_set(results) if one.maps]
    return page(title, sections)


def _pictures(one: Compared) -> str:
    rows = one.rows.assign(wrong=(one.rows["predicted"] == "NG") != one.rows["is_anomalous"])
    scale = learn_heatmap_scale((one.maps[file] for file in rows["file"]), (rows["predicted"] == "NG").to_numpy())
    # the wrong ones first, then anomalous ones, each from the least certain on
    order = rows.assign(distance=(rows["p"] - 0.5).abs()).sort_values(
        ["wrong", "is_anomalous", "distance"], ascending=[False, False, True]
    )
    shown = []
    for row in order.head(MOST_PICTURES).to_dict("records"):
        with Image.open(row["file"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        picture = draw_heatmap(
            pixels,
            one.maps[row["file"]],
            scale,
            title=f"{row['kind']}: {Path(row['file']).name}",
            p=row["p"],
            raw_score=row["raw_score"],
            predicted=row["predicted"],
            true_label=row["kind"],
            is_anomalous=row["is_anomalous"],
        )
        shown.append(f'<img alt="{escape(row["kind"])}" src="{data_url(picture, 640)}">')
    heading = f"{one.candidate.detector} on {one.images}"
    note = f"<p>{escape(one.candidate.note)}</p>" if one.candidate.note else ""
    return f'<h2>{escape(heading)}</h2>{note}<div class="sheet">{"".join(shown)}</div>'
