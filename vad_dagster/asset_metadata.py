"""What the pages of the training assets show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from vad_dagster.checks import plain_result
from vad_dagster.registry import Version
from vad_dagster.values import TrainedModel
from vad_lib.backbones.shipped import measured_cost
from vad_lib.forecast import Comparison
from vad_lib.metrics import Evaluation
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from vad_lib.artifacts import TrainingRecord, TrainTree
    from vad_lib.backbones.weight_file import BackboneWeights

NUMBERS = {
    "image_auroc": "image AUROC",
    "f1": "F1",
    "recall": "recall",
    "precision": "precision",
    "accuracy": "accuracy",
    "fn": "misses",
    "fp": "false alarms",
    "tp": "defects found",
    "tn": "rightly OK",
}
"""Numbers of an evaluation that people compare by, and what they are called."""


def weights_result(asset: str, check: str, weights: BackboneWeights) -> dg.AssetCheckResult:
    """Say where the backbone's weights are from; a stand-in or random weights are a warning."""
    asked = weights.asked_for or weights.name
    problem = None
    if weights.source == "random":
        problem = f"{weights.name} has random weights (VAD_ALLOW_RANDOM_WEIGHTS): for tests only, never for use."
    elif weights.source == "shipped" and asked != weights.name:
        problem = (
            f"Weights of {asked} are not on this machine: the backbone {weights.name}, which comes with the package, "
            f"stands in. {measured_cost()} "
            f"`vad weights fetch {asked}` or `vad weights add FILE` brings what the plan asks for."
        )
    return plain_result(
        asset,
        check,
        problem,
        fine=f"{weights.name} from {weights.source}" + (f": {weights.file.name}." if weights.file else ".")
        if weights.name
        else "The detector has no backbone.",
        severity="warn",
        sha256=weights.sha256 or "none",
        source=weights.source,
    )


def fit_metadata(model: TrainedModel) -> dict[str, Any]:
    """Return what the page of the trained model shows: detector, backbone, time, the numbers of the fit."""
    metadata: dict[str, Any] = {
        "detector": model.train.model_name,
        "backbone": f"{model.info.backbone.get('name') or 'none'} ({model.info.backbone.get('source')})",
        "images learnt from": model.info.n_train,
        "fit seconds": model.info.fit_seconds,
        "time": format_seconds(model.info.fit_seconds),
        **{name.replace("_", " "): value for name, value in model.numbers.items()},
    }
    if bank := model.detector.describe().get("memory_bank"):
        metadata["memory bank"] = f"{bank['method']}, {bank['rows']:,} rows from {bank['patches']:,} patches"
    if model.epochs:
        metadata["epochs"] = dg.MetadataValue.table(
            [
                dg.TableRecord({name: value for name, value in row.items() if isinstance(value, int | float | str)})
                for row in model.epochs
            ]
        )
        metadata["last loss"] = float(model.epochs[-1].get("loss", float("nan")))
    if comparisons := model.comparisons():
        metadata["forecast and truth"] = comparison_table(comparisons)
        for one in comparisons:
            metadata[f"{one.what}, truth / forecast"] = round(one.ratio, 4) if one.ratio is not None else "–"
    if model.forecast is not None and model.forecast.warnings:
        metadata["warnings of the forecast"] = dg.MetadataValue.md("\n".join(f"- {w}" for w in model.forecast.warnings))
    if model.info.notices:
        metadata["notices"] = dg.MetadataValue.md("\n".join(f"- {notice}" for notice in model.info.notices))
    return metadata


def comparison_table(comparisons: Sequence[Comparison]) -> dg.TableMetadataValue:
    """Return forecast and truth side by side."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "what": one.what,
                    "forecast": round(one.forecast, 3),
                    "truth": round(one.actual, 3),
                    "truth / forecast": "–" if one.ratio is None else round(one.ratio, 3),
                }
            )
            for one in comparisons
        ]
    )


def speed_metadata(model: TrainedModel, scores: pd.DataFrame) -> dict[str, Any]:
    """Return how long an image took to score, beside the forecast."""
    ms = scores.attrs.get("ms_per_image")
    if ms is None:
        return {}
    told = [one for one in model.comparisons(ms) if one.what == "ms per image"]
    return {"ms per image": ms, **({"forecast and truth": comparison_table(told)} if told else {})}


def score_metadata(scores: pd.DataFrame) -> dict[str, Any]:
    """Return quartiles of the raw scores of normal and anomalous rows, as a table."""
    records = []
    for name, part in (("normal", scores[~scores["is_anomalous"]]), ("anomalous", scores[scores["is_anomalous"]])):
        if len(part):
            quantiles = part["raw_score"].quantile([0, 0.25, 0.5, 0.75, 1])
            names = ("lowest", "first quarter", "middle", "third quarter", "highest")
            numbers = {label: round(float(value), 6) for label, value in zip(names, quantiles, strict=True)}
            records.append(dg.TableRecord({"rows": name, "count": len(part), **numbers}))
    return {"raw scores": dg.MetadataValue.table(records)} if records else {}


def around_chosen(table: pd.DataFrame, rows: int = 5) -> pd.DataFrame:
    """Return the chosen row of a threshold table and its neighbours."""
    place = int(table["chosen"].to_numpy().argmax()) if len(table) else 0
    return table.iloc[max(0, place - rows) : place + rows + 1]


def in_words(evaluation: Evaluation) -> str:
    """Return what an evaluation says, in a sentence for those who do not read metrics."""
    normal, anomalous = evaluation.tn + evaluation.fp, evaluation.tp + evaluation.fn
    alarms = f"{evaluation.fp} of {normal} normal images would be false alarms"
    if not anomalous:
        return f"{alarms}. No anomalous image was validated, so nothing is known about what it finds."
    return f"{evaluation.tp} of {anomalous} anomalous images are found, {evaluation.fn} missed; {alarms}."


def evaluation_numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Return the defined numbers, those of most interest first; each is plotted over time under its name."""
    numbers = evaluation.model_dump(exclude_none=True)
    return {**{name: numbers[name] for name in NUMBERS if name in numbers}, **numbers}


def side_by_side(
    evaluation: Evaluation, champion: Version | None, of_champion: Evaluation | None, problem: str
) -> dg.MetadataValue:
    """Return this model's numbers beside the champion's as markdown."""
    if champion is None:
        return dg.MetadataValue.md("There is no champion yet.")
    if of_champion is None:
        return dg.MetadataValue.md(problem)
    lines = [f"| | this model | champion before it, {champion.label} |", "|---|---|---|"]
    for name, called in NUMBERS.items():
        new, old = getattr(evaluation, name), getattr(of_champion, name)
        if new is not None or old is not None:
            lines.append(f"| {called} | {_number(new)} | {_number(old)} |")
    return dg.MetadataValue.md("\n".join(lines))


def most_telling(tree: TrainTree, record: TrainingRecord, most: int) -> list[Path]:
    """Return up to ``most`` heatmaps: misses first, then false alarms, then hits."""
    from vad_lib.artifacts.train_tree import in_order_of_interest

    rows = in_order_of_interest(record.judged())["row"]
    return [tree.heatmaps[int(row)] for row in rows if int(row) in tree.heatmaps][:most]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
