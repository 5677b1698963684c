"""Where the lineage of a prediction goes on: addresses of pages of the service, of Dagster and of MLflow.

Each of the three is told by an environment variable where its pages are: ``SERVICE_UI_URL``, ``DAGSTER_UI_URL`` and
``MLFLOW_UI_URL``; ``vad dev`` sets them. Without one it is this machine and the port that each has by default.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from vad_dagster.resources.tracking import MLflowTracking, dagster_url
from vad_lib.settings import settings

if TYPE_CHECKING:
    import dagster as dg

ASSET = "inference_outputs"
FIRST, LAST = "first prediction", "last prediction"
"""Metadata of a materialization: the stretch of ``prediction_id`` that it stands for."""
MOST_EVENTS = 200

logger = logging.getLogger(__name__)


def service_url(path: str = "") -> str:
    """Return an address of the inference service: ``$SERVICE_UI_URL`` (default http://127.0.0.1:8600) and the path."""
    return f"{settings().service_ui_url.rstrip('/')}/{path.lstrip('/')}"


def results_page(line: str, **chosen: str | int | None) -> str:
    """Return the page of a line's predictions; ``chosen`` narrows it: version, run, first, last.

    >>> results_page("bottles", version=3, run=None)
    'http://127.0.0.1:8600/lines/bottles/results?version=3'
    """
    given = {name: value for name, value in chosen.items() if value not in (None, "")}
    return service_url(f"lines/{line}/results" + (f"?{urlencode(given)}" if given else ""))


def prediction_page(line: str, prediction_id: int | str) -> str:
    """Return the page of one prediction."""
    return service_url(f"lines/{line}/results/{prediction_id}")


def line_events_page(line: str) -> str:
    """Return the page of Dagster that shows what was inspected on a line."""
    return dagster_url(f"assets/{ASSET}?" + urlencode({"view": "partitions", "partition": line}))


def event_page(instance: dg.DagsterInstance, line: str, prediction_id: int, since: float) -> str | None:
    """Return the page of the event that stands for an online prediction; None while there is none yet.

    Args:
        instance: Dagster's.
        line: the partition.
        prediction_id: of the prediction.
        since: seconds since 1970; the event is not older.
    """
    import dagster as dg

    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(ASSET), asset_partitions=[line], after_timestamp=since),
        limit=MOST_EVENTS,
        ascending=True,
    ).records
    for record in records:
        told = record.asset_materialization.metadata if record.asset_materialization else {}
        first, last = told.get(FIRST), told.get(LAST)
        if first is not None and last is not None and first.value <= prediction_id <= last.value:  # type: ignore[operator]
            moment = int(record.timestamp * 1000)
            return dagster_url(f"assets/{ASSET}?" + urlencode({"view": "events", "time": moment}))
    return None


def model_pages(tracking: MLflowTracking, model_version: str) -> dict[str, str]:
    """Return the pages of MLflow that belong to a version's label such as 'vad-bottles/3': version, run, threshold.

    Empty where the label is of no registered version, or MLflow does not answer: a page that lacks a link is still a
    page.
    """
    model, _, number = model_version.rpartition("/")
    if not model:
        return {}
    pages = {"version": tracking.version_url(model, number)}
    try:
        client = tracking.connect()
        run = client.get_run(client.get_model_version(model, number).run_id)
    except Exception:  # whatever a server may answer
        logger.warning("MLflow says nothing about %s", model_version, exc_info=True)
        return pages
    pages["run"] = tracking.run_url(run.info.experiment_id, run.info.run_id)
    pages["threshold"] = f"{pages['run']}/artifacts/threshold/threshold.json"
    return pages
