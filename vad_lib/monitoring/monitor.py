"""The charts of a line: what each of them takes from an image, and what its alarm says.

A ``Monitor`` belongs to a model version and holds nothing that changes. What an image adds is measured outside of any
transaction (``observe``); the state is advanced by ``advance``, a pure function, in the transaction that records the
image, so each image counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_lib.images.decoding import DecodedImage
from vad_lib.monitoring.camera import LEAST_DEVIATIONS, MEASURES, measure_camera
from vad_lib.monitoring.charts import BEGAN_AT, ENDS_AT, Chart, Cusum, Ewma, Places, Usual
from vad_lib.monitoring.reference import GRID, Reference, edges_are_known, places_of
from vad_lib.readiness.pose import MOST_ROTATION, MOST_SHIFT, MOSTLY, UsualPose, edges_of
from vad_lib.thresholds import DecisionRule

SHIFT, ROTATION, SHARPNESS, COLOUR = "shift", "rotation", "sharpness", "colour"
BRIGHTNESS, CONTRAST, NOISE = "brightness", "contrast", "noise"
SAME_PLACE, SCORE, NG_RATE = "same_place", "score", "ng_rate"
CHARTS = (ROTATION, SHIFT, SHARPNESS, COLOUR, BRIGHTNESS, CONTRAST, NOISE, SAME_PLACE, SCORE, NG_RATE)
"""In the order in which they explain one another: a part that lies elsewhere also gets other scores, not vice versa."""
ANSWERED_BY_TRAINING = (SCORE, NG_RATE)
"""A training may answer their alarms, as long as no other stands: the others ask for the camera to be mended."""
CAMERA = {name: [MEASURES.index(name)] for name in (SHARPNESS, BRIGHTNESS, CONTRAST, NOISE)} | {COLOUR: [4, 5, 6]}
"""Chart -> its columns of ``camera.MEASURES``."""
MOST_USUAL_NG = 0.5
MOST_PLACES = 64
"""So many places of one map count: in one that stands out everywhere, no place is special."""
CALM = "calm"
"""Among the numbers of a state: how many of the chart's images came before the present departure began."""
Values = tuple[float, ...]
logger = logging.getLogger("vad.monitoring")


@dataclass(frozen=True)
class MonitorSettings:
    """What the plan says about the watch over a line.

    Attributes:
        one_in: of so many images one is also measured by what takes longer: rotation, and the anomaly map.
        usual_ng: share of NG that is usual.
        largest_shift: pixels at 224 x 224 that the guide allows.
        largest_rotation: degrees that the guide allows.
    """

    one_in: int = 3
    usual_ng: float = 0.01
    largest_shift: float = MOST_SHIFT
    largest_rotation: float = MOST_ROTATION


@dataclass(frozen=True)
class ChartState:
    """Where a chart stands.

    Attributes:
        numbers: its state, JSON-ready.
        images: how many it has counted since the version began to serve.
        since: when the present departure began; of a chart that is calm, its newest image.
        since_images: how many images of the line came before that.
        level: where it stands, as a share of what is an alarm.
        alarm: the last alarm in words; empty where there was none.
        raised_at, ended_at: of that alarm; an alarm that has not ended stands.
    """

    numbers: Mapping[str, Any]
    images: int
    since: datetime
    since_images: int
    level: float = 0.0
    alarm: str = ""
    raised_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def stands(self) -> bool:
        """Whether its alarm stands."""
        return self.raised_at is not None and self.ended_at is None


