"""Which changes the charts of drift name, after how many images, and how often they are wrong.

    python -m benchmarks.drift [--sets bottle,magnetic_tile,drawn,painting] [--size 128] [--data FOLDER]

Of each set some normal images train a PatchCore, others are its validation images, and the rest comes as the stream:
100 unchanged images, then changed ones, in 20 random orders. "Named as" is the alarm that is shown first after 50
images (with 10 % defective parts: after 100), and in how many of the orders; then come the median of the images until
the wanted alarm stood, and in how many orders it stood in time. An image of the stream may come several times.

False alarms: the measured images are split anew into reference and stream, and streams of unchanged images are drawn.
Where the set has more images (bottle has 9), 120 more are in the stream; few images that come again and again differ
from the reference by chance, and each such difference is seen.
Prints two markdown tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.real_data import add_data_argument
from vad_lib.comparison.running import dataset_of
from vad_lib.detectors.base import Detector
from vad_lib.images.decoding import DecodedImage, decode_image
from vad_lib.monitoring import CHARTS, ChartState, Monitor, MonitorSettings, Values
from vad_lib.monitoring.monitor import ROTATION, SAME_PLACE
from vad_lib.monitoring.reference import Reference, places_of
from vad_lib.plan import TrainArguments, model_parameters
from vad_lib.preprocessing import Preprocessing
from vad_lib.synthetic import make_demo_line
from vad_lib.synthetic.paintings import as_a_camera_sees_it, read_photographs
from vad_lib.thresholds import DecisionRule, LearningRule, learn_calibration, learn_threshold
from vad_lib.training import create_detector

Pixels = npt.NDArray[np.uint8]
TRAIN, VALID, STREAM, ALL = 120, 40, 40, 320
CALM, ORDERS, WITHIN, MOST = 100, 20, 50, 300
SPLITS, UNCHANGED = 20, 2500
ONE_IN = MonitorSettings().one_in
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def moved(pixels: Pixels, right: float = 0.0, degrees: float = 0.0) -> Pixels:
    """Shift by pixels of 224, and turn; what comes in from outside repeats the rim.

    A picture that is drawn anew loses some focus and noise, which one from a moved camera does not; this kernel loses
    least.
    """
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turn[0, 2] += right * width / 224
    return cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def brighter(pixels: Pixels, by: Sequence[float]) -> Pixels:
    """Multiply each channel."""
    factors = np.asarray(by, dtype=np.float32) if pixels.ndim == 3 else np.float32(np.mean(by))
    return np.clip(np.rint(pixels * factors), 0, 255).astype(np.uint8)


def blurred(pixels: Pixels) -> Pixels:
    """Blur with a sigma of 1 pixel of 224."""
    return cv2.GaussianBlur(pixels, (0, 0), max(pixels.shape[:2]) / 224)


def dusty(pixels: Pixels) -> Pixels:
    """Put a dark spot of 4 x 4 pixels of 224 at one place."""
    height, width = pixels.shape[:2]
    size, made = max(1, round(4 * min(height, width) / 224)), pixels.copy()
    made[int(height * 0.4) :][:size, int(width * 0.55) :][:, :size] = 20
    return made


CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "shift 1 px": (lambda pixels: moved(pixels, 1.0), "shift"),
    "shift 3 px": (lambda pixels: moved(pixels, 3.0), "shift"),
    "rotation 3 degrees": (lambda pixels: moved(pixels, degrees=3.0), "rotation"),
    "blur, sigma 1 px": (blurred, "sharpness"),
    "light -10 %": (lambda pixels: brighter(pixels, (0.9,) * 3), "brightness"),
    "light -40 %": (lambda pixels: brighter(pixels, (0.6,) * 3), "brightness"),
    "red +8 %": (lambda pixels: brighter(pixels, (1.08, 1.0, 1.0)), "colour"),
    "dust of 4 x 4 px": (dusty, "same_place"),
}


@dataclass(frozen=True)
class Images:
    """Files of one set."""

    train: list[Path]
    valid: list[Path]
    stream: list[Path]
    defective: list[Path]
    more: list[Path]


def images_of(name: str, data: Path, work: Path) -> Images:
    """Return the files of a set, always the same ones."""
    if name == "painting":
        normal, defective = _paintings(data, work), []
    elif name == "drawn":
        # Of one part of the photograph: training and validation images of the demo show different ones.
        line = make_demo_line(work / "drawn", train_normal=10, valid_normal=ALL)
        table = pd.read_csv(line.train_folder / "train.csv").query("train_val_split == 'valid'")
        files, is_good = np.array([line.train_folder / path for path in table["image_path"]]), table["label"] == "good"
        normal, defective = [*files[is_good]], [*files[~is_good]]
    else:
        folder = data / {"bottle": "mvtec_bottle"}.get(name, name)
        normal = sorted((folder / "train" / "good").iterdir())
        defective = sorted(file for file in folder.glob("test/*/*") if file.parent.name != "good")
    order = np.random.default_rng(0).permutation(len(normal))
    chosen = [normal[place] for place in order[:ALL]]
    parts = np.split(np.array(chosen), np.cumsum((TRAIN, VALID, STREAM)))
    train, valid, stream, more = (list(part) for part in parts)
    return Images(train, valid, stream, defective[:40], more)


def _paintings(data: Path, work: Path) -> list[Path]:
    picture = next(iter(read_photographs(data / "paintings").values()))
    side = 256 / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
    work.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(ALL):
        file = work / f"painting {number:03}.png"
        seen = as_a_camera_sees_it(picture, np.random.default_rng(number), 0.5)
        cv2.imwrite(str(file), seen[..., ::-1])
        files.append(file)
    return files


class Line:
    """A trained line and its monitor."""

    def __init__(self, images: Images, size: int, weights: Path) -> None:
        train = TrainArguments(
            model_name="patchcore",
            img_size=(size, size),
            model_parameters=model_parameters(patchcore_backbone="resnet18", patchcore_coreset_sampling_ratio=0.005),
        )
        self.images, self.preprocessing = images, Preprocessing((size, size))
        self.detector: Detector = create_detector(train, weights_store=weights)
        self.detector.fit(dataset_of(images.train, self.preprocessing))
        valid = [self.score(decode_image(file)) for file in images.valid]
        self.valid_scores = np.array([score for score, _ in valid])
        normal = np.zeros(len(valid), dtype=bool)
        threshold = learn_threshold(self.valid_scores, normal, LearningRule(method="Percentile", percentile=0.98))
        self.rule = DecisionRule(learn_calibration(self.valid_scores, normal, threshold))
        places = [places_of(one) for _, one in valid if one is not None]
        self.reference = Reference.learn(images.train, self.valid_scores, places)
        self.monitor = self.watch(self.reference)

    def watch(self, reference: Reference) -> Monitor:
        """Return a monitor that measures everything of each image; the stream leaves some out."""
        return Monitor(reference, self.rule, replace(MonitorSettings(), one_in=1))

    def score(self, image: DecodedImage) -> tuple[float, npt.NDArray[np.float32] | None]:
        """Return raw score and anomaly map."""
        found = self.detector.score(self.preprocessing.prepare(image.values)[None])
        return float(found.scores[0]), None if found.maps is None else found.maps[0]

    def observe(self, file: Path, change: Callable[[Pixels], Pixels] | None = None) -> Mapping[str, Values]:
        """Return what an image adds to the charts, after a change."""
        image = decode_image(file)
        if change is not None:
            image = replace(image, values=change(image.pixels))
        score, anomaly_map = self.score(image)
        predicted = str(self.rule.judge([score]).predicted[0])
        return self.monitor.observe(image, score, predicted, anomaly_map)


def drawn(observed: Sequence[Mapping[str, Values]], rng: np.random.Generator) -> Mapping[str, Values]:
    """Return one of them, with what takes longer in one of ``ONE_IN`` only."""
    found = dict(observed[int(rng.integers(len(observed)))])
    if rng.integers(ONE_IN):
        found.pop(ROTATION, None)
        found.pop(SAME_PLACE, None)
    return found


def run_of(
    monitor: Monitor,
    before: Sequence[Mapping[str, Values]],
    after: Callable[[], Mapping[str, Values]],
    wanted: str,
    within: int,
) -> tuple[str, int]:
    """Return the alarm that is shown first after so many images, and after how many the wanted one stood."""
    states: Mapping[str, ChartState] = {}
    for each in before:
        states = monitor.advance(states, each, NOW)
    # What was raised before the change is no merit.
    states = {name: state for name, state in states.items() if not state.stands}
    shown, found = "none", MOST
    for count in range(1, MOST):
        states = monitor.advance(states, after(), NOW)
        standing = [name for name in CHARTS if name in states and states[name].stands]
        if count == within and standing:
            shown = standing[0]
        if wanted in standing and found == MOST:
            found = count
        if found < MOST and count >= within:
            break
    return shown, found


def power(name: str, line: Line) -> list[str]:
    """Return the rows of the first table."""
    calm = [line.observe(file) for file in line.images.stream]
    defective = [line.observe(file) for file in line.images.defective]
    rows = []
    streams: dict[str, tuple[Sequence[Mapping[str, Values]], float, str]] = {
        change: ([line.observe(file, how) for file in line.images.stream], 1.0, wanted)
        for change, (how, wanted) in CHANGES.items()
    }
    if defective:
        seen = np.mean([observed["ng_rate"][0] for observed in defective])
        streams[f"10 % of the parts defective, {seen:.0%} of these NG"] = defective, 0.1, "ng_rate"
    for change, (observed, share, wanted) in streams.items():
        if wanted not in line.monitor.charts:
            rows.append(f"| {name} | {change} | {wanted}: not measured | | |")
            continue
        runs, within = [], 100 if share < 1 else WITHIN
        for seed in range(ORDERS):
            rng = np.random.default_rng(seed)
            before = [drawn(calm, rng) for _ in range(CALM)]

            def after(
                rng: np.random.Generator = rng,
                observed: Sequence[Mapping[str, Values]] = observed,
                share: float = share,
            ) -> Mapping[str, Values]:
                return drawn(observed if rng.random() < share else calm, rng)

            runs.append(run_of(line.monitor, before, after, wanted, within))
        ((shown, times),) = Counter(run[0] for run in runs).most_common(1)
        needed = [run[1] for run in runs]
        median = int(np.median(needed))
        in_time = sum(count <= within for count in needed)
        rows.append(
            f"| {name} | {change} | {shown} ({times} of {ORDERS}) | {wanted}: {median if median < MOST else 'not'} "
            f"| {in_time} of {ORDERS} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def false_alarms(name: str, line: Line) -> str:
    """Return a row of the second table: alarms in streams of unchanged images, of references drawn anew."""
    images, old = line.images, line.reference
    unseen = [line.observe(file) for file in (*images.valid, *images.stream, *images.more)]
    raised: Counter[str] = Counter()
    total = 0
    columns = {"camera": old.camera, "shifts": old.shifts}
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(unseen))
        valid, rest = order[: len(images.valid)], order[len(images.valid) :]
        scores = np.array([_score_of(line, images, place) for place in valid])
        kept = rng.permutation(len(old.camera))[: len(old.camera) * 3 // 4]
        reference = replace(
            old, scores=scores.astype(np.float32), **{key: value[kept] for key, value in columns.items()}
        )
        monitor, states = line.watch(reference), {}
        stream = [unseen[place] for place in rest]
        for _ in range(UNCHANGED):
            before, states = states, monitor.advance(states, drawn(stream, rng), NOW)
            for chart, state in states.items():
                if state.stands and not (chart in before and before[chart].stands):
                    raised[chart] += 1
        total += UNCHANGED
    alarms = sum(raised.values())
    told = ", ".join(f"{chart} {count}" for chart, count in raised.most_common()) or "none"
    return f"| {name} | {total:,} | {alarms} | {f'{total / alarms:,.0f}' if alarms else 'more'} | {told} |"


def _score_of(line: Line, images: Images, place: int) -> float:
    if not hasattr(line, "all_scores"):
        files = (*images.valid, *images.stream, *images.more)
        line.all_scores = [line.score(decode_image(file))[0] for file in files]  # type: ignore[attr-defined]
    return float(line.all_scores[place])  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="bottle,magnetic_tile,drawn,painting")
    parser.add_argument("--size", type=int, default=128)
    add_data_argument(parser)
    given = parser.parse_args()
    named, wrong, begun = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.sets.split(","):
            line = Line(images_of(name, given.data, Path(folder) / name), given.size, given.data / "weights")
            named += power(name, line)
            wrong.append(false_alarms(name, line))
    print("| images | change | named as | images until | in time |\n|---|---|---|--:|--:|")
    print("\n".join(named))
    print("\n| images | unchanged images | alarms | images between two | of which chart |\n|---|--:|--:|--:|---|")
    print("\n".join(wrong))
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
