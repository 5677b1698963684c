"""What a monitor says about images that changed, and how its state moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vad_lib.images.decoding import DecodedImage
from vad_lib.monitoring import CHARTS, ChartState, Monitor, MonitorSettings
from vad_lib.monitoring.camera import MEASURES, measure_camera
from vad_lib.monitoring.reference import GRID, Reference, places_of
from vad_lib.thresholds import Calibration, DecisionRule

TUESDAY = datetime(2026, 12, 1, 14, 5, tzinfo=UTC)
RULE = DecisionRule(Calibration(threshold=2.0, scale=0.5))
SIDE = 128


def part(seed: int, right: float = 0.0, degrees: float = 0.0) -> np.ndarray:
    """Return a picture of a part with a place and an angle, uint8 (128, 128, 3), with the noise of a camera."""
    picture = np.full((SIDE, SIDE, 3), (90, 100, 110), np.float32)
    cv2.rectangle(picture, (30, 40), (95, 85), (170, 160, 150), -1)
    cv2.circle(picture, (50, 60), 9, (60, 60, 60), -1)
    cv2.line(picture, (70, 45), (90, 80), (220, 220, 220), 3)
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, 1.0)
    turn[0, 2] += right * SIDE / 224
    picture = cv2.warpAffine(picture, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(seed).normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def decoded(pixels: np.ndarray, seed: int) -> DecodedImage:
    channels = 1 if pixels.ndim == 2 else 3
    return DecodedImage(pixels, pixels.shape[1], pixels.shape[0], channels, f"{seed:08x}" + "0" * 56, "RGB")


def some_map(seed: int, dust: bool = False) -> np.ndarray:
    found = np.random.default_rng(seed).random((64, 64)).astype(np.float32)
    if dust:
        found[24:28, 40:44] = 3.0
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("train")
    files = []
    for seed in range(24):
        files.append(folder / f"{seed}.png")
        Image.fromarray(part(seed)).save(files[-1])
    (folder / "broken.png").write_bytes(b"broken")
    scores = np.random.default_rng(0).normal(1, 0.3, 40)
    return Reference.learn([*files, folder / "broken.png"], scores, [places_of(some_map(seed)) for seed in range(20)])


@pytest.fixture(scope="module")
def monitor(reference: Reference) -> Monitor:
    return Monitor(reference, RULE, MonitorSettings(one_in=2))


def run(
    monitor: Monitor,
    images: int,
    make: Callable[[int], np.ndarray] = part,
    *,
    states: Mapping[str, ChartState] | None = None,
    start: int = 0,
    dust: bool = False,
    score: Callable[[int], float] = lambda seed: 1.0,
) -> dict[str, ChartState]:
    """Advance all charts by images, one a minute."""
    found = dict(states or {})
    for number in range(start, start + images):
        raw = score(number)
        predicted = "NG" if raw >= 2 else "OK"
        image = decoded(make(1000 + number), number)
        shown = some_map(1000 + number, dust) if monitor.wants_map(image.sha256) else None
        observed = monitor.observe(image, raw, predicted, shown)
        found = monitor.advance(found, observed, TUESDAY + timedelta(minutes=number))
    return found


def alarms(states: Mapping[str, ChartState]) -> list[str]:
    return [name for name in CHARTS if name in states and states[name].stands]


def test_a_line_with_all_that_is_needed_has_all_charts(monitor: Monitor) -> None:
    assert set(monitor.charts) == set(CHARTS)


def test_unchanged_images_are_no_alarm(monitor: Monitor) -> None:
    assert alarms(run(monitor, 120)) == []


@pytest.mark.spec("V10.08", "W1.03")
@pytest.mark.parametrize(
    ("change", "chart", "words"),
    [
        (lambda seed: part(seed, right=3.5), "shift", ("px (at 224 x 224) to the right, where 1 px is all", "fix the")),
        (lambda seed: part(seed, degrees=5.0), "rotation", ("degrees counter-clockwise", "fix the camera")),
        (lambda seed: cv2.GaussianBlur(part(seed), (0, 0), 1.2), "sharpness", ("out of focus", "focus the camera")),
        (lambda seed: (part(seed) * 0.85).astype(np.uint8), "brightness", ("darker by 1", "check the lamp")),
        (lambda seed: (part(seed) * np.array([1, 1, 1.15])).astype(np.uint8), "colour", ("blue rose", "white")),
    ],
)  # fmt: skip
def test_a_change_of_the_camera_is_named_within_50_images(
    monitor: Monitor, change: Callable[[int], np.ndarray], chart: str, words: tuple[str, ...]
) -> None:
    states = run(monitor, 30)
    states = run(monitor, 50, change, states=states, start=30)
    assert alarms(states)[0] == chart
    told = states[chart].alarm
    for word in (*words, "do not retrain"):
        assert word in told, told


@pytest.mark.spec("W1.05")
def test_an_alarm_says_how_far_since_when_and_after_how_many_images(monitor: Monitor) -> None:
    states = run(monitor, 40)
    states = run(monitor, 60, lambda seed: part(seed, right=3.5), states=states, start=40)
    told = states["shift"].alarm
    assert told.startswith(("shifted 3.", "shifted 4."))
    minutes = (states["shift"].since - TUESDAY).total_seconds() / 60
    assert 35 <= minutes <= 42
    assert f"since Tuesday 2026-12-01 14:{5 + int(minutes):02}" in told
    assert f"after {int(minutes) + 1} images" in told


@pytest.mark.spec("W1.04")
def test_the_same_place_is_named_by_where_it_is(monitor: Monitor) -> None:
    states = run(monitor, 40, dust=True, states=run(monitor, 20), start=20)
    assert alarms(states) == ["same_place"]
    assert "(66% from the left, 41% from the top)" in states["same_place"].alarm
    assert "clean the lens" in states["same_place"].alarm


def test_more_ng_and_higher_scores_are_named_with_what_is_usual(monitor: Monitor) -> None:
    states = run(monitor, 100, score=lambda number: 3.0 if number % 8 == 0 else 1.0)
    assert alarms(states) == ["ng_rate"]
    assert "1.2% is usual" in states["ng_rate"].alarm
    states = run(monitor, 60, score=lambda number: 1.8)
    assert alarms(states) == ["score"]
    assert "called OK rose by" in states["score"].alarm


@pytest.mark.spec("W1.05")
def test_an_alarm_ends_by_itself_when_all_is_as_before(monitor: Monitor) -> None:
    states = run(monitor, 40, lambda seed: part(seed, right=3.5))
    assert alarms(states) == ["shift"]
    states = run(monitor, 60, states=states, start=40)
    assert alarms(states) == []
    assert states["shift"].ended_at is not None
    assert states["shift"].alarm.startswith("shifted"), "the last alarm stays on record"
    states = run(monitor, 40, lambda seed: part(seed, right=-3.5), states=states, start=100)
    assert "to the left" in states["shift"].alarm
    assert alarms(states) == ["shift"]


def test_where_time_is_short_one_in_so_many_is_measured_at_length(reference: Reference) -> None:
    states = run(Monitor(reference, RULE, MonitorSettings(one_in=4)), 40)
    assert states["rotation"].images == states["same_place"].images == 10
    assert states["shift"].images == states["ng_rate"].images == 40
    never = run(Monitor(reference, RULE, MonitorSettings(one_in=0)), 10)
    assert "rotation" not in never
    assert "same_place" not in never


def test_without_a_reference_only_decisions_are_watched() -> None:
    monitor = Monitor(None, RULE)
    assert set(monitor.charts) == {"ng_rate"}
    assert set(run(monitor, 5)) == {"ng_rate"}


def test_false_alarms_of_the_validation_images_are_usual(reference: Reference) -> None:
    scores = np.r_[np.full(30, 1.0), np.full(10, 3.0)]
    monitor = Monitor(reference.with_scores(scores), RULE)
    assert monitor.charts["ng_rate"].usual == 10.5 / 41  # type: ignore[union-attr]
    assert "same_place" not in monitor.charts, "maps of other scores say nothing"


def test_a_texture_has_no_place_and_grey_images_no_colour(tmp_path: Path) -> None:
    files = []
    for seed in range(12):
        files.append(tmp_path / f"{seed}.png")
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)).save(files[-1])
    monitor = Monitor(Reference.learn(files, []), RULE)
    assert set(monitor.charts) == {"sharpness", "brightness", "contrast", "noise", "ng_rate"}


def test_a_reference_comes_back_from_its_tensors(reference: Reference) -> None:
    back = Reference.of_tensors(reference.tensors())
    assert back is not None
    for name, array in reference.tensors().items():
        assert np.array_equal(array, back.tensors()[name], equal_nan=True)
        assert array.dtype == np.float32
    assert Reference.of_tensors({"camera": reference.camera}) is None


def test_less_light_is_less_light_and_neither_less_contrast_nor_less_focus() -> None:
    usual, dark = (
        dict(zip(MEASURES, measure_camera((part(0) * by).astype(np.uint8)), strict=True)) for by in (1.0, 0.8)
    )
    assert dark["brightness"] - usual["brightness"] == pytest.approx(np.log(0.8), abs=0.02)
    for name in ("contrast", "sharpness", "red", "green", "blue"):
        assert dark[name] == pytest.approx(usual[name], abs=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (1, 1, 3), (300, 2, 3), (40, 40), (700, 300, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_any_size_and_without_anything_on_them_can_be_measured(shape: tuple[int, ...], value: int) -> None:
    assert measure_camera(np.full(shape, value, np.uint8)).shape == (len(MEASURES),)


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (8, 8), (64, 1)])
def test_each_place_holds_the_highest_value_there(shape: tuple[int, int]) -> None:
    anomaly_map = np.zeros(shape, np.float32)
    anomaly_map[-1, -1] = 5
    found = places_of(anomaly_map)
    assert found.shape == (GRID, GRID)
    assert found[-1, -1] == 5
    assert found[0, 0] == 0 or min(shape) == 1
