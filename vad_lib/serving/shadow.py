"""A version that does not serve scores live images beside the one that does, where the machine has time and room.

One thread, one model in memory at a time, one image at a time, and only while no image waits on any line: a result may
have to wait for the end of one image, and for nothing else. It pauses after each image, so that it takes no larger
share of the time than the plan allows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vad_lib.inspection.model import is_well, score_chunk
from vad_lib.inspection.reader import Item, Unread, read_item
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.shadow import ShadowPrediction, ToShadow, images_to_shadow, record_shadow
from vad_lib.machine import GIB, MIB, resident_bytes, room_of_machine
from vad_lib.serving.warm_models import RETRY_SECONDS, InTurn, ShadowedBy, WarmModels, WatchedLine
from vad_lib.thresholds import DecisionRule

LOOK_SECONDS = 5.0
"""Between looks for images, where there were none."""
BUSY_SECONDS = 0.2
"""Until it is asked again whether images wait."""
STINT_SECONDS = 60.0
"""A line whose model is in memory keeps it for so long while others have images too."""
LEAST_FREE = GIB // 2
"""Memory that stays free whatever is loaded."""
TIMES_STORED = 3
"""Memory that a model takes while it is loaded, as a multiple of its files."""
logger = logging.getLogger("vad.serving.shadow")


@dataclass(frozen=True)
class _Loaded:
    line: str
    version: str
    model: InTurn
    since: float


class Shadow:
    """Scores images with versions that do not serve.

    Args:
        db: holds the predictions, and gets the results.
        models: loads versions, and says whose turn it is to compute.
        watched: returns all lines as they are now.
        is_idle: whether no image waits or is in hand on any line.
        look_seconds: between looks for images, where there were none.
    """

    def __init__(
        self,
        db: InspectionDatabase,
        models: WarmModels,
        watched: Callable[[], Mapping[str, WatchedLine]],
        is_idle: Callable[[], bool],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.status: Mapping[str, str] = {}
        """In a sentence, by line: what is scored, or why nothing is."""
        self._db = db
        self._models = models
        self._watched = watched
        self._is_idle = is_idle
        self._look_seconds = look_seconds
        self._loaded: _Loaded | None = None
        self._found: dict[str, tuple[str, str, list[ToShadow]]] = {}
        self._gone: dict[str, set[str]] = {}
        self._failed: dict[tuple[str, str], float] = {}
        self._next_look = 0.0
        self._stopping = threading.Event()

    def run(self) -> None:
        """Go on until ``stop``. What fails is told and tried again later."""
        while not self._stopping.is_set():
            try:
                pause = self.step()
            except Exception:
                logger.exception("images cannot be scored beside the champion now")
                pause = RETRY_SECONDS
            self._stopping.wait(pause)

    def stop(self) -> None:
        """End after the image that is being scored."""
        self._stopping.set()

    def step(self) -> float:
        """Score one image, where there is one and nothing else waits; return for how many seconds to pause."""
        lines = {name: line for name, line in self._watched().items() if line.shadow is not None}
        self.status = {name: text for name, text in self.status.items() if name in lines}
        if not lines:
            self._loaded = None
            return self._look_seconds
        if not self._is_idle():
            return BUSY_SECONDS
        if (chosen := self._choose(lines)) is None:
            return max(BUSY_SECONDS, self._next_look - time.monotonic())
        name, shadow, image = chosen
        if (model := self._model(name, shadow)) is None:
            self._found.pop(name, None)
            return BUSY_SECONDS
        if not self._is_idle():  # loading takes a while
            return BUSY_SECONDS
        images = self._found[name][2]
        images.remove(image)
        started = time.monotonic()
        self._score(name, shadow, image, model)
        return (time.monotonic() - started) * (1 / shadow.share - 1)

    def _choose(self, lines: Mapping[str, WatchedLine]) -> tuple[str, ShadowedBy, ToShadow] | None:
        """Return what is to be scored next, on the line whose model is in memory where its stint is not over."""
        if time.monotonic() >= self._next_look or not any(images for *_, images in self._found.values()):
            self._look(lines)
        there = [name for name, (champion, version, images) in self._found.items() if images]
        there = [name for name in there if name in lines and self._is_current(name, lines[name])]
        if not there:
            return None
        loaded = self._loaded
        stays = loaded is not None and loaded.line in there and time.monotonic() - loaded.since < STINT_SECONDS
        others = [name for name in there if loaded is None or name != loaded.line]
        name = loaded.line if loaded is not None and (stays or not others) else others[0]
        shadow = lines[name].shadow
        assert shadow is not None
        return name, shadow, self._found[name][2][0]

    def _is_current(self, name: str, line: WatchedLine) -> bool:
        champion, version, _ = self._found[name]
        return line.shadow is not None and (champion, version) == (line.model_version, line.shadow.version)

    def _look(self, lines: Mapping[str, WatchedLine]) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._look_seconds
        before, self._found = self._found, {}
        # who has just had a stint comes last
        for name in sorted(lines, key=lambda name: (name in before, name)):
            line, shadow = lines[name], lines[name].shadow
            if shadow is None or shadow.share <= 0 or not line.model_version:
                continue
            if time.monotonic() < self._failed.get((name, shadow.version), 0.0):
                continue
            told = {"share": shadow.share, "since": shadow.since}
            images = images_to_shadow(self._db, name, line.model_version, shadow.version, **told)  # type: ignore[arg-type]
            gone = self._gone.setdefault(shadow.version, set())
            images = [image for image in images if image.sha256 not in gone]
            self._found[name] = (line.model_version, shadow.version, images)
            self._say(name, f"{shadow.version} scores images beside {line.model_version}: {len(images)} wait.")

    def _model(self, name: str, shadow: ShadowedBy) -> InTurn | None:
        if self._loaded is not None and (self._loaded.line, self._loaded.version) == (name, shadow.version):
            return self._loaded.model
        self._loaded = None
        free = room_of_machine(Path()).memory_bytes - resident_bytes()
        needed = TIMES_STORED * shadow.stored_bytes + LEAST_FREE
        if free < needed:
            self._rest(
                name,
                shadow,
                f"{shadow.version} scores no images: {free // MIB} MiB of memory are free, and loading it beside the "
                f"models that serve wants {needed // MIB} MiB.",
            )
            return None
        try:
            model = self._models.load(name, shadow.version)
        except Exception as error:
            self._rest(name, shadow, f"{shadow.version} scores no images: it cannot be loaded: {error}")
            logger.warning("a version cannot be loaded to score beside the champion", exc_info=True)
            return None
        self._loaded = _Loaded(name, shadow.version, model, time.monotonic())
        return model

    def _score(self, name: str, shadow: ShadowedBy, image: ToShadow, model: InTurn) -> None:
        read = read_item(Item(image.prediction_id, image.path, Path(image.path)))
        if isinstance(read, Unread) or read.image.sha256 != image.sha256:
            self._gone[shadow.version].add(image.sha256)
            return
        started = time.perf_counter()
        (scored,) = score_chunk(model, [read.image.values], False)
        seconds = time.perf_counter() - started
        if isinstance(scored, Exception):
            if is_well(model):
                self._gone[shadow.version].add(image.sha256)
            else:
                self._rest(name, shadow, f"{shadow.version} scores no images: it fails with {scored}")
                self._found.pop(name, None)
                self._loaded = None
            return
        judged = DecisionRule(model.calibration, shadow.inference_threshold).judge([scored.raw_score])
        record_shadow(
            self._db,
            ShadowPrediction(
                line=name,
                sha256=image.sha256,
                model_version=shadow.version,
                prediction_id=image.prediction_id,
                sampled=image.sampled,
                raw_score=scored.raw_score,
                p=float(judged.p[0]),
                predicted=str(judged.predicted[0]),
                threshold=model.threshold.value,
                seconds=seconds,
            ),
        )

    def _rest(self, name: str, shadow: ShadowedBy, why: str) -> None:
        self._failed[name, shadow.version] = time.monotonic() + RETRY_SECONDS
        self._say(name, why)

    def _say(self, name: str, text: str) -> None:
        self.status = {**self.status, name: text}
