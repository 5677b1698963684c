"""One side of one comparison, in a process of its own, so that its peak memory is its own.

    python -m benchmarks.detectors.sides NAME JSON_OF_ARGUMENTS

prints one line of JSON: what the function of that name returns, and ``peak_mib`` of the process.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.detectors.inputs import SEED, SIZE, batch_of, dataset, layers_of, test_files, training_files, weights_of
from benchmarks.peak_memory import peak_bytes

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BANK_ROWS = 10_000
EXACT_LIMIT = 600.0
"""Seconds above which anomalib's selection is extrapolated from the steps that were timed."""


PROCESSOR_TIME = "VAD_BENCH_PROCESSOR_TIME"
"""Set in the environment of a side that takes processor seconds of the process instead of seconds of the clock."""
now = time.process_time if PROCESSOR_TIME in os.environ else time.perf_counter


def in_own_process(name: str, **arguments: Any) -> dict[str, Any]:
    """Run one side and return its result; ``error`` where it failed."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.detectors.sides", name, json.dumps(arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"}


def coreset_ours(features: str, ratio: float) -> dict[str, Any]:
    """Select with this project."""
    import numpy as np
    import torch

    # its projection is anomalib's: the import counts on neither side
    from anomalib.models.components import KCenterGreedy  # noqa: F401

    from vad_lib.detectors.k_centre_greedy import coreset_indices
    from vad_lib.randomness import seeded

    embedding = torch.from_numpy(np.load(features))
    start = now()
    with seeded(SEED):
        chosen = coreset_indices(embedding, ratio)
    return {"seconds": now() - start, "chosen": chosen.tolist(), "steps": len(chosen)}


def coreset_anomalib(features: str, ratio: float, limit: float) -> dict[str, Any]:
    """Select with anomalib's own loop: whole where it ends within ``limit`` seconds, else so many steps of it."""
    import numpy as np
    import torch
    from anomalib.models.components import KCenterGreedy

    from vad_lib.randomness import seeded

    embedding = torch.from_numpy(np.load(features))
    probe = 12

    def select(steps: int | None) -> tuple[float, list[int]]:
        sampler = KCenterGreedy(embedding, ratio)
        sampler.coreset_size = steps or sampler.coreset_size
        start = now()
        with seeded(SEED):
            chosen = sampler.select_coreset_idxs()
        return now() - start, chosen

    count = int(len(embedding) * ratio)
    begin, _ = select(2)
    more, _ = select(2 + probe)
    whole = begin + (more - begin) / probe * (count - 2)
    if whole <= limit:
        seconds, chosen = select(None)
        return {"seconds": seconds, "chosen": chosen, "steps": count, "timed_steps": count}
    steps = min(count, int(max(30, min(400, 60 / max(1e-6, (more - begin) / probe)))))
    seconds, chosen = select(steps)
    whole = begin + (seconds - begin) / (steps - 2) * (count - 2)
    return {"seconds": whole, "chosen": chosen, "steps": count, "timed_steps": steps}


def fit_ours(backbone: str, images: int, ratio: float, data: str) -> dict[str, Any]:
    """Fit PatchCore with this project."""
    from anomalib.models.components import KCenterGreedy  # noqa: F401  (see coreset_ours)

    from vad_lib.detectors.patchcore.detector import PatchCore

    files = _repeated(training_files(Path(data)), images)
    detector = PatchCore(weights_of(backbone, Path(data)), layers_of(backbone), ratio, SEED, 4)
    start = now()
    detector.fit(dataset(files))
    rows = len(detector.bank_.rows) if detector.bank_ is not None else 0
    return {"seconds": now() - start, "rows": rows}


def fit_anomalib(backbone: str, images: int, ratio: float, limit: float, data: str) -> dict[str, Any]:
    """Fit anomalib's PatchCore with its Engine; the selection is extrapolated where it would take too long."""
    from anomalib.models.components.sampling import k_center_greedy

    selection: dict[str, Any] = {}
    honest = k_center_greedy.KCenterGreedy.select_coreset_idxs

    def shortened(self: Any) -> list[int]:
        count, probe = self.coreset_size, 20
        times = []
        for steps in (2, 2 + probe):
            self.coreset_size = steps
            start = now()
            chosen = honest(self)
            times.append(now() - start)
        self.coreset_size = count
        selection["timed"] = sum(times)
        whole = times[0] + (times[1] - times[0]) / probe * (count - 2)
        if whole <= limit:
            return honest(self)
        selection.update(seconds=whole, steps=count, timed_steps=2 + probe)
        return chosen

    k_center_greedy.KCenterGreedy.select_coreset_idxs = shortened
    model, engine, loader = _anomalib("patchcore", backbone, _repeated(training_files(Path(data)), images), Path(data))
    model.coreset_sampling_ratio = ratio
    start = now()
    engine.fit(model=model, train_dataloaders=loader)
    seconds = now() - start - selection.get("timed", 0.0) + selection.get("seconds", 0.0)
    return {"seconds": seconds, "timed_steps": selection.get("timed_steps", 0), "steps": selection.get("steps", 0)}


