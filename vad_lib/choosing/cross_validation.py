"""Each image of a line scored by a model that did not see it, and judged by a threshold that did not see it either."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vad_lib.atomic_files import write_whole
from vad_lib.choosing.folds import dataset_of_part
from vad_lib.detectors.registry import find_detector
from vad_lib.errors import VadError
from vad_lib.plan.arguments import TrainArguments
from vad_lib.progress import Progress, silent
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import LearningRule, learn_threshold

SCORES, FACTS = "scores.parquet", "facts.json"


@dataclass(frozen=True)
class CrossValidated:
    """What one detector says of the images of a line.

    Attributes:
        name: for people, such as the detector's name.
        train: its arguments.
        reason: why it did not run; empty where it did, and the rest is empty where it did not.
        rows: one row an image: row, file, label, is_anomalous, part, raw_score, predicted ('OK' or 'NG'), and
            predicted_unseen: as if its kind of defect had never been seen when the threshold was learnt.
        fit_seconds: of one fit, on average.
        ms_per_image: to read and score one image.
        megabytes: of one fitted detector.
        encoder: name of the network behind it, and where its weights are from.
        notices: of the fits, each once.
    """

    name: str
    train: TrainArguments
    reason: str = ""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    fit_seconds: float = 0.0
    ms_per_image: float = 0.0
    megabytes: float = 0.0
    encoder: str = ""
    notices: tuple[str, ...] = ()


def cross_validate(
    name: str,
    dataset: ValidatedDataset,
    rows: pd.DataFrame,
    train: TrainArguments,
    rule: LearningRule,
    *,
    work: Path,
    weights_store: Path | None = None,
    cache_folder: Path | None = None,
    progress: Progress = silent,
) -> CrossValidated:
    """Fit a detector once for each part of the rows, on the others, and score that part.

    What a part gave is kept in ``work``, so that a comparison that was killed goes on where it was.

    Args:
        name: for people.
        dataset: after readiness.
        rows: ``tables.ValidatedRows`` with ``part``; see ``folds``.
        train: the arguments of the detector.
        rule: how thresholds are learnt.
        work: a folder for what is kept.
        weights_store: where backbone weights lie; the home's by default.
        cache_folder: of features; none by default.
        progress: told of every step.

    Returns:
        The scores, or the reason why the detector cannot be used here.
    """
    scores, facts = [], list[dict[str, Any]]()
    try:
        for part in sorted(rows["part"].unique()):
            some, told = _part(dataset, rows, int(part), train, work, weights_store, cache_folder, progress)
            scores.append(some)
            facts.append(told)
    except VadError as error:
        return CrossValidated(name, train, reason=str(error))
    whole = pd.concat(scores, ignore_index=True)
    return CrossValidated(
        name,
        train,
        rows=_judged(whole, rule),
        fit_seconds=float(np.mean([one["fit_seconds"] for one in facts])),
        ms_per_image=float(np.mean([one["ms_per_image"] for one in facts])),
        megabytes=float(np.mean([one["megabytes"] for one in facts])),
        encoder=str(facts[0]["encoder"]),
        notices=tuple(dict.fromkeys(notice for one in facts for notice in one["notices"])),
    )


def _part(
    dataset: ValidatedDataset,
    rows: pd.DataFrame,
    part: int,
    train: TrainArguments,
    work: Path,
    weights_store: Path | None,
    cache_folder: Path | None,
    progress: Progress,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    from vad_lib.detectors.fit_forecast import bytes_of
    from vad_lib.models import library_versions
    from vad_lib.training import fit_detector, require_usable, score_rows

    own = find_detector(train.model_name).own(train.model_parameters)
    of_part = dataset_of_part(dataset, rows, part, watches=own.watches_validation())
    asked = {
        "rows": of_part.digest,
        "part": sorted(rows.loc[rows["part"] == part, "sha256"]),
        "train": train.model_dump(mode="json"),
        "code": library_versions(),
    }
    folder = work / hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
    if (folder / FACTS).is_file():
        return pd.read_parquet(folder / SCORES), json.loads((folder / FACTS).read_text(encoding="utf-8"))
    require_usable(train)
    begun = time.monotonic()
    fitted = fit_detector(of_part, train, weights_store=weights_store, cache_folder=cache_folder, progress=progress)
    seconds = time.monotonic() - begun
    judged = rows[rows["part"] == part].drop(columns="part")
    scores = score_rows(fitted.detector, fitted.preprocessing, judged, progress=progress)
    weights = fitted.weights
    facts = {
        "fit_seconds": seconds,
        "ms_per_image": scores.attrs.get("ms_per_image", 0.0),
        "megabytes": bytes_of(fitted.detector.state_dict().values()) / 1e6,
        "encoder": f"{weights.name} ({weights.source})" if weights.name else "",
        "notices": list(fitted.notices),
    }
    kept = scores[["row", "file", "label", "is_anomalous", "raw_score"]].assign(part=part)
    kept.attrs = {}
    folder.mkdir(parents=True, exist_ok=True)
    kept.to_parquet(folder / SCORES, index=False)
    # last: it says that the scores are whole
    write_whole(folder / FACTS, json.dumps(facts).encode())
    return kept, facts


def _judged(rows: pd.DataFrame, rule: LearningRule) -> pd.DataFrame:
    """Judge each part by a threshold that was learnt on the scores of the others, and so that no kind of defect in it
    had been seen: once with all rows of the others, once for each kind without that kind."""
    predicted = pd.Series("OK", index=rows.index, dtype=object)
    unseen = pd.Series("OK", index=rows.index, dtype=object)
    kinds = sorted(rows.loc[rows["is_anomalous"], "label"].unique())
    for part in rows["part"].unique():
        inside, others = rows[rows["part"] == part], rows[rows["part"] != part]
        threshold = _threshold(others, rule)
        predicted[inside.index[inside["raw_score"] >= threshold]] = "NG"
        for kind in kinds:
            of_kind = inside[inside["is_anomalous"] & (inside["label"] == kind)]
            if len(of_kind):
                blind = _threshold(others[~(others["is_anomalous"] & (others["label"] == kind))], rule)
                unseen[of_kind.index[of_kind["raw_score"] >= blind]] = "NG"
    return rows.assign(predicted=predicted, predicted_unseen=unseen.where(rows["is_anomalous"], predicted))


def _threshold(rows: pd.DataFrame, rule: LearningRule) -> float:
    return learn_threshold(rows["raw_score"], rows["is_anomalous"], rule).value
