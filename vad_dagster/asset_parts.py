"""Small things that all assets share: owners, versions, tags, progress, and metadata about the plan."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from vad_lib.plan import ExperimentalPlan
from vad_lib.progress import Progress, ProgressUpdate

QUALITY_TEAM, ML_TEAM = "team:quality", "team:ml"
PREVIEW_ROWS = 10


def _code_version() -> str:
    try:
        return version("vad")
    except PackageNotFoundError:
        return "0"


CODE_VERSION = _code_version()


def step_tags(pipeline: str, step: str) -> dict[str, str]:
    """Return the tags that say which pipeline and step of the guide an asset is."""
    return {"vad/pipeline": pipeline, "vad/step": step}


def log_progress(context: dg.AssetExecutionContext) -> Progress:
    """Return a progress callable that writes log lines, each task at most every ten seconds and at its end."""
    last: dict[str, float] = {}

    def write(update: ProgressUpdate) -> None:
        finished = update.done >= update.total
        if finished or update.seconds_spent - last.get(update.task, 0.0) >= 10:
            last[update.task] = update.seconds_spent
            context.log.info(str(update))

    return write


def plan_metadata(plan: ExperimentalPlan) -> dict[str, Any]:
    """Return which plan was in force, and what an operator changed."""
    metadata: dict[str, Any] = {"plan digest": plan.digest[:12]}
    if plan.operator_given:
        metadata["set by the operator"] = dg.MetadataValue.json(
            {key: str(value) for key, value in plan.operator_given.items()}
        )
    if plan.notices:
        metadata["notices of the plan"] = dg.MetadataValue.md("\n".join(f"- {notice}" for notice in plan.notices))
    return metadata


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


def _cell(value: Any) -> str | int | float | bool:
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool | int | float | str):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def links_markdown(links: Mapping[str, str | Path]) -> dg.MarkdownMetadataValue:
    """Return links to pages and folders as markdown."""
    lines = []
    for name, target in links.items():
        address = target.resolve().as_uri() if isinstance(target, Path) else target
        lines.append(f"- [{html.escape(name)}]({address})")
    return dg.MetadataValue.md("\n".join(lines))
