"""What the pages of assets show: values of vad_lib as metadata of Dagster.

Only the form is decided here. What is said about an evaluation or a version is written in ``vad_lib.metrics`` and
``vad_lib.artifacts.version_card``, where MLflow's pages take it from too.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from vad_dagster.provenance import prediction_page
from vad_dagster.values import ChampionOnRows
from vad_lib.artifacts.version_card import evaluations_table
from vad_lib.forecast import Comparison
from vad_lib.ground_truth import InputTable
from vad_lib.inspection_db.labels import Agreement
from vad_lib.metrics import Evaluation
from vad_lib.plan import ExperimentalPlan
from vad_lib.progress import format_seconds
from vad_lib.readiness import ValidatedDataset
from vad_lib.thresholds import LearntThreshold

if TYPE_CHECKING:
    from vad_dagster.registry import Version
    from vad_lib.extending import Extension
    from vad_lib.trained_model import FitRecord

PREVIEW_ROWS = 10


def plan_metadata(plan: ExperimentalPlan) -> dict[str, Any]:
    """Return which plan was in force, and what an operator changed."""
    metadata: dict[str, Any] = {"plan digest": plan.digest[:12]}
    if plan.operator_given:
        metadata["set by the operator"] = dg.MetadataValue.json(
            {key: str(value) for key, value in plan.operator_given.items()}
        )
    if plan.notices:
        metadata["notices of the plan"] = bullets(plan.notices)
    return metadata


def label_metadata(line: str, labels: pd.DataFrame, newest: int) -> dict[str, Any]:
    """Return how many labels of people hold, who gave them, and the newest with the pages of their predictions.

    Args:
        line: its name.
        labels: ``tables.ConfirmedLabels``.
        newest: number of the last label or withdrawal.
    """
    counts = labels["label"].value_counts()
    metadata: dict[str, Any] = {
        "dagster/row_count": len(labels),
        "normal": int(counts.get("OK", 0)),
        "defective": int(counts.get("NG", 0)),
        "images lost": int(labels["file"].isna().sum()),
        "last label or withdrawal": newest,
    }
    if labels.empty:
        return metadata
    told = labels.sort_values("label_id", ascending=False)
    people = told["person"].value_counts()
    shown = told.head(PREVIEW_ROWS).astype({"created_at": "datetime64[s, UTC]"}).astype(str).to_dict("records")
    rows = [
        f"| {one['created_at'][:16]} | {html.escape(one['person'])} | {one['label']} | "
        f"[{html.escape(Path(one['path']).name)}]({prediction_page(line, one['prediction_id'])}) | "
        f"{one['model_version']} |"
        for one in shown
    ]
    head = ["| time (UTC) | person | says | of | predicted by |", "|---|---|---|---|---|"]
    return {
        **metadata,
        "people": ", ".join(f"{person}: {count}" for person, count in people.items()),
        "newest": dg.MetadataValue.timestamp(told["created_at"].iloc[0].to_pydatetime()),
        "the newest labels": dg.MetadataValue.md("\n".join([*head, *rows])),
    }


def input_metadata(table: InputTable) -> dict[str, Any]:
    """Return what was read, before anything is repaired."""
    return {
        "rows": len(table.table),
        "data folder": dg.MetadataValue.path(str(table.data_folder)),
        "files": ", ".join(table.source_files),
        "rows by people": len(table.labels),
        "labels": _label_counts(table),
        "preview": preview_table(table.table),
        "dagster/row_count": len(table.table),
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(str(name), "string") for name in table.table.columns]),
    }


def dataset_metadata(dataset: ValidatedDataset) -> dict[str, Any]:
    """Return what readiness kept, dropped and changed."""
    rows = dataset.rows
    split = rows["split"]
    anomalous = rows["is_anomalous"].fillna(False).astype(bool)
    changes = [f"`{c.argument}`: {c.old!r} → {c.new!r}. {c.reason}" for c in dataset.changes]
    return {
        "dagster/row_count": len(rows),
        "train rows": int((split == "train").sum()),
        "valid rows, normal": int(((split == "valid") & ~anomalous).sum()),
        "valid rows, anomalous": int(((split == "valid") & anomalous).sum()),
        "rows left out of the fit": int((split == "excluded").sum()),
        "dropped rows": len(dataset.dropped),
        "labels of people": dataset.people_in_words() or "none",
        "normal label": dataset.ok_class or "",
        "threshold method": dataset.threshold_method,
        "monitored metric": dataset.monitor_metric,
        "changed automatically": bullets(changes) if changes else "nothing",
        "dropped": preview_table(dataset.dropped),
        "preview": preview_table(rows.drop(columns=["sha256", "file"])),
    }


def fit_metadata(fit: FitRecord, memory_bank: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return detector, backbone, time and the numbers of a fit, and what it took beside the forecast."""
    comparisons = fit.comparisons()
    metadata: dict[str, Any] = {
        "detector": fit.train.model_name,
        "backbone": f"{fit.info.backbone.get('name') or 'none'} ({fit.info.backbone.get('source')})",
        "images learnt from": fit.info.n_train,
        "fit seconds": fit.info.fit_seconds,
        "time": format_seconds(fit.info.fit_seconds),
        **{name.replace("_", " "): value for name, value in fit.numbers.items()},
        "forecast and actual": _comparison_table(comparisons),
        **{f"{c.what}, actual / forecast": "–" if c.ratio is None else round(c.ratio, 4) for c in comparisons},
    }
    if memory_bank:
        metadata["memory bank"] = (
            f"{memory_bank['method']}, {memory_bank['rows']:,} rows from {memory_bank['patches']:,} patches"
        )
    if fit.epochs:
        metadata["epochs"] = dg.MetadataValue.table(
            [
                dg.TableRecord({name: value for name, value in row.items() if isinstance(value, int | float | str)})
                for row in fit.epochs
            ]
        )
        metadata["last loss"] = float(fit.epochs[-1].get("loss", float("nan")))
    if fit.forecast.warnings:
        metadata["warnings of the forecast"] = bullets(fit.forecast.warnings)
    if fit.info.notices:
        metadata["notices"] = bullets(fit.info.notices)
    return metadata


