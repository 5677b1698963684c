"""Laws and boundaries of single rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import rotate, shift
from skimage import data as pictures

from vad_lib.plan.arguments import ReadinessArguments
from vad_lib.readiness.label_rules import resolve_ok_class
from vad_lib.readiness.pose import estimate_pose, pose
from vad_lib.readiness.splitting import split_by_rate
from vad_lib.readiness.threshold_method import choose_threshold_method


def method(n_normal: int, n_anomalous: int, monitor: str = "image_AUROC", **arguments: object) -> tuple[str, str]:
    choice = choose_threshold_method(n_normal, n_anomalous, ReadinessArguments.model_validate(arguments), monitor)
    return choice.threshold_method, choice.monitor_metric


@pytest.mark.spec("V3.17", "V3.18", "V3.19", "V3.20", "V3.21", "V3.22", "V3.26", "V3.27", "V14.07", "V14.08")
@pytest.mark.parametrize(
    ("n_normal", "n_anomalous", "arguments", "expected"),
    [
        (20, 5, {}, "Percentile"),  # 5 is not above 5
        (20, 6, {}, "F1"),
        (5, 20, {}, "Percentile"),  # the smaller class may be the normal one
        (54, 6, {}, "Percentile"),  # exactly 0.1
        (53, 6, {}, "F1"),
        (270, 30, {}, "Percentile"),  # exactly 0.1 again: 30 / 300
        (269, 30, {}, "F1"),
        (7, 3, {"num_minor_threshold": 0, "ratio_minor_threshold": 0.3}, "Percentile"),
        (7, 3, {"num_minor_threshold": 2, "ratio_minor_threshold": 0.29}, "F1"),
        (20, 0, {"num_minor_threshold": 0, "ratio_minor_threshold": 0.0}, "Percentile"),  # none at all
        (20, 1, {"num_minor_threshold": 0, "ratio_minor_threshold": 0.0}, "F1"),
    ],
)
def test_f1_stays_only_above_both_limits(
    n_normal: int, n_anomalous: int, arguments: dict[str, object], expected: str
) -> None:
    assert method(n_normal, n_anomalous, **arguments)[0] == expected


@pytest.mark.spec("V3.23", "V3.25")
def test_percentile_watches_the_loss_and_a_chosen_method_is_respected() -> None:
    assert method(20, 20) == ("F1", "image_AUROC")
    assert method(20, 20, "image_F1Score") == ("F1", "image_F1Score")
    assert method(20, 20, threshold_method="Percentile") == ("Percentile", "loss")
    assert choose_threshold_method(20, 0, ReadinessArguments(threshold_method="Percentile"), "loss").changes == ()


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 20), st.floats(0, 1))
def test_the_method_is_f1_exactly_where_both_limits_are_passed(
    normal: int, bad: int, number: int, ratio: float
) -> None:
    minor, rows = min(normal, bad), normal + bad
    passed = bad > 0 and minor > number and minor / rows > ratio
    assert method(normal, bad, num_minor_threshold=number, ratio_minor_threshold=ratio)[0] == (
        "F1" if passed else "Percentile"
    )


@pytest.mark.spec("V3.05", "V3.06", "V3.07")
@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30))
def test_the_majority_is_taken_without_missing_labels_and_never_at_a_tie(labels: list[str | None]) -> None:
    counts = {label: labels.count(label) for label in set(labels) - {None}}
    most = [label for label, count in counts.items() if count == max(counts.values())]
    ok_class, finding = resolve_ok_class(pd.Series(labels, dtype=object), "")
    if len(most) == 1:
        assert (ok_class, finding) == (most[0], None)
    else:
        assert ok_class is None
        assert finding is not None or not counts


contents = st.lists(
    st.tuples(st.integers(0, 40).map(lambda n: f"{n:064d}"), st.booleans()), min_size=1, max_size=60
).map(lambda rows: pd.DataFrame(rows, columns=["sha256", "is_anomalous"]))
rates = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.spec("V3.10", "V3.11", "V3.14", "V3.15")
@given(contents, rates, seeds, st.randoms(use_true_random=False))
def test_the_split_follows_content_and_seed_and_not_the_order_of_rows(
    table: pd.DataFrame, rate: float, seed: int, random: object
) -> None:
    split = split_by_rate(table, rate, seed)
    order = list(table.index)
    random.shuffle(order)  # type: ignore[attr-defined]
    pd.testing.assert_series_equal(split_by_rate(table.loc[order], rate, seed).sort_index(), split)
    normal = table[~table["is_anomalous"]]
    assert (split[table["is_anomalous"]] == "valid").all()
    sides = split[normal.index].groupby(normal["sha256"]).nunique()
    assert (sides == 1).all()  # equal bytes never come apart
    if normal["sha256"].nunique() > 1:
        assert set(split[normal.index]) == {"train", "valid"}


@pytest.mark.spec("V3.10")
@given(st.integers(2, 400), rates, seeds)
def test_the_rate_is_kept_to_the_nearest_row(count: int, rate: float, seed: int) -> None:
    table = pd.DataFrame({"sha256": [f"{n:064d}" for n in range(count)], "is_anomalous": False})
    held_back = int((split_by_rate(table, rate, seed) == "valid").sum())
    assert 1 <= held_back <= count - 1
    assert abs(held_back - count * rate) <= 0.5 + 1e-9 or held_back in (1, count - 1)


def test_a_set_that_grows_keeps_most_of_its_split() -> None:
    small = pd.DataFrame({"sha256": [f"{n * 7919:064d}" for n in range(200)], "is_anomalous": False})
    large = pd.DataFrame({"sha256": [f"{n * 7919:064d}" for n in range(220)], "is_anomalous": False})
    before, after = split_by_rate(small, 0.1, 42), split_by_rate(large, 0.1, 42)
    assert (before == after[:200]).mean() > 0.95


def write_parts(
    folder: Path, part: np.ndarray, number: int, angle: float = 0, down: float = 0, right: float = 0
) -> Path:
    noise = np.random.default_rng(number).normal(0, 4, part.shape)
    moved = shift(
        rotate(part.astype(float), angle, reshape=False, mode="nearest", order=1), (down, right), mode="nearest"
    )
    file = folder / f"{number}.png"
    Image.fromarray(np.clip(moved + noise, 0, 255).astype(np.uint8)).save(file)
    return file


@pytest.mark.spec("V10.05", "V10.06")
def test_turned_and_shifted_parts_are_found_and_the_others_left_alone(tmp_path: Path) -> None:
    part = np.asarray(Image.fromarray(pictures.camera()).resize((224, 224)))
    files = [write_parts(tmp_path, part, number) for number in range(12)]
    files.append(write_parts(tmp_path, part, 12, angle=-5))
    files.append(write_parts(tmp_path, part, 13, down=5, right=-8))
    found = estimate_pose(files)
    assert found["assessable"].all()
    assert found["rotation"].tolist()[:12] == [0] * 12
    assert np.hypot(found["shift_x"], found["shift_y"])[:12].max() < 0.5
    assert found["rotation"][12] == pytest.approx(-5, abs=1)
    assert (found["shift_x"][13], found["shift_y"][13]) == pytest.approx((-8, 5), abs=0.7)
    normal = pd.DataFrame({"row": range(14), "image_path": [f.name for f in files], "file": [str(f) for f in files]})
    finding = pose(normal.assign(sha256=[f"{n:064d}" for n in range(14)], label="good"))
    assert finding is not None
    assert [example["image_path"] for example in finding.examples] == ["12.png", "13.png"]
    assert (finding.severity, finding.blocking) == ("warn", False)


def normal_rows(files: list[Path]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": range(len(files)),
            "image_path": [file.name for file in files],
            "file": [str(file) for file in files],
            "sha256": [f"{number:064d}" for number in range(len(files))],
            "label": "good",
        }
    )


def test_textures_without_a_fixed_part_are_not_judged_by_pose(tmp_path: Path) -> None:
    grass = pictures.grass()
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.png")
        y, x = np.random.default_rng(number).integers(0, 280, 2)
        Image.fromarray(grass[y : y + 224, x : x + 224]).save(files[-1])
    finding = pose(normal_rows(files))
    assert finding is not None
    assert finding.severity == "info"
    assert "cannot be judged" in finding.message


@pytest.mark.parametrize("lie", ["at any angle", "in any place"])
def test_parts_that_lie_anyhow_are_not_said_to_be_turned_by_nothing(lie: str, tmp_path: Path) -> None:
    files = []
    for number in range(16):
        random = np.random.default_rng(number)
        picture = Image.new("L", (224, 224), 200)
        draw = ImageDraw.Draw(picture)
        draw.ellipse((92, 40, 132, 80), fill=80)
        draw.rectangle((106, 78, 118, 180), fill=80)
        if lie == "at any angle":
            picture = picture.rotate(float(random.uniform(0, 360)), fillcolor=200)
        part = np.asarray(picture)
        if lie == "in any place":
            part = np.roll(part, tuple(random.integers(-40, 40, 2)), (0, 1))
        files.append(write_parts(tmp_path, part, number))
    finding = pose(normal_rows(files))
    assert finding is not None
    assert finding.severity == "info"


def test_a_reflection_that_wanders_over_a_part_that_lies_still_is_no_movement(tmp_path: Path) -> None:
    part = np.asarray(Image.fromarray(pictures.coins()).resize((224, 224))).astype(float)
    y, x = np.mgrid[:224, :224]
    files = []
    for number in range(16):
        place = np.random.default_rng(number).uniform(70, 150, 2)
        light = 150 * np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * 25**2))
        files.append(write_parts(tmp_path, np.clip(part * 0.3 + light, 0, 255), number))
    assert pose(normal_rows(files)) is None


@pytest.mark.parametrize("photograph", ["camera", "coins"])
def test_drawn_shifts_and_rotations_of_real_photographs_are_measured(photograph: str, tmp_path: Path) -> None:
    part = np.asarray(Image.fromarray(getattr(pictures, photograph)()).resize((224, 224)))
    random = np.random.default_rng(5)
    drawn = [(0.0, 0.0, 0.0)] * 20
    drawn += [(float(random.integers(-10, 11)), *map(float, random.uniform(-9, 9, 2))) for _ in range(12)]
    files = [write_parts(tmp_path, part, number, *one) for number, one in enumerate(drawn)]
    found = estimate_pose(files)
    assert found["assessable"].all()
    assert np.abs(found["rotation"] - [angle for angle, _, _ in drawn]).max() <= 1
    assert np.abs(found["shift_y"] - [down for _, down, _ in drawn]).max() < 0.5
    assert np.abs(found["shift_x"] - [right for _, _, right in drawn]).max() < 0.5