def predict(side: str, backbone: str, batch: int, images: int, data: str) -> dict[str, Any]:
    """Score images with a bank of ``BANK_ROWS`` rows.

    Args:
        side: backbone (its forward alone), bare (anomalib's torch module), engine, ours (torch), ours_maps, or
            ours_compiled (the product's choice on this machine).
        backbone: timm's name.
        batch: images together.
        images: how many are timed.
        data: folder of image sets and weights.
    """
    import torch

    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.detectors.patchcore.nearest import MemoryBank

    files, folder = test_files(Path(data), images), Path(data)
    detector = PatchCore(weights_of(backbone, folder), layers_of(backbone), seed=SEED)
    detector.bank_ = MemoryBank(_bank(detector))
    pixels = batch_of(files)
    parts = pixels.split(batch)
    if side == "engine":
        return _predict_by_engine(backbone, detector, files, batch, folder)
    if side == "ours_compiled":
        detector = _compiled(detector)
    theirs = _their_module(backbone, detector) if side == "bare" else None
    normalise, network = detector.embedder.normalise, detector.embedder.backbone
    ways: dict[str, Callable[[Any], Any]] = {
        "backbone": lambda part: network(normalise(part)),
        "bare": lambda part: theirs(normalise(part)) if theirs is not None else None,
        "ours": lambda part: detector.score(part, with_maps=False).scores,
        "ours_maps": lambda part: detector.score(part).scores,
        "ours_compiled": lambda part: detector.score(part, with_maps=False).scores,
    }
    way = ways[side]
    with torch.inference_mode():
        for part in (*parts[:1], *parts[:1]):
            way(part)
        start = now()
        found = [way(part) for part in parts]
        seconds = now() - start
    result: dict[str, Any] = {"seconds": seconds, "images": images}
    if side != "backbone":
        scores = [each.pred_score.flatten() if side == "bare" else torch.from_numpy(each) for each in found]
        result["scores"] = torch.cat(scores).tolist()
    if side == "ours_compiled":
        result["backend"] = "openvino" if detector.runner is not None else "torch"
    return result


def fastflow(side: str, images: int, data: str) -> dict[str, Any]:
    """Time one epoch of FastFlow with resnet18, and the scoring of test images one by one.

    Args:
        side: ours or theirs; ours scores as the inference service does, by what was measured to be the fastest here.
        images: that an epoch goes over.
        data: folder of image sets and weights.
    """
    import torch

    folder = Path(data)
    files, test = training_files(folder)[:images], test_files(folder, 24)
    if side == "ours":
        from vad_lib.detectors.fastflow.detector import FastFlow

        detector = FastFlow(weights_of("resnet18", folder), max_epochs=2, batch_size=4, monitor_metric="loss")
        train_once, epochs = detector._train_once, []

        def timed(*arguments: Any) -> float:
            begun = now()
            loss = train_once(*arguments)
            epochs.append(now() - begun)
            return loss

        detector._train_once = timed  # type: ignore[method-assign]
        detector.fit(dataset(files))
        found, pixels = _compiled(detector), batch_of(test)
        seconds = []
        for one in (detector, found):
            one.score(pixels[:2])
            start = now()
            for image in pixels:
                one.score(image[None])
            seconds.append(now() - start)
        return {
            "epoch_seconds": epochs[-1],
            "torch_seconds": seconds[0],
            "seconds": seconds[1],
            "images": len(test),
            "backend": "torch" if found.runner is None else "openvino",
        }
    model, engine, loader = _anomalib("fastflow", "resnet18", files, folder, epochs=2)
    times: list[float] = []
    begin, end = model.on_train_epoch_start, model.on_train_epoch_end
    model.on_train_epoch_start = lambda: (times.append(now()), begin())[1]
    model.on_train_epoch_end = lambda: (times.append(now()), end())[1]
    engine.fit(model=model, train_dataloaders=loader)
    predicted = _loader(test, 1)
    start = now()
    engine.predict(model=model, dataloaders=predicted)
    seconds = now() - start
    with torch.inference_mode():
        bare, pixels = model.model.eval(), batch_of(test)
        bare(pixels[:1])
        begun = now()
        for image in pixels:
            bare(image[None])
        alone = now() - begun
    return {"epoch_seconds": times[-1] - times[-2], "seconds": seconds, "bare_seconds": alone, "images": len(test)}


def _repeated(files: list[Path], count: int) -> list[Path]:
    return [files[number % len(files)] for number in range(count)]


