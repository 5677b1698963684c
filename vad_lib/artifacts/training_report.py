"""The report of a training for people: one HTML file that loads nothing from elsewhere, so it can be mailed and kept.

It answers, in this order: can I trust this model, what does it get wrong, what would another threshold do, what was it
trained on, what was changed behind my back.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from vad_lib.artifacts.html import cell, number, page, pairs, table_of
from vad_lib.encoders.fallback import measured_cost
from vad_lib.heatmaps import data_url
from vad_lib.metrics import Evaluation
from vad_lib.progress import format_seconds
from vad_lib.thresholds import Calibration, DecisionRule

if TYPE_CHECKING:
    from vad_lib.artifacts.pictures import SavedHeatmap
    from vad_lib.artifacts.training_record import TrainingRecord

_MOST_ERRORS_LISTED = 50
_PICTURE_WIDTH = 640


def training_report(
    record: TrainingRecord,
    rows: pd.DataFrame,
    heatmaps: Sequence[SavedHeatmap],
    threshold_graph: Path | None,
    heatmap_folder: str,
) -> str:
    """Return the HTML of the report.

    Args:
        record: of the training.
        rows: ``record.rows``, those of most interest first.
        heatmaps: those written; the ones with a picture are shown.
        threshold_graph: a PNG, put inside; None without anomalous rows.
        heatmap_folder: as seen from the report, to link the files of the pictures.
    """
    sections = [
        _head(record),
        _warning_of_weights(record),
        _errors(rows, heatmaps, heatmap_folder),
        _threshold(record, threshold_graph),
        _confusion(record.evaluation, rows),
        _data(record),
        _weights(record),
        _changes_and_findings(record),
        _epochs(record.epochs),
        _forecast(record),
        _arguments(record),
    ]
    return page(f"Training report: {record.line}", sections)


def _head(record: TrainingRecord) -> str:
    facts, evaluation, threshold = record.facts, record.evaluation, record.learnt.threshold
    fitted = len(record.dataset.train_rows)
    trained = f"{escape(record.model_name)} trained on {f'{fitted} normal' if fitted else 'no'} images"
    version = f", version {escape(str(facts['model_version']))}" if facts.get("model_version") else ""
    seconds = f" in {format_seconds(float(facts['seconds']))}" if facts.get("seconds") is not None else ""
    date = f"{threshold.created_at:%Y-%m-%d %H:%M} UTC"
    cards = [
        ("image AUROC", number(evaluation.image_auroc), ""),
        ("F1", number(evaluation.f1), ""),
        ("recall", number(evaluation.recall), ""),
        ("precision", number(evaluation.precision), ""),
        ("misses (fn)", str(evaluation.fn), "bad" if evaluation.fn else ""),
        ("false alarms (fp)", str(evaluation.fp), "odd" if evaluation.fp else ""),
        ("validation images", str(evaluation.n), ""),
    ]
    if not evaluation.has_anomalous:
        cards = [("validation images", "0", "")]
    if evaluation.n and not evaluation.has_anomalous:
        cards = [
            ("false alarm rate", number(evaluation.false_alarm_rate), ""),
            ("false alarms (fp)", str(evaluation.fp), "odd" if evaluation.fp else ""),
            ("validation images, all normal", str(evaluation.n), ""),
        ]
    shown = "".join(f'<div class="card {kind}"><b>{value}</b><span>{name}</span></div>' for name, value, kind in cards)
    unknown = ""
    if not evaluation.has_anomalous:
        told = "No anomalous image was validated, so nothing is known about what this model finds."
        unknown = (
            f'<div class="warn">{told if evaluation.n else evaluation.in_words()} '
            "Ten examples of each kind of defect are enough to tell.</div>"
        )
    return (
        f'<h1>Training report: {escape(record.line)}</h1><p class="faint">{trained}{version}{seconds}, {date}. '
        f'Threshold {threshold.value:.6g} ({threshold.method}).</p><div class="cards">{shown}</div>{unknown}'
    )


def _warning_of_weights(record: TrainingRecord) -> str:
    if record.weights.get("is_fallback"):
        return (
            '<div class="warn">The fallback backbone was used. '
            f"{escape(measured_cost())} Weights of the one that the plan names, put into the weights store, give a "
            "better model.</div>"
        )
    if record.weights.get("source") == "random":
        return (
            '<div class="warn error">The backbone was not trained at all (random weights). This model is for trying '
            "the software only: do not inspect with it.</div>"
        )
    return ""


def _weights(record: TrainingRecord) -> str:
    told = {name: value for name, value in record.weights.items() if value}
    return f"<h2>Backbone weights</h2>{pairs(told)}" if told else ""


def _errors(rows: pd.DataFrame, heatmaps: Sequence[SavedHeatmap], heatmap_folder: str) -> str:
    if rows.empty:
        return ""
    by_row = {one.row: one for one in heatmaps}
    pictures = []
    for row in rows["row"]:
        one = by_row.get(int(row))
        if one is None or one.picture is None:
            continue
        link = quote(f"{heatmap_folder}/{one.name}")
        pictures.append(
            f'<a href="{escape(link)}"><img loading="lazy" alt="{escape(one.name)}" '
            f'src="{data_url(one.picture, _PICTURE_WIDTH)}"></a>'
        )
    wrong = rows[rows["is_anomalous"] != (rows["predicted"] == "NG")]
    told = (
        "Nothing is decided wrongly on the validation images."
        if not len(wrong)
        else f"{len(wrong)} of {len(rows)} validation images are decided wrongly: misses first, then false alarms."
    )
    table = table_of(
        ("image", "label", "predicted", "p", "raw score"),
        [
            (row["image_path"], row["label"], row["predicted"], f"{row['p']:.4f}", f"{row['raw_score']:.5g}")
            for row in wrong.head(_MOST_ERRORS_LISTED).to_dict("records")
        ],
        numbers=(3, 4),
    )
    sheet = f'<div class="sheet">{"".join(pictures)}</div>' if pictures else ""
    shown = f'<p class="faint">The {len(pictures)} pictures of most interest; the rest are in {heatmap_folder}.</p>'
    return f"<h2>What it gets wrong, and what it finds</h2><p>{told}</p>{table}{shown if pictures else ''}{sheet}"


def _threshold(record: TrainingRecord, graph: Path | None) -> str:
    threshold = record.learnt.threshold
    quantile = f" {threshold.percentile:g}" if threshold.percentile is not None else ""
    learnt_from_rows = threshold.n_normal + threshold.n_anomalous > 0
    how = (
        f"Learnt by {threshold.method}{quantile} on {threshold.n_normal} normal and {threshold.n_anomalous} anomalous "
        f"validation images; version <code>{threshold.version}</code>. {escape(threshold.note)}"
        if learnt_from_rows
        else f"{threshold.method}{quantile}; version <code>{threshold.version}</code>. {escape(threshold.note)}"
    )
    if threshold.method == "Percentile" and threshold.percentile is not None:
        how += (
            f" By construction about {100 * (1 - threshold.percentile):.3g} % of normal images are called NG: raise "
            "<code>percentile</code> for fewer false alarms."
        )
    image = ""
    if graph is not None:
        encoded = base64.b64encode(graph.read_bytes()).decode()
        image = f'<img class="graph" alt="performance over the threshold" src="data:image/png;base64,{encoded}">'
    table = table_of(
        ("choice", "inference_threshold", "raw score", "misses", "false alarms", "F1"),
        [
            (
                name,
                _shortest_p(float(row["p"]), record.learnt.calibration, record.rows["raw_score"]),
                f"{row['threshold']:.6g}",
                row["fn"],
                row["fp"],
                number(row["f1"]),
            )
            for name, row in _choices(record.learnt.table, record.evaluation)
            if learnt_from_rows
        ],
        numbers=(1, 2, 3, 4, 5),
    )
    hint = '<p class="faint">To use another one, write its inference_threshold in the plan, step inference.</p>'
    return f"<h2>Threshold</h2><p>{how}</p>{image}{table}{hint}"


def _shortest_p(p: float, calibration: Calibration, raw_scores: pd.Series) -> str:
    """Write a threshold on p with as few digits as decide the validation rows alike."""
    wanted = DecisionRule(calibration, p).judge(raw_scores).predicted
    for digits in range(2, 16):
        short = round(p, digits)
        if 0 < short < 1 and (DecisionRule(calibration, short).judge(raw_scores).predicted == wanted).all():
            return f"{short:g}" if digits < 6 else repr(short)
    return repr(p)


def _choices(table: pd.DataFrame, evaluation: Evaluation) -> list[tuple[str, dict[Any, Any]]]:
    chosen = table[table["chosen"]]
    picks = [("learnt", chosen)]
    if evaluation.has_anomalous:
        picks.append(("no miss, fewest false alarms", table[table["fn"] == 0].tail(1)))
    picks.append(("no false alarm, fewest misses", table[table["fp"] == 0].head(1)))
    if evaluation.has_anomalous:
        picks.append(("most right decisions", table.loc[[table["accuracy"].idxmax()]]))
    return [(name, rows.to_dict("records")[0]) for name, rows in picks if len(rows)]


def _confusion(evaluation: Evaluation, rows: pd.DataFrame) -> str:
    if not evaluation.has_anomalous:
        return ""
    matrix = (
        '<table class="matrix"><tr><th></th><th>predicted OK</th><th>predicted NG</th></tr>'
        f'<tr><th>normal</th><td class="hit">{evaluation.tn}</td><td class="slip">{evaluation.fp}</td></tr>'
        f'<tr><th>anomalous</th><td class="slip">{evaluation.fn}</td><td class="hit">{evaluation.tp}</td></tr></table>'
    )
    by_label = rows.assign(ng=rows["predicted"] == "NG").groupby("label")["ng"].agg(["size", "sum"])
    table = table_of(
        ("label", "images", "predicted NG", "share NG"),
        [(label, size, ng, f"{ng / size:.1%}") for label, size, ng in by_label.itertuples()],
        numbers=(1, 2, 3),
    )
    return f"<h2>Confusion matrix</h2>{matrix}{table}"


def _data(record: TrainingRecord) -> str:
    dataset = record.dataset
    if dataset.rows.empty:
        return "<h2>What it was trained on</h2><p>There was no image of this line: the detector needs none.</p>"
    counts = dataset.rows.groupby(["split", "label"], dropna=False).size()
    sizes = dataset.rows.groupby(["width", "height", "channels"]).size().sort_values(ascending=False)
    told = [
        f"{width} x {height}, {'grey' if channels == 1 else 'colour'}: {n}"
        for width, height, channels, n in sizes.head(8).reset_index(name="n").itertuples(index=False)
    ]
    dropped = dataset.dropped
    dropped_table = table_of(
        ("dropped", "reason"),
        [(row["image_path"], row["reason"]) for row in dropped.head(_MOST_ERRORS_LISTED).to_dict("records")],
    )
    return (
        f"<h2>What it was trained on</h2><p>{len(dataset.rows)} of {len(dataset.input_table)} rows from "
        f"<code>{escape(str(dataset.data_folder))}</code>; the normal label is <b>{escape(dataset.ok_class)}</b>.</p>"
        + (f"<p>{escape(people)}</p>" if (people := dataset.people_in_words()) else "")
        + table_of(("split", "label", "images"), counts.reset_index().to_numpy().tolist(), numbers=(2,))
        + f"<p>Sizes: {escape('; '.join(told))}{' and others' if len(sizes) > 8 else ''}.</p>"
        + (f"<p>{len(dropped)} rows were dropped.</p>{dropped_table}" if len(dropped) else "")
    )


def _changes_and_findings(record: TrainingRecord) -> str:
    dataset = record.dataset
    changes = table_of(
        ("argument", "given", "used", "why"),
        [(c.argument, str(c.old), str(c.new), c.reason) for c in dataset.changes],
    )
    notices = [f'<div class="warn">{escape(notice)}</div>' for notice in record.notices]
    order = {"error": 0, "warn": 1, "info": 2}
    findings = [
        f'<div class="warn {finding.severity}"><b>{escape(finding.rule)}</b>: {escape(finding.message)} '
        f'<span class="faint">{escape(finding.advice)}</span></div>'
        for finding in sorted(dataset.findings, key=lambda finding: order[finding.severity])
    ]
    shown = changes + "".join([*notices, *findings])
    return f"<h2>Changes and findings</h2>{shown or '<p>Nothing was changed and nothing was found.</p>'}"


def _epochs(epochs: Sequence[Mapping[str, Any]]) -> str:
    if not epochs:
        return ""
    names = list(epochs[0])
    rows = [[cell(epoch.get(name)) for name in names] for epoch in epochs]
    return f"<h2>Epochs</h2>{table_of(names, rows, numbers=tuple(range(len(names))))}"


def _forecast(record: TrainingRecord) -> str:
    rows = [
        (one.what, f"{one.forecast:,.4g}", f"{one.actual:,.4g}", "–" if one.ratio is None else f"{one.ratio:.2f}")
        for one in record.comparisons
    ]
    table = table_of(("", "forecast", "actual", "actual / forecast"), rows, numbers=(1, 2, 3))
    return f"<h2>What it took</h2>{table}" if rows else ""


def _arguments(record: TrainingRecord) -> str:
    arguments = {
        **record.dataset.arguments.get("readiness", {}),
        **record.train.model_dump(mode="json"),
        **record.facts,
    }
    return f"<h2>Arguments and facts</h2><details><summary>show all</summary>{pairs(arguments)}</details>"