def score_metadata(fit: FitRecord, scores: pd.DataFrame) -> dict[str, Any]:
    """Return quartiles of the raw scores of normal and anomalous rows, and how long an image took to score."""
    records = []
    for name, part in (("normal", scores[~scores["is_anomalous"]]), ("anomalous", scores[scores["is_anomalous"]])):
        if len(part):
            quantiles = part["raw_score"].quantile([0, 0.25, 0.5, 0.75, 1])
            names = ("lowest", "first quarter", "middle", "third quarter", "highest")
            numbers = {label: round(float(value), 6) for label, value in zip(names, quantiles, strict=True)}
            records.append(dg.TableRecord({"rows": name, "count": len(part), **numbers}))
    told = dg.MetadataValue.table(records) if records else "none"
    metadata: dict[str, Any] = {"dagster/row_count": len(scores), "raw scores": told}
    if (ms := scores.attrs.get("ms_per_image")) is not None:
        speed = [one for one in fit.comparisons(ms) if one.what == "ms per image"]
        metadata |= {"ms per image": ms, "forecast and actual": _comparison_table(speed)}
    return metadata


def threshold_metadata(learnt: LearntThreshold) -> dict[str, Any]:
    """Return the threshold in force, where it comes from, and its neighbours in the sweep."""
    threshold = learnt.threshold
    return {
        "threshold": threshold.value,
        "method": threshold.method,
        "threshold version": threshold.version,
        "normal rows": threshold.n_normal,
        "anomalous rows": threshold.n_anomalous,
        "note": threshold.note or "nothing unusual",
        "dagster/row_count": len(learnt.table),
        "around the threshold": preview_table(learnt.around_chosen(), 11),
    }


def evaluation_metadata(evaluation: Evaluation, champion: ChampionOnRows, heatmaps: Sequence[Path]) -> dict[str, Any]:
    """Return an evaluation in words and numbers, beside the champion's, with the most telling heatmaps."""
    return {
        "result": evaluation.in_words(),
        **({"warning": warning} if (warning := evaluation.warning()) else {}),
        "beside the champion": beside_the_champion(evaluation, champion),
        **({"heatmaps": thumbnails(heatmaps)} if heatmaps else {}),
        **evaluation_numbers(evaluation),
    }


def extension_metadata(extension: Extension, champion: ChampionOnRows, notices: Sequence[str]) -> dict[str, Any]:
    """Return what an extension added, and the performance before and after it."""
    return {
        "images added": len(extension.images.files),
        "images known before": len(extension.images.known),
        "images refused": len(extension.images.refused),
        "rows before": extension.rows_before,
        "rows added": extension.rows_added,
        "beside the champion": beside_the_champion(extension.after, champion),
        "with the threshold kept": dg.MetadataValue.json(extension.kept.model_dump(exclude_none=True)),
        "threshold before": extension.threshold_before.value,
        "threshold": extension.model.threshold.value,
        "scores of the added images": preview_table(extension.scores, 50),
        "notices": bullets(notices),
        **evaluation_numbers(extension.after),
    }


