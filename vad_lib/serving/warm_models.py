"""Which model serves each line, and the warm ones in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from vad_lib.images.budget import UNCOUNTED_PIXELS
from vad_lib.inspection.model import PROBE, Model, Served, monitor_of
from vad_lib.lines import Line
from vad_lib.monitoring import Monitor, MonitorSettings
from vad_lib.notice_rules import NoticeRule
from vad_lib.serving.sinks import Sinks
from vad_lib.thresholds import Calibration, Threshold

RETRY_SECONDS = 30.0
logger = logging.getLogger("vad.serving.warm_models")


@dataclass(frozen=True)
class ShadowedBy:
    """A version of a line that does not serve and scores live images beside the one that does.

    Attributes:
        version: the label of it.
        since: when it was made; images that were decided before do not count.
        share: of the images, and of the time, that it may take; more than 0, at most 1.
        inference_threshold: on p, as for the version that serves.
        stored_bytes: of its files; by them is estimated whether there is room for it.
        gate: what the gate says: waiting, refused, or promoted where the version is the one that served before.
    """

    version: str
    since: datetime
    share: float
    inference_threshold: float = 0.5
    stored_bytes: int = 0
    gate: str = "waiting"


@dataclass(frozen=True)
class WatchedLine:
    """What the inference service has to know about a line.

    Attributes:
        line: the line.
        folder: its watch folder, absolute.
        model_version: label of the version that serves, written beside each prediction; empty: none serves yet.
        settle_seconds: the stability window.
        ignored_suffixes: endings of files in the folder that are passed over.
        inference_threshold: on p.
        sinks: where results are sent on.
        monitor: how it is watched for drift; None: not at all.
        trouble: why it cannot be served, where its source knows of a reason.
        shadow: the version that scores beside the one that serves; None: none does.
        notice_rules: who is told of what happens on it; each receiver once.
    """

    line: Line
    folder: Path
    model_version: str = ""
    settle_seconds: float = 2.0
    ignored_suffixes: tuple[str, ...] = ()
    inference_threshold: float = 0.5
    sinks: Sinks = field(default_factory=Sinks)
    monitor: MonitorSettings | None = None
    trouble: str = ""
    shadow: ShadowedBy | None = None
    notice_rules: tuple[NoticeRule, ...] = ()


class Source(Protocol):
    """Where lines and models come from. Both methods may take a while; they are called in one thread."""

    def watched(self) -> Mapping[str, WatchedLine]:
        """Return all lines by name, as they are now. Called every few seconds."""

    def load(self, line: str, model_version: str) -> Model:
        """Return the model of a version, ready to score."""


class Turns:
    """A lock that is had in the order of asking: who lets go of it and asks again lets those who wait in between."""

    def __init__(self) -> None:
        self._asking: deque[object] = deque()
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        mine = object()
        with self._changed:
            self._asking.append(mine)
            self._changed.wait_for(lambda: self._asking[0] is mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._asking.popleft()
            self._changed.notify_all()


class InTurn:
    """A model that computes while no other does: two at once would only share the same cores."""

    def __init__(self, model: Model, turn: Turns) -> None:
        self._model = model
        self._turn = turn

    @property
    def threshold(self) -> Threshold:
        """Of the model."""
        return self._model.threshold

    @property
    def calibration(self) -> Calibration:
        """Of the model."""
        return self._model.calibration

    @property
    def model(self) -> Model:
        """The model itself."""
        return self._model

    def predict_pixels(self, images: Sequence[Any], *, with_maps: bool = False) -> Sequence[Any]:
        """As the model does; each of large images has a turn of its own: no other line waits for all of them."""
        large = any(image.size > UNCOUNTED_PIXELS for image in images)
        results: list[Any] = []
        for part in [[image] for image in images] if large else [images]:
            with self._turn:
                results += self._model.predict_pixels(part, with_maps=with_maps)
        return results


@dataclass(frozen=True)
class WarmModel:
    """A model in memory."""

    version: str
    model: InTurn
    _monitors: dict[tuple[float, MonitorSettings | None], Monitor | None] = field(default_factory=dict)

    def served(self, inference_threshold: float, settings: MonitorSettings | None = None) -> Served:
        """Return the model with the threshold that its line decides by, and with what watches over it."""
        key = inference_threshold, settings
        if key not in self._monitors:
            self._monitors[key] = monitor_of(self.model.model, *key)
        return Served(self.model, self.version, inference_threshold, self._monitors[key])


class WarmModels:
    """At most ``most`` models, the one that was used longest ago going first.

    A version replaces the one before it when it is loaded and has scored a first image, so nobody waits for it, and a
    batch that has begun ends with the model that it began with.
    """

    def __init__(self, source: Source, most: int) -> None:
        self._source = source
        self.most = max(1, most)
        self._turn = Turns()
        self._lock = threading.Lock()
        self._warm: OrderedDict[str, WarmModel] = OrderedDict()
        self._failed: dict[tuple[str, str], float] = {}
        self.errors: dict[str, str] = {}
        self.loads = 0

    def get(self, line: str) -> WarmModel | None:
        """Return the warm model of a line, and note that it is in use."""
        with self._lock:
            if line in self._warm:
                self._warm.move_to_end(line)
            return self._warm.get(line)

    def load(self, line: str, version: str) -> InTurn:
        """Load a version that need not serve, for somebody who wants to see what it saw. It is not kept here."""
        return InTurn(self._source.load(line, version), self._turn)

    def versions(self) -> dict[str, str]:
        """Return the version of each warm model by line."""
        with self._lock:
            return {line: warm.version for line, warm in self._warm.items()}

    def follow(self, watched: Mapping[str, WatchedLine], wanted: Sequence[str]) -> bool:
        """Load what lacks; return whether anything changed. Takes as long as loading takes.

        Args:
            watched: all lines.
            wanted: lines whose images wait for a model that is not warm; they displace idle ones.
        """
        changed = False
        with self._lock:
            for line in [line for line in self._warm if line not in watched or not watched[line].model_version]:
                del self._warm[line]
        self.errors = {line: text for line, text in self.errors.items() if line in watched}
        for line in [*wanted, *(name for name in watched if name not in wanted)]:
            target = watched.get(line)
            if target is None or not target.model_version:
                continue
            with self._lock:
                warm = self._warm.get(line)
                full = len(self._warm) >= self.most
            if (warm is None and full and line not in wanted) or (warm and warm.version == target.model_version):
                continue
            if time.monotonic() < self._failed.get((line, target.model_version), 0.0):
                continue
            changed |= self._load(line, target)
        return changed

    def _load(self, line: str, target: WatchedLine) -> bool:
        started, version = time.monotonic(), target.model_version
        try:
            model = self._source.load(line, version)
            with self._turn:
                # The first image costs more than any later one.
                model.predict_pixels([PROBE])
            loaded = WarmModel(version, InTurn(model, self._turn))
            loaded.served(target.inference_threshold, target.monitor)
        except Exception as error:
            self._failed[line, version] = time.monotonic() + RETRY_SECONDS
            self.errors[line] = f"{version} cannot be loaded: {error}"
            logger.exception("a model cannot be loaded", extra={"line": line, "model_version": version})
            return False
        self._failed = {key: until for key, until in self._failed.items() if key[0] != line}
        self.errors.pop(line, None)
        with self._lock:
            before = self._warm.get(line)
            self._warm[line] = loaded
            self._warm.move_to_end(line)
            dropped = []
            while len(self._warm) > self.most:
                dropped.append(self._warm.popitem(last=False)[0])
        self.loads += 1
        logger.info(
            "a model is warm",
            extra={
                "line": line,
                "model_version": version,
                "before": before.version if before else None,
                "dropped": dropped or None,
                "seconds": round(time.monotonic() - started, 3),
            },
        )
        return True
