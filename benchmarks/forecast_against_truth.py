"""What trainings were forecast to take, and what they took: time, peak memory, memory bank, ms per image.

Each training has a process of its own, so the memory of one is not in the other's.

    python -m benchmarks.forecast_against_truth --data FOLDER [--quick] [--only NAME] [--processor-time]

FOLDER holds ``mvtec_bottle``, ``magnetic_tile`` and ``weights``. On a machine that does other work, --processor-time
compares seconds of the processor (one thread) instead of seconds of the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.real_data import add_data_argument

if TYPE_CHECKING:
    from vad_lib.forecast import Comparison
    from vad_lib.readiness.dataset import ValidatedDataset

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "bottle, PatchCore 1 %": ("mvtec_bottle", {"model_name": "patchcore"}, {"patchcore_coreset_sampling_ratio": 0.01}),
    "bottle, PatchCore 10 %": ("mvtec_bottle", {"model_name": "patchcore"}, {"patchcore_coreset_sampling_ratio": 0.1}),
    "magnetic tile, PatchCore 0.1 %": (
        "magnetic_tile",
        {"model_name": "patchcore"},
        {"patchcore_coreset_sampling_ratio": 0.001},
    ),
    "bottle, FastFlow, 2 epochs": ("mvtec_bottle", {"model_name": "fastflow", "max_epochs": 2}, {}),
}
VALID_OF_EACH_KIND = 8


def main() -> int:
    """Train each case and print the table; status 1 where a bank has other rows than was forecast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--quick", action="store_true", help="24 images of each set")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    wrong = 0
    print("| training | what | forecast | actual | actual / forecast |\n|---|---|---|---|---|")
    for name in CASES:
        if options.only not in name:
            continue
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(one_case, name, options.data, options.quick, options.processor_time).result()
        for one in found:
            ratio = "–" if one.ratio is None else f"{one.ratio:.2f}"
            print(f"| {name} | {one.what} | {one.forecast:,.4g} | {one.actual:,.4g} | {ratio} |", flush=True)
            wrong += one.what.startswith("rows") and one.ratio != 1
    return int(wrong > 0)


def one_case(name: str, data: Path, quick: bool, processor_time: bool) -> list[Comparison]:
    """Forecast, train and score one case."""
    if processor_time:
        import torch

        torch.set_num_threads(1)
        time.perf_counter = time.monotonic = time.process_time
    from vad_lib.forecast import Actual, PeakMemory, compare, forecast_training
    from vad_lib.plan.arguments import TrainArguments, model_parameters
    from vad_lib.training import fit_detector, score_rows

    folder, arguments, parameters = CASES[name]
    given = model_parameters(patchcore_backbone="resnet18", fastflow_backbone="resnet18", **parameters)
    train = TrainArguments(**arguments, model_parameters=given)
    dataset = read_dataset(data / folder, 24 if quick else None)
    weights = data / "weights"
    forecast = forecast_training(dataset, train, weights_store=weights)
    with PeakMemory() as memory:
        fitted = fit_detector(dataset, train, weights_store=weights)
    actual = Actual.of_fit(fitted.detector, fitted.seconds, memory.peak_bytes)
    scores = score_rows(fitted.detector, fitted.preprocessing, dataset.valid_rows)
    return compare(forecast, actual, scores.attrs["ms_per_image"])


def read_dataset(folder: Path, most: int | None) -> ValidatedDataset:
    """Return ``train/good`` to learn from and some images of each kind of ``test`` to validate, after readiness."""
    import pandas as pd

    from vad_lib.ground_truth import InputTable
    from vad_lib.plan.arguments import ReadinessArguments, TrainArguments
    from vad_lib.readiness import prepare_training_data

    files = [(file, "good", "train") for file in sorted((folder / "train" / "good").iterdir())[:most]]
    for kind in sorted((folder / "test").iterdir()):
        files += [(file, kind.name, "valid") for file in sorted(kind.iterdir())[:VALID_OF_EACH_KIND]]
    rows = [(file.relative_to(folder).as_posix(), label, split) for file, label, split in files]
    table = InputTable(
        pd.DataFrame(rows, columns=["image_path", "label", "split"], dtype=object),
        folder.resolve(),
        path_column="image_path",
        label_column="label",
        source_files=(),
        made_from_images=False,
    )
    readiness = ReadinessArguments(ok_class="good", train_validate_column="split")
    return prepare_training_data(table, readiness, TrainArguments())


if __name__ == "__main__":
    raise SystemExit(main())