def evaluation_numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Return the defined numbers, those of most interest first; each is plotted over time under its name."""
    return {**evaluation.headlines(), **evaluation.defined()}


def beside_the_champion(evaluation: Evaluation, champion: ChampionOnRows) -> dg.MarkdownMetadataValue:
    """Return this model's numbers beside the champion's."""
    if not champion.version:
        return dg.MetadataValue.md("There is no champion yet.")
    if champion.evaluation is None:
        return dg.MetadataValue.md(champion.problem)
    old = f"champion before it, {champion.label}"
    return dg.MetadataValue.md(evaluations_table({"this model": evaluation, old: champion.evaluation}))


def serving_metadata(serving: Version, page: str) -> dict[str, Any]:
    """Return which version serves, with a link to it."""
    return {
        "serving version": int(serving.number),
        "version": serving.label,
        "links": links_markdown({"model version": page}),
    }


def agreement_metadata(agreed: Agreement) -> dict[str, float | int]:
    """Return how often people agree with the predictions of a version; nothing where nobody looked."""
    if agreed.rate is None:
        return {}
    return {
        "people looked at": agreed.judged,
        "people agree with": agreed.agree,
        "agreement of people": round(agreed.rate, 4),
        "missed, people say": agreed.missed,
        "false alarms, people say": agreed.false_alarms,
    }


def preview_table(frame: pd.DataFrame, rows: int = PREVIEW_ROWS) -> dg.TableMetadataValue | str:
    """Return the first rows as the UI shows them; a word where there are none."""
    if frame.empty:
        return "none"
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({str(name): _cell(value) for name, value in record.items()})
            for record in frame.head(rows).to_dict("records")
        ],
        schema=dg.TableSchema([dg.TableColumn(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]),
    )


def bullets(texts: Sequence[str]) -> dg.MarkdownMetadataValue:
    """Return texts as a list."""
    return dg.MetadataValue.md("\n".join(f"- {text}" for text in texts))


def links_markdown(links: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """Return links to pages as markdown. Files are told as paths: the UI takes the address of a file out of a link."""
    return bullets([f"[{html.escape(name)}]({address})" for name, address in links.items()])


def linked_picture(text: str, picture: str, page: str) -> dg.MarkdownMetadataValue:
    """Return a picture that leads to a page. Both are addresses: text of 1000 letters is not shown at once."""
    return dg.MetadataValue.md(f"[![{html.escape(text)}]({picture})]({page})")


def thumbnails(files: Sequence[Path], width: int = 480) -> dg.MarkdownMetadataValue:
    """Return pictures as markdown with the bytes inside, so that the UI shows them without reaching the files."""
    from PIL import Image

    from vad_lib.heatmaps import thumbnail_markdown

    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(thumbnail_markdown(picture.convert("RGB"), file.name, width))
    return dg.MetadataValue.md("\n\n".join(pictures))


def pictures_of_dropped(dataset: ValidatedDataset, rule: str, most: int = 6) -> dict[str, Any]:
    """Return the pictures that a rule left out, as metadata of its check; nothing where it left none out.

    Args:
        dataset: what readiness made.
        rule: its name.
        most: pictures.
    """
    rows = dataset.dropped.loc[dataset.dropped["rule"] == rule, "row"]
    facts = dataset.image_facts[dataset.image_facts["row"].isin(rows)].drop_duplicates("sha256")
    files = [Path(file) for file in facts["file"].head(most)]
    return {"pictures": thumbnails(files, width=240)} if files else {}


def _label_counts(table: InputTable) -> dg.TableMetadataValue | str:
    column = table.label_column
    if column is None or column not in table.table:
        return "no column of labels"
    counts = table.table[column].fillna("(empty)").value_counts().head(20)
    if counts.empty:
        return "no row"
    return dg.MetadataValue.table(
        [dg.TableRecord({"label": str(label), "rows": int(count)}) for label, count in counts.items()]
    )


def _comparison_table(comparisons: Sequence[Comparison]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "what": one.what,
                    "forecast": round(one.forecast, 3),
                    "actual": round(one.actual, 3),
                    "actual / forecast": "–" if one.ratio is None else round(one.ratio, 3),
                }
            )
            for one in comparisons
        ]
    )


def _cell(value: Any) -> str | int | float | bool:
    if value is None or value is pd.NA or value != value:
        return ""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, bool | int | str) else str(value)