class Monitor:
    """Measures images and advances charts.

    Args:
        reference: of the model version; None: only decisions are watched.
        rule: decides which scores are NG.
        settings: of the plan.
    """

    def __init__(self, reference: Reference | None, rule: DecisionRule, settings: MonitorSettings | None = None):
        self.settings = settings or MonitorSettings()
        self.charts: dict[str, Chart] = {}
        self._pose: UsualPose | None = None
        self._highest: npt.NDArray[np.float32] | None = None
        usual_ng = self.settings.usual_ng
        if reference is not None:
            is_ng = rule.judge(reference.scores).predicted == "NG"
            # Few normal images say little about how often NG is usual: none of 20 may be one of 50. So half an image
            # is added (the mean by Jeffreys' prior), and the plan's word is the least that counts.
            usual_ng = max(usual_ng, (int(is_ng.sum()) + 0.5) / (len(is_ng) + 1) if len(is_ng) else 0.0)
            self._watch(SCORE, [reference.scores[~is_ng]], [0.0])
            for name, columns in CAMERA.items():
                floors = [LEAST_DEVIATIONS[MEASURES[column]] for column in columns]
                self._watch(name, [reference.camera[:, column] for column in columns], floors)
            self._watch_pose(reference)
            if len(reference.places):
                self._highest = _with_neighbours(reference.places.max(axis=0))
                self.charts[SAME_PLACE] = Places()
        if usual_ng < MOST_USUAL_NG:
            self.charts[NG_RATE] = Cusum(usual_ng)

    def _watch(self, name: str, columns: Sequence[npt.ArrayLike], floors: Sequence[float]) -> None:
        usual = [Usual.of(column, floor) for column, floor in zip(columns, floors, strict=True)]
        known = tuple(each for each in usual if each is not None)
        if len(known) == len(usual):
            self.charts[name] = Ewma(known)

    def _watch_pose(self, reference: Reference) -> None:
        """Where most training images can be judged; half of what the guide allows is spread that is always allowed."""
        shifts, rotations = reference.shifts, reference.rotations
        if not edges_are_known(reference) or np.isfinite(shifts[:, 0]).mean() < MOSTLY:
            return
        self._pose = UsualPose(reference.edges)
        self._watch(SHIFT, list(shifts.T), [self.settings.largest_shift / 2] * 2)
        if np.isfinite(rotations).mean() >= MOSTLY:
            self._watch(ROTATION, [rotations], [self.settings.largest_rotation / 2])

    def is_sampled(self, sha256: str) -> bool:
        """Whether an image is one of those that are measured at length: by its content, so a repetition agrees."""
        return self.settings.one_in > 0 and int(sha256[:8], 16) % self.settings.one_in == 0

    def wants_map(self, sha256: str) -> bool:
        """Whether the anomaly map of an image is wanted."""
        return self._highest is not None and self.is_sampled(sha256)

    def observe(
        self, image: DecodedImage, raw_score: float, predicted: str, anomaly_map: npt.NDArray[np.float32] | None
    ) -> dict[str, Values]:
        """Return what each chart takes from an image. What cannot be measured is left out, and never fails."""
        found: dict[str, Values] = {NG_RATE: (float(predicted == "NG"),)}
        if predicted == "OK":
            found[SCORE] = (raw_score,)
        try:
            self._observe_camera(image, found)
            if anomaly_map is not None and self._highest is not None:
                places = np.flatnonzero(places_of(anomaly_map) > self._highest)
                found[SAME_PLACE] = tuple(map(float, places if len(places) <= MOST_PLACES else ()))
        except Exception:  # the result of the image does not depend on it
            logger.exception("an image cannot be measured")
        return {name: values for name, values in found.items() if name in self.charts and np.isfinite(values).all()}

    def _observe_camera(self, image: DecodedImage, found: dict[str, Values]) -> None:
        if not self.charts.keys() & {*CAMERA, SHIFT}:
            return
        measures = measure_camera(image.pixels)
        found.update({name: tuple(measures[columns].tolist()) for name, columns in CAMERA.items()})
        if self._pose is None:
            return
        edges = edges_of(image.pixels)
        if (shift := self._pose.shift(edges)) is not None:
            found[SHIFT] = shift
        if ROTATION in self.charts and self.is_sampled(image.sha256):
            rotation, _, _, _, assessable = self._pose.estimate(edges)
            if assessable:
                found[ROTATION] = (rotation,)

    def advance(
        self, states: Mapping[str, ChartState], observed: Mapping[str, Values], now: datetime
    ) -> dict[str, ChartState]:
        """Return all states after one more image.

        Args:
            states: by chart; a chart that is not there begins.
            observed: of ``observe``.
            now: when the image was recorded.
        """
        images = states[NG_RATE].images if NG_RATE in states else 0
        found = dict(states)
        for name, values in observed.items():
            if name in self.charts:
                before = states.get(name) or ChartState({}, 0, now, images)
                found[name] = self._advance(name, before, values, now, images)
        return found

    def _advance(self, name: str, before: ChartState, values: Values, now: datetime, images: int) -> ChartState:
        chart = self.charts[name]
        numbers = {**chart.step(before.numbers, values), CALM: before.numbers.get(CALM, 0)}
        level = chart.level(numbers)
        state = replace(before, numbers=numbers, images=before.images + 1, level=round(level, 4))
        ends = state.stands and level < ENDS_AT
        if ends or (level <= BEGAN_AT and not state.stands):
            numbers[CALM] = state.images
            state = replace(state, since=now, since_images=images + 1)
        if ends:
            state = replace(state, ended_at=now)
        elif level >= 1 and not state.stands:
            state = replace(state, raised_at=now, ended_at=None)
        return replace(state, alarm=self._sentence(name, state)) if state.stands else state

    def _sentence(self, name: str, state: ChartState) -> str:
        chart, numbers = self.charts[name], state.numbers
        lasting = state.images - int(numbers[CALM])
        if isinstance(chart, Ewma):
            change, advice = self._moved(name, chart.change(numbers, lasting), chart)
        elif isinstance(chart, Cusum):
            share = numbers["ng"] / max(1, numbers["of"])
            change = f"NG has become more frequent: {share:.1%} of images, {chart.usual:.1%} is usual"
            advice = "look at the newest NG images: the process makes more defects, or good parts are called NG"
        else:
            place, share = max(numbers["places"].items(), key=lambda item: item[1])
            down, right = ((int(at) + 0.5) / GRID for at in divmod(int(place), GRID))
            change = f"the same place stands out in most images ({right:.0%} from the left, {down:.0%} from the top)"
            advice = "clean the lens and look for dust, glare or a moved fixture there; do not retrain"
        when = f"{state.since:%A %Y-%m-%d %H:%M} UTC"
        return f"{change} since {when}, after {state.since_images:,} images: {advice}"

    def _moved(self, name: str, moved: Sequence[float], chart: Ewma) -> tuple[str, str]:
        """Return in words by how much measures have moved, and what to do."""
        if name == SHIFT:
            right, down = moved
            size, allowed = float(np.hypot(right, down)), self.settings.largest_shift
            sides = [side for side, far in ((_side(right, "right", "left"), right), (_side(down, "down", "up"), down))
                     if abs(far) > size / 3]  # fmt: skip
            where = " and ".join(sides).replace("right", "to the right").replace("left", "to the left")
            return f"shifted {size:.1f} px (at 224 x 224) {where}{_allows(size, allowed, 'px')}", FIX
        if name == ROTATION:
            size, allowed = abs(moved[0]), self.settings.largest_rotation
            way = _side(moved[0], "counter-clockwise", "clockwise")
            return f"turned {size:.1f} degrees {way}{_allows(size, allowed, 'degrees')}", FIX
        if name == SCORE:
            size = abs(moved[0]) / chart.usual[0].deviation
            way = _side(moved[0], "rose", "fell")
            return f"the scores of what was called OK {way} by {size:.1f} standard deviations", SCORES
        if name == COLOUR:
            channel = int(np.abs(moved).argmax())
            way = f"{_side(moved[channel], 'rose', 'fell')} by {_percent(moved[channel])}"
            return f"the colour changed: the share of {MEASURES[4 + channel]} {way}", LAMP
        words, advice = CHANGES[name]
        return words[moved[0] > 0].format(_percent(moved[0])), advice