def _bank(detector: Any) -> Any:
    """Return rows as far apart as those of a coreset: patches of jittered noise images."""
    import torch

    draw = torch.Generator().manual_seed(SEED)
    rows: list[Any] = []
    while sum(map(len, rows)) < BANK_ROWS:
        image = torch.rand((1, 3, *SIZE), generator=draw)
        small = torch.nn.functional.interpolate(image[:, :, ::8, ::8], size=SIZE, mode="bilinear")
        rows.append(detector.embedder(small)[0][0])
    return torch.cat(rows)[:BANK_ROWS].clone()


def _compiled(detector: Any) -> Any:
    """Return the detector as the inference service loads it."""
    from vad_lib.compiled import load_for_scoring
    from vad_lib.models import InspectionModel, ModelInfo
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.thresholds import Calibration, Threshold

    threshold = Threshold(value=1.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
    info = ModelInfo(model_name=detector.name, ok_class="good", n_train=1, backbone={}, arguments={})
    model = InspectionModel(detector, Preprocessing(SIZE), threshold, Calibration(threshold=1.0, scale=1.0), info)
    with tempfile.TemporaryDirectory() as work:
        model.save(Path(work) / "model")
        found, choice = load_for_scoring(Path(work) / "model", cache=Path(work) / "cache")
    print(choice.in_words(), file=sys.stderr)
    return found.detector


def _their_module(backbone: str, detector: Any) -> Any:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    module = PatchcoreModel(backbone=backbone, layers=layers_of(backbone), pre_trained=False).eval()
    _same_backbone(module.feature_extractor.feature_extractor, detector.embedder.backbone)
    module.memory_bank = detector.bank_.rows
    return module


def _same_backbone(theirs: Any, ours: Any) -> None:
    """Give their backbone our tensors, so that random weights are the same on both sides."""
    tensors = {key.replace(".", "_"): value for key, value in ours.state_dict().items()}
    wanted = theirs.state_dict()
    theirs.load_state_dict({key: tensors[key.replace(".", "_")] for key in wanted if key.replace(".", "_") in tensors})


def _predict_by_engine(backbone: str, detector: Any, files: list[Path], batch: int, data: Path) -> dict[str, Any]:
    model, engine, _ = _anomalib("patchcore", backbone, files[:1], data)
    _same_backbone(model.model.feature_extractor.feature_extractor, detector.embedder.backbone)
    model.model.memory_bank = detector.bank_.rows
    engine.predict(model=model, dataloaders=_loader(files[:2], 1))
    start = now()
    found = engine.predict(model=model, dataloaders=_loader(files, batch)) or []
    seconds = now() - start
    scores = [float(score) for part in found for score in part.pred_score.flatten()]
    return {"seconds": seconds, "images": len(files), "scores": scores}


def _loader(files: list[Path], batch: int) -> Any:
    import torch
    from anomalib.data import PredictDataset

    parts = []
    for file in dict.fromkeys(files):
        parts.append(PredictDataset(path=file))
    by_file = dict(zip(dict.fromkeys(files), parts, strict=True))
    joined = torch.utils.data.ConcatDataset([by_file[file] for file in files])
    return torch.utils.data.DataLoader(joined, batch, collate_fn=parts[0].collate_fn)


def _anomalib(kind: str, backbone: str, files: list[Path], data: Path, epochs: int = 1) -> tuple[Any, Any, Any]:
    """Return anomalib's model with the same weights, its Engine, and a loader of training images."""
    from anomalib.engine import Engine
    from anomalib.models import Fastflow, Patchcore
    from lightning.pytorch import seed_everything

    from vad_lib.encoders.build import load_weights

    for name in ("anomalib", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seed_everything(SEED, verbose=False)
    bare = {"post_processor": False, "evaluator": False, "visualizer": False}
    weights = weights_of(backbone, data)
    model: Any
    if kind == "patchcore":
        made = Patchcore.configure_pre_processor(image_size=SIZE)
        model = Patchcore(backbone=backbone, layers=layers_of(backbone), pre_trained=False, pre_processor=made, **bare)
        extractor = model.model.feature_extractor.feature_extractor
    else:
        made = Fastflow.configure_pre_processor(image_size=SIZE)
        model = Fastflow(backbone=backbone, pre_trained=False, pre_processor=made, **bare)
        extractor = model.model.feature_extractor
    if weights.file is not None:
        load_weights(extractor, weights)
    engine = Engine(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_val_batches=0,
        default_root_dir=tempfile.mkdtemp(prefix="vad_bench_"),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return model, engine, _loader(files, 4)


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    side.__name__: side for side in (coreset_ours, coreset_anomalib, fit_ours, fit_anomalib, predict, fastflow)
}


if __name__ == "__main__":
    arguments = json.loads(sys.argv[2])
    if "ours" in f"{sys.argv[1]} {arguments.get('side', '')}":
        import vad_lib  # noqa: F401  before torch, as in every process of the product: it says how threads wait
    told = SIDES[sys.argv[1]](**arguments)
    print(json.dumps({**told, "peak_mib": round(peak_bytes() / 2**20)}), flush=True)
