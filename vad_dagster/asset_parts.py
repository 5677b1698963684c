"""Small things that all assets share: owners, versions, tags, progress, and metadata about the plan."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from vad_dagster.checks import readable_failure
from vad_lib.inspection_db.labels import Agreement
from vad_lib.lines import Line
from vad_lib.plan import ExperimentalPlan
from vad_lib.progress import Progress, ProgressUpdate

if TYPE_CHECKING:
    from vad_lib.forecast import Forecast

logger = logging.getLogger(__name__)

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


def log_forecast(context: dg.AssetExecutionContext, forecast: Forecast) -> None:
    """Write what a training is expected to take to the log of the run."""
    context.log.info("Forecast: " + "; ".join(f"{what.strip()} {value}" for what, value in forecast.rows()))
    for warning in forecast.warnings:
        context.log.warning(warning)


@contextmanager
def step(context: dg.AssetExecutionContext, line: Line) -> Iterator[Path]:
    """Frame the work of an asset: errors for the user become readable failures, and its log goes to the artifacts.

    Yields the folder that gathers the log of all steps of this run.
    """
    from vad_lib.artifacts.records import collect_logs

    folder = line.folder / "logs" / context.run.run_id
    with readable_failure(), collect_logs(folder):
        logger.info("step %s of line %s", context.asset_key.to_user_string(), line.name)
        yield folder


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
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, bool | int | str) else str(value)


def links_markdown(links: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """Return links to pages as markdown. Files are told as paths: the UI takes the address of a file out of a link."""
    return dg.MetadataValue.md("\n".join(f"- [{html.escape(name)}]({address})" for name, address in links.items()))


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