FIX = "fix the camera and the fixture; do not retrain"
LAMP = "check the lamp and the white balance of the camera; do not retrain"
SCORES = "look at the newest images; if good parts look different and that is meant to stay, train again with them"
CHANGES = {
    SHARPNESS: (
        ("out of focus: {} less sharp", "sharper by {}"),
        "focus the camera and clean the lens; do not retrain",
    ),
    BRIGHTNESS: (("darker by {}", "brighter by {}"), "check the lamp and the exposure; do not retrain"),
    CONTRAST: (
        ("the contrast fell by {}", "the contrast rose by {}"),
        "check for stray light, reflections and a dirty lens; do not retrain",
    ),
    NOISE: (
        ("the noise fell by {}", "the noise rose by {}"),
        "check gain, exposure and compression of the camera; do not retrain",
    ),
}
"""Chart -> what it says about less and about more, and what to do."""


def _side(moved: float, more: str, less: str) -> str:
    return more if moved > 0 else less


def _percent(moved: float) -> str:
    """Of a measure that is a logarithm."""
    return f"{abs(np.expm1(moved)):.0%}"


def _allows(size: float, allowed: float, unit: str) -> str:
    return f", where {allowed:g} {unit} is allowed," if size > allowed else ""


def _with_neighbours(places: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the highest value of each place and of those around it."""
    from scipy.ndimage import maximum_filter

    found: npt.NDArray[np.float32] = maximum_filter(places, size=3)
    return found
