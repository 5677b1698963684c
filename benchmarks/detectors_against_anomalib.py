"""Our detectors beside the same models run through plain anomalib: same files, weights, size, seed, coreset, epochs.

Prints image AUROC, seconds of the fit and milliseconds an image, ours, anomalib's, and the ratio; of the clock, and of
the processor, which other work on the machine hardly changes. Ends with status 1
where ours has a lower AUROC or misses its floor. The test images of each set choose nothing: FastFlow keeps the epoch
of the smallest training loss here, anomalib keeps its last. A small coreset depends on its random start and projection
by some .003 of AUROC, so PatchCore's two sides read the training images in the same order and draw the same numbers:
what is compared is the software, not the luck.

    python benchmarks/detectors_against_anomalib.py --data FOLDER [--sets bottle-patchcore …] [--quick]

FOLDER holds ``mvtec_bottle``, ``magnetic_tile`` and ``weights`` (see tests/conftest.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_data import add_data_argument

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

SEED = 42
LAYERS = ("layer2", "layer3")
BATCH = 4


@dataclass(frozen=True)
class Case:
    """One comparison. ``reason`` says why an argument is not the plan's default."""

    name: str
    folder: str
    model: str
    floor: float
    size: tuple[int, int] = (256, 256)
    ratio: float = 0.1
    epochs: int = 15
    quick_epochs: int = 4
    quick_ratio: float = 0.002
    reason: str = ""


CASES = (
    Case(
        "bottle-patchcore",
        "mvtec_bottle",
        "patchcore",
        0.995,
        ratio=0.01,
        reason="Not 10 %: anomalib's selection of that takes half an hour.",
    ),
    Case("bottle-fastflow", "mvtec_bottle", "fastflow", 0.97),
    Case(
        "magnetic-patchcore",
        "magnetic_tile",
        "patchcore",
        0.94,
        size=(224, 224),
        ratio=0.01,
        quick_ratio=0.001,
        reason="Not 10 %: anomalib's selection of that from 779,264 patches takes hours.",
    ),
)


@dataclass(frozen=True)
class Result:
    """What one side reached."""

    auroc: float
    fit_seconds: float
    fit_processor_seconds: float
    image_milliseconds: float
    image_processor_milliseconds: float


class Watch:
    """Seconds of the clock and of the processor since it was made."""

    def __init__(self) -> None:
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return (clock, processor)."""
        return time.perf_counter() - self.clock, time.process_time() - self.processor


def files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and the test images of a set."""
    train = sorted(file for file in (folder / "train" / "good").iterdir() if file.is_file())
    test = sorted(file for file in (folder / "test").glob("*/*") if file.is_file())
    return train, test


def labels_of(test: list[Path]) -> list[bool]:
    """Return True for each anomalous test image."""
    return [file.parent.name != "good" for file in test]


def run_ours(case: Case, train: list[Path], test: list[Path], store: Path, ratio: float, epochs: int) -> Result:
    """Fit and score with the detectors of this project."""
    from PIL import Image

    from vad_lib.detectors.fastflow.detector import FastFlow
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.preprocessing import Preprocessing

    def dataset(files: list[Path]) -> ImageDataset:
        shapes = [Image.open(file).size[::-1] for file in files]
        return ImageDataset(files, Preprocessing(case.size), shapes=shapes)

    weights = resolve_backbone_weights("resnet18", store)
    detector: Any
    if case.model == "patchcore":
        detector = PatchCore(weights, LAYERS, ratio, SEED, BATCH)
    else:
        detector = FastFlow(weights, max_epochs=epochs, batch_size=BATCH, monitor_metric="loss", seed=SEED)
    watch = Watch()
    detector.fit(dataset(train))
    fit = watch.read()
    scores: dict[str, float] = {}
    images = dataset(test)
    watch = Watch()
    for batch in images.batches(BATCH):
        found = detector.score(batch.images).scores
        scores.update({str(test[index]): float(score) for index, score in zip(batch.indices, found, strict=True)})
    return result_of(scores, test, fit, watch.read())


