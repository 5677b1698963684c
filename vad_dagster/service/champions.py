"""Lines, plans and champions as the inference service follows them.

The alias ``champion`` in MLflow decides, whoever moved it. Asking costs one query for all lines; where MLflow's
database is the embedded file, it is asked only when that file has changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_dagster.home import tracking_file
from vad_dagster.plans import monitor_settings, plan_of, watch_folder
from vad_dagster.registry import CHALLENGER, CHAMPION, GATE, PREVIOUS, LineRegistry, registered_model
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import ChampionRecord, last_dataset
from vad_lib.errors import InputError, VadError
from vad_lib.inspection import Model
from vad_lib.lines import Home, Line
from vad_lib.notice_rules import NoticeRule
from vad_lib.promotion import PROMOTED, WAITING
from vad_lib.serving import ShadowedBy, Sinks, WatchedLine
from vad_lib.settings import settings

if TYPE_CHECKING:
    from vad_lib.plan import ExperimentalPlan

ASK_ANYWAY_SECONDS = 60.0
logger = logging.getLogger("vad.service.champions")

Stamp = tuple[tuple[int, int] | None, ...]


def sinks_of_settings() -> Sinks:
    """Return where the results of all lines are sent on, as the environment says."""
    now = settings()
    return Sinks(now.webhook_url, now.webhook_secret.get_secret_value(), now.result_files, bool(now.mqtt_url))


class ChampionSource:
    """What the inference service asks about lines and models."""

    def __init__(self, home: Home, tracking: MLflowTracking | None = None, sinks: Sinks | None = None):
        self._home = home
        self._tracking = tracking or MLflowTracking()
        self._sinks = sinks or sinks_of_settings()
        self._champions: dict[str, str] = {}
        self._shadows: dict[str, tuple[str, str]] = {}
        """By line: the version that does not serve and scores beside the one that does, and where the gate stands."""
        self._facts: dict[str, tuple[datetime, int]] = {}
        """By version: when it was made, and the bytes of its files."""
        self._asked: tuple[float, Stamp] | None = None
        self._lines: dict[str, tuple[tuple[Any, ...], WatchedLine]] = {}
        self._faults: dict[str, str] = {}

    def watched(self) -> dict[str, WatchedLine]:
        """Return all lines that have a plan. A plan that became faulty leaves its line as it was."""
        champions = self._ask_champions()
        found = {}
        for line in self._home.lines():
            # Now and then anew, as folders that a plan names may come and go.
            key = (
                _stamp(line.plan_file, line.folder / "line.yaml"),
                champions.get(line.name, ""),
                self._shadows.get(line.name),
                int(time.monotonic() / ASK_ANYWAY_SECONDS),
            )
            before = self._lines.get(line.name)
            if before is not None and before[0] == key:
                found[line.name] = before[1]
                continue
            try:
                watched = self._watch(line, champions.get(line.name, ""))
            except VadError as error:
                if self._faults.get(line.name) != str(error):
                    logger.warning("a plan cannot be used", extra={"line": line.name, "error": str(error)})
                self._faults[line.name] = str(error)
                if before is not None:
                    found[line.name] = before[1]
                continue
            self._faults.pop(line.name, None)
            self._lines[line.name] = (key, watched)
            found[line.name] = watched
        return found

    def load(self, line: str, model_version: str) -> Model:
        """Return the model of a version by its label, such as 'vad-bottles/3', on the fastest backend of this machine.

        The first time that a version is loaded on a machine, its backends are measured and compared: seconds to a
        minute, in which the version before it goes on.
        """
        from vad_lib.compiled import load_for_scoring

        registry = LineRegistry(self._tracking, line)
        folder = registry.folder(registry.version(model_version.rpartition("/")[2]))
        model, choice = load_for_scoring(folder, images=validation_images(self._home.line(line)))
        logger.info(
            "a scoring backend serves",
            extra={
                "line": line,
                "model_version": model_version,
                "backend": choice.backend,
                "reason": choice.reason,
                "milliseconds": choice.milliseconds,
                "largest_relative_difference": {
                    name: parity.max_relative_difference for name, parity in choice.parity.items()
                },
            },
        )
        return model

    def _watch(self, line: Line, version: str) -> WatchedLine:
        plan = plan_of(line)
        return WatchedLine(
            line=line,
            folder=watch_folder(line, plan),
            model_version=version,
            settle_seconds=plan.operation.settle_seconds,
            ignored_suffixes=plan.operation.ignored_suffixes,
            inference_threshold=plan.inference.inference_threshold,
            sinks=self._sinks,
            monitor=monitor_settings(plan),
            trouble="" if version else _champion_that_was(line),
            notice_rules=tuple(NoticeRule.parsed(rule) for rule in plan.operation.notify),
            shadow=self._shadow(line.name, plan) if version else None,
        )

    def _shadow(self, line: str, plan: ExperimentalPlan) -> ShadowedBy | None:
        """Return the version that is to score beside the champion; None where none is, or where it cannot be read."""
        if line not in self._shadows or not plan.operation.shadow_share:
            return None
        label, gate = self._shadows[line]
        if label not in self._facts:
            registry = LineRegistry(self._tracking, line)
            try:
                version = registry.version(label.rpartition("/")[2])
                files = [file for file in registry.folder(version).rglob("*") if file.is_file()]
                self._facts[label] = version.made_at, sum(file.stat().st_size for file in files)
            except (VadError, OSError) as error:
                told = {"line": line, "model_version": label, "error": str(error)}
                logger.warning("a version cannot score beside the champion", extra=told)
                return None
        made_at, size = self._facts[label]
        chosen = plan.operation.shadow_share, plan.inference.inference_threshold
        return ShadowedBy(label, made_at, *chosen, stored_bytes=size, gate=gate)

    def _ask_champions(self) -> dict[str, str]:
        """Return line -> label of the version that serves."""
        now, stamp = time.monotonic(), _database_stamp()
        if self._asked is not None and self._asked[1] and stamp and stamp[0] is None:
            raise InputError(f"MLflow's database {tracking_file()} is gone.")
        if self._asked is not None and stamp and self._asked[1] == stamp and now - self._asked[0] < ASK_ANYWAY_SECONDS:
            return self._champions
        client = self._tracking.connect()
        champions: dict[str, str] = {}
        shadows: dict[str, tuple[str, str]] = {}
        token: str | None = None
        while True:
            page = client.search_registered_models(
                filter_string=f"name LIKE '{registered_model('%')}'", max_results=500, page_token=token
            )
            for model in page:
                if number := model.aliases.get(CHAMPION):
                    line = model.name.removeprefix(registered_model(""))
                    champions[line] = f"{model.name}/{number}"
                    if found := _scores_beside(dict(model.aliases), model.tags.get(GATE, "")):
                        shadows[line] = f"{model.name}/{found[0]}", found[1]
            token = page.token
            if not token:
                break
        self._champions, self._shadows, self._asked = champions, shadows, (now, stamp)
        return champions


def _scores_beside(aliases: Mapping[str, Any], gate: str) -> tuple[str, str] | None:
    """Return the version that scores beside the champion, and where the gate stands.

    That is the challenger or, where there is none, the version that served before.

    >>> _scores_beside({"champion": 2, "challenger": 3, "previous": 1}, "refused 3")
    ('3', 'refused')
    >>> _scores_beside({"champion": 3, "challenger": 3, "previous": 2}, "refused 1")
    ('2', 'promoted')
    """
    numbers = {alias: str(number) for alias, number in aliases.items()}
    for alias, state in ((CHALLENGER, WAITING), (PREVIOUS, PROMOTED)):
        number = numbers.get(alias)
        if number and number != numbers[CHAMPION]:
            said, _, about = gate.partition(" ")
            return number, said if alias == CHALLENGER and about == number else state
    return None


def _champion_that_was(line: Line) -> str:
    """Say that a line had a champion, by what was recorded when one was promoted; '' where it never had one."""
    folder = line.store / "champion_model"
    try:
        version = ChampionRecord.load(folder).version
    except (OSError, ValueError):
        return ""
    if not version:
        return ""
    return (
        f"it has no champion any more: version {version} was deleted, or lost its alias. To choose another: "
        f"vad model promote {line.name} NUMBER"
    )


def validation_images(line: Line) -> list[Path]:
    """Return the files of the line's validation rows; none where it was trained elsewhere, or they cannot be read.

    They only help to choose a backend: nothing about them may keep a model from serving.
    """
    try:
        dataset = last_dataset(line)
        return [Path(file) for file in dataset.valid_rows["file"]] if dataset else []
    except (VadError, OSError, ValueError, KeyError) as error:
        logger.warning("the validation rows cannot be read", extra={"line": line.name, "error": str(error)})
        return []


def _database_stamp() -> Stamp:
    """What changes when MLflow's embedded database is written to; empty where it is a server."""
    file = tracking_file()
    return () if file is None else _stamp(file, Path(f"{file}-wal"))


def _stamp(*files: Path) -> Stamp:
    stamps: list[tuple[int, int] | None] = []
    for file in files:
        try:
            facts = file.stat()
            stamps.append((facts.st_mtime_ns, facts.st_size))
        except OSError:
            stamps.append(None)
    return tuple(stamps)
