"""What a training will take, said before it begins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.detectors.tile_images import row_of
from vad_lib.detectors.patchcore.bank_plan import plan_bank
from vad_lib.detectors.patchcore.selection_cost import bank_work, selection_work
from vad_lib.errors import TooLargeError
from vad_lib.forecast import Actual, Forecast, PeakMemory, Room, compare, forecast_training, require_fit
from vad_lib.plan.arguments import TrainArguments, model_parameters
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.tables import ValidatedRows
from vad_lib.training import fit_detector

MIB, GIB = 2**20, 2**30
pytestmark = pytest.mark.usefixtures("random_weights")


def patchcore(**parameters: Any) -> TrainArguments:
    given_ones = {"patchcore_backbone": "resnet18", "patchcore_coreset_sampling_ratio": 0.1, **parameters}
    return TrainArguments(model_name="patchcore", img_size=(64, 64), model_parameters=model_parameters(**given_ones))


@pytest.mark.parametrize("how", ["exact", "streaming"])
@pytest.mark.spec("F1.01")
def test_the_bank_is_as_large_as_was_forecast_and_the_fit_is_the_same_after_a_forecast(
    dataset: ValidatedDataset, tmp_path: Path, how: str
) -> None:
    train = patchcore(patchcore_memory_bank=how)
    before = fit_detector(dataset, train, weights_store=tmp_path)
    forecast = forecast_training(dataset, train, weights_store=tmp_path, results=tmp_path)
    assert list(tmp_path.iterdir()) == []
    fitted = fit_detector(dataset, train, weights_store=tmp_path)
    actual = Actual.of_fit(fitted.detector, fitted.seconds, 1)
    assert forecast.method == how
    assert forecast.fits
    assert [size.name for size in forecast.sizes] == ["bank_rows", "bank_mib"]
    assert forecast.sizes == actual.sizes
    assert fitted.detector.state_dict()["memory_bank"].equal(before.detector.state_dict()["memory_bank"])


@pytest.mark.spec("F1.02")
def test_forecast_and_truth_agree_on_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "mvtec_bottle" / "train" / "good").iterdir())[:30]
    real = dataset_of(files)
    train = patchcore().model_copy(update={"img_size": (128, 128)})
    forecast = forecast_training(real, train, weights_store=tmp_path)
    with PeakMemory() as memory:
        fitted = fit_detector(real, train, weights_store=tmp_path)
    actual = Actual.of_fit(fitted.detector, fitted.seconds, memory.peak_bytes)
    found = {one.what: one for one in compare(forecast, actual)}
    for what, one in found.items():
        print(f"{what}: forecast {one.forecast:.5g}, actual {one.actual:.5g}, ratio {one.ratio:.3g}")
    assert found["rows of the memory bank"].ratio == 1
    assert found["memory bank in MiB"].ratio == 1
    assert 0.5 < (found["peak memory in MiB"].ratio or 0) < 2


@pytest.mark.parametrize("memory_bank", ["auto", "exact"])
@pytest.mark.spec("F1.03")
def test_a_training_that_cannot_fit_is_refused_and_what_is_advised_would_fit(
    memory_bank: str, dataset: ValidatedDataset, tmp_path: Path
) -> None:
    train = patchcore(
        patchcore_coreset_sampling_ratio=1.0, patchcore_memory_budget_gib=0.002, patchcore_memory_bank=memory_bank
    )
    forecast = forecast_training(dataset, train, weights_store=tmp_path)
    with pytest.raises(TooLargeError, match=r"is exact, but|cannot be chosen within 0\.00 GiB") as refused:
        require_fit(forecast)
    advice = dict(re.findall(r"- (\w+): (.+)", str(refused.value)))
    assert {"patchcore_memory_budget_gib", "patchcore_coreset_sampling_ratio", "img_size"} <= set(advice)
    for name, value in advice.items():
        if name == "img_size":
            changed = train.model_copy(update={"img_size": tuple(yaml.safe_load(value))})
        else:
            changed = patchcore(
                **{**train.model_parameters.model_dump(exclude_unset=True), name: yaml.safe_load(value)}
            )
        assert forecast_training(dataset, changed, weights_store=tmp_path).fits, f"{name}: {value}"


@pytest.mark.spec("F1.03")
def test_a_machine_without_memory_or_disk_refuses_and_says_how_much_is_needed(
    dataset: ValidatedDataset, tmp_path: Path
) -> None:
    for train in (patchcore(), TrainArguments(model_name="fastflow", max_epochs=1)):
        forecast = forecast_training(dataset, train, weights_store=tmp_path, room=Room(50 * MIB, 10))
        assert not forecast.fits
        with pytest.raises(TooLargeError, match=r"memory .* 50\.0 MiB left.*on disk"):
            require_fit(forecast)


def test_a_forecast_of_fastflow_knows_that_it_may_end_early_and_a_short_time_limit_is_a_warning(
    dataset: ValidatedDataset, tmp_path: Path
) -> None:
    train = TrainArguments(model_name="fastflow", max_epochs=12)
    forecast = forecast_training(dataset, train, weights_store=tmp_path, timeout_hours=1e-6)
    training = forecast.parts[-1]
    assert training.least_seconds == pytest.approx(training.seconds / 3)
    assert forecast.sizes == ()
    assert forecast.fits
    assert "training_timeout_hours" in forecast.warnings[0]
    assert forecast.ms_per_image > 0


def test_a_forecast_is_kept_as_json(dataset: ValidatedDataset, tmp_path: Path) -> None:
    forecast = forecast_training(dataset, patchcore(), weights_store=tmp_path)
    assert Forecast.model_validate(json.loads(forecast.model_dump_json())) == forecast


def test_the_peak_of_memory_is_seen_though_it_is_over_at_the_end() -> None:
    """In a process of its own: from one that has run other tests, the kernel may take memory back meanwhile."""
    code = (
        "import time, numpy as np\n"
        "from vad_lib.machine import MIB, PeakMemory\n"
        "with PeakMemory() as memory:\n"
        "    taken = np.ones(200 * MIB // 8)\n"
        "    deadline = time.monotonic() + 60\n"
        "    while memory.peak_bytes < memory.start_bytes + 90 * MIB and time.monotonic() < deadline:\n"
        "        time.sleep(0.01)\n"
        "    del taken\n"
        "print((memory.peak_bytes - memory.start_bytes) // MIB)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert int(ended.stdout) >= 90


@given(
    points=st.integers(1, 10**8),
    more=st.integers(0, 10**7),
    centres=st.integers(1, 10**5),
    channels=st.integers(1, 4096),
)
def test_more_points_and_more_centres_never_take_less_work(points: int, more: int, centres: int, channels: int) -> None:
    work = selection_work(points, centres, channels)
    assert selection_work(points + more, centres, channels) >= work > 0
    assert selection_work(points, centres + more, channels) >= work


def test_the_work_of_a_streaming_bank_grows_in_proportion_to_the_images() -> None:
    def work(images: int) -> float:
        return bank_work(plan_bank(images, 1024, 384, 0.1, method="streaming", budget_bytes=8 * GIB, cap_rows=50_000))

    assert 1.5 < work(40_000) / work(20_000) < 2.1


def dataset_of(files: list[Path]) -> ValidatedDataset:
    """Return normal photographs, the last two of which validate, as a dataset."""
    import pandas as pd

    rows = pd.DataFrame([row_of(file, number, bad=False) for number, file in enumerate(files)])
    rows["split"] = ["train"] * (len(files) - 2) + ["valid"] * 2
    none = pd.DataFrame()
    return ValidatedDataset(
        rows=ValidatedRows.validate(rows),
        dropped=none,
        image_facts=none,
        input_table=none,
        data_folder=files[0].parent,
        path_column="image_path",
        label_column="label",
        source_files=(),
        made_from_images=False,
        ok_class="good",
        threshold_method="Percentile",
        monitor_metric="loss",
        changes=(),
        findings=(),
        arguments={},
    )


def test_a_detector_that_cannot_keep_the_latency_objective_is_a_warning_with_what_to_do(
    dataset: ValidatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = forecast_training(dataset, patchcore(), weights_store=tmp_path)
    assert quick.warnings == ()
    monkeypatch.setattr("vad_lib.forecast.training.OBJECTIVE_SECONDS", quick.ms_per_image / 1e6)
    slow = forecast_training(dataset, patchcore(), weights_store=tmp_path)
    assert slow.fits
    assert "objective" in slow.warnings[0]
    assert "smaller image size" in slow.warnings[0]