def run_anomalib(case: Case, folder: Path, test: list[Path], store: Path, ratio: float, epochs: int) -> Result:
    """Fit and score with anomalib's own models and Engine; only the weights are put in by hand."""
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Fastflow, Patchcore
    from lightning.pytorch import seed_everything

    from vad_lib.encoders.build import load_weights
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.randomness import seeded

    for name in ("anomalib", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seed_everything(SEED, verbose=False)
    bare = {"post_processor": False, "evaluator": False, "visualizer": False}
    weights = resolve_backbone_weights("resnet18", store)
    model: Any
    if case.model == "patchcore":
        model = Patchcore(
            backbone="resnet18",
            layers=LAYERS,
            pre_trained=False,
            coreset_sampling_ratio=ratio,
            pre_processor=Patchcore.configure_pre_processor(image_size=case.size),
            **bare,
        )
        load_weights(model.model.feature_extractor.feature_extractor, weights)
        select = model.fit

        def select_with_our_seed() -> None:
            with seeded(SEED):
                select()

        model.fit = select_with_our_seed
    else:
        pre_processor = Fastflow.configure_pre_processor(image_size=case.size)
        model = Fastflow(backbone="resnet18", pre_trained=False, pre_processor=pre_processor, **bare)
        load_weights(model.model.feature_extractor, weights)
    data = Folder(
        name=case.name,
        root=folder,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=sorted({f"test/{file.parent.name}" for file in test if file.parent.name != "good"}),
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=0,
        val_split_mode="same_as_test",
        seed=SEED,
    )
    if case.model == "patchcore":
        in_order = torch.utils.data.SequentialSampler
        data.train_dataloader = lambda: torch.utils.data.DataLoader(
            data.train_data, BATCH, sampler=in_order(data.train_data), collate_fn=data.train_data.collate_fn
        )
    with tempfile.TemporaryDirectory() as work:
        engine = Engine(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            limit_val_batches=0,
            default_root_dir=work,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        watch = Watch()
        engine.fit(model=model, datamodule=data)
        fit = watch.read()
        watch = Watch()
        batches = engine.predict(model=model, dataloaders=data.test_dataloader()) or []
        predict = watch.read()
    scores = {
        str(file): float(score)
        for batch in batches
        for file, score in zip(batch.image_path, batch.pred_score.flatten().tolist(), strict=True)
    }
    return result_of(scores, test, fit, predict)


def result_of(
    scores: dict[str, float], test: list[Path], fit: tuple[float, float], predict: tuple[float, float]
) -> Result:
    """Put the figures of one side together."""
    from sklearn.metrics import roc_auc_score

    auroc = roc_auc_score(labels_of(test), [scores[str(file)] for file in test])
    return Result(float(auroc), *fit, *(1000 * seconds / len(test) for seconds in predict))


def main() -> int:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", choices=[case.name for case in CASES], default=None)
    parser.add_argument("--quick", action="store_true", help="small coresets and few epochs: minutes, not an hour")
    parser.add_argument("--coreset", type=float, default=None, help="coreset ratio for both sides")
    parser.add_argument("--only-ours", action="store_true", help="leave anomalib out and look at the floors alone")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file as well")
    options = parser.parse_args()
    import torch

    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, {threads}, resnet18, seed {SEED}")
    failed, table = False, []
    for case in CASES:
        if options.sets and case.name not in options.sets:
            continue
        folder = options.data / case.folder
        if not folder.is_dir():
            print(f"{case.name}: left out, there is no {folder}")
            continue
        train, test = files_of(folder)
        ratio = options.coreset or (case.quick_ratio if options.quick else case.ratio)
        epochs = case.quick_epochs if options.quick else case.epochs
        setting = f"coreset {ratio:.1%}" if case.model == "patchcore" else f"{epochs} epochs"
        images = f"{len(train)} training and {len(test)} test images of {case.size}"
        print(f"\n{case.name}: {images}, {setting} on both sides. {case.reason}", flush=True)
        ours = run_ours(case, train, test, options.data / "weights", ratio, epochs)
        print_row("ours", ours)
        theirs = None
        if not options.only_ours:
            theirs = run_anomalib(case, folder, test, options.data / "weights", ratio, epochs)
            print_row("anomalib", theirs)
            print_comparison(ours, theirs)
        # anomalib's float32 cancellation moves scores by up to some 1e-4; a swapped pair of images is not a defect.
        floor = max(0.0 if options.quick else case.floor, theirs.auroc - 1e-3 if theirs else 0.0)
        if ours.auroc < floor:
            print(f"  FAILED: wanted at least {floor:.4f}")
            failed = True
        table.append(
            {"case": case.name, "setting": setting, "ours": asdict(ours), "anomalib": theirs and asdict(theirs)}
        )
        if options.json:
            options.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return int(failed)


def print_row(who: str, result: Result) -> None:
    """Print one side's figures."""
    fit = f"fit {result.fit_seconds:8.1f} s ({result.fit_processor_seconds:8.1f} s of processor)"
    image = f"{result.image_milliseconds:7.1f} ms an image ({result.image_processor_milliseconds:7.1f} of processor)"
    print(f"  {who:<16} AUROC {result.auroc:.4f}   {fit}   {image}", flush=True)


def print_comparison(ours: Result, theirs: Result) -> None:
    """Print ours against anomalib's: difference of AUROC, ratios of times."""
    fit = f"{ours.fit_seconds / theirs.fit_seconds:.3f}"
    fit_processor = f"{ours.fit_processor_seconds / theirs.fit_processor_seconds:.3f}"
    image = f"{ours.image_milliseconds / theirs.image_milliseconds:.3f}"
    image_processor = f"{ours.image_processor_milliseconds / theirs.image_processor_milliseconds:.3f}"
    print(
        f"  ours / anomalib: AUROC {ours.auroc - theirs.auroc:+.4f}, fit {fit} ({fit_processor} of processor),", end=" "
    )
    print(f"image {image} ({image_processor} of processor)", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
