"""Trains the shipped backbone from nothing: ``python -m tools.pretrain_backbone.train --seed 0 --out FOLDER``.

Draws the sheets, trains, and writes ``vadnet10.safetensors`` (half precision), ``log.csv`` and ``training.json`` into
the folder. Stopped and started again with the same arguments it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from tools.pretrain_backbone.drawing import draw_sheets
from tools.pretrain_backbone.episodes import Batches, Episodes
from tools.pretrain_backbone.objective import damage_on_grid, episodic_losses
from vad_lib.encoders.vadnet import VadNet


class Objective(nn.Module):
    """What the features of layer2 and layer3 must do.

    Joined as PatchCore joins them, and each layer alone, they must decide episodes rightly
    (:func:`tools.pretrain_backbone.objective.episodic_losses`). Beside that a linear probe of each must find the
    damaged cells without a memory, which is what tells a fresh network most in its first steps.
    """

    def __init__(self, channels: tuple[int, int], temperature: float, probe: float) -> None:
        super().__init__()
        self.probes = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in channels)
        self.temperature, self.probe = temperature, probe

    def forward(self, features: list[Tensor], drawn: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts by name for the log."""
        parts: dict[str, Tensor] = {}
        total = torch.zeros(())
        for name, layers, weight in (("", features, 1.0), ("2", features[:1], 0.5), ("3", features[1:], 0.5)):
            found = episodic_losses(layers, drawn, self.temperature)
            total = total + weight * (found["patch"] + found["image"] + 0.5 * found["sheet"])
            parts |= {key + name: value for key, value in found.items()}
        for number, (maps, detect) in enumerate(zip(features, self.probes, strict=True), 2):
            damage = damage_on_grid(drawn.damage, maps.shape[-1])
            parts[f"probe{number}"] = F.binary_cross_entropy_with_logits(
                detect(maps)[:, 0], (damage > 0.5).float(), pos_weight=torch.tensor(8.0)
            )
            total = total + self.probe * parts[f"probe{number}"]
        return total, parts


def sheets_of(arguments: argparse.Namespace) -> NDArray[np.uint8]:
    """The drawn sheets, mapped from the cache, where they are drawn first if they are not there yet."""
    cache = Path(arguments.cache) / f"sheets_{arguments.seed}_{arguments.sheets}_{arguments.sheet_size}.npy"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial.npy")
        np.save(partial, draw_sheets(arguments.sheets, arguments.seed, arguments.sheet_size, arguments.processes))
        partial.rename(cache)
    return np.load(cache, mmap_mode="r", allow_pickle=False)


class Log:
    """Means of the losses over every ``every`` steps, as lines of a csv file; a resumed training goes on in it."""

    def __init__(self, file: Path, every: int, start: int) -> None:
        self.file, self.every, self.sums = file, every, dict[str, float]()
        if not start:
            file.unlink(missing_ok=True)

    def add(self, step: int, seconds: float, losses: dict[str, Tensor]) -> None:
        """Take in the parts of the loss of step number ``step``, counted from 1."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach()) / self.every
        if step % self.every == 0:
            row = {"step": step, "seconds": round(seconds), **{name: round(v, 4) for name, v in self.sums.items()}}
            with self.file.open("a", encoding="utf-8") as lines:
                if lines.tell() == 0:
                    lines.write(",".join(row) + "\n")
                lines.write(",".join(str(value) for value in row.values()) + "\n")
            self.sums = {}


def normalised(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in 0..1 with ImageNet's mean and deviation taken out."""
    return (images - torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_DEFAULT_STD).view(
        1, 3, 1, 1
    )


def _optimiser(network: nn.Module, objective: nn.Module, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    parameters = [*network.parameters(), *objective.parameters()]
    return torch.optim.AdamW(parameters, lr=arguments.rate, weight_decay=arguments.decay)


def learning_rate(arguments: argparse.Namespace, step: int) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    warm = min(1.0, (step + 1) / 200)
    return arguments.rate * warm * 0.5 * (1 + math.cos(math.pi * step / arguments.steps))


def train(arguments: argparse.Namespace) -> None:
    """Train and write; see the module's text."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    sheets = sheets_of(arguments)
    network = VadNet().to(memory_format=torch.channels_last).train()
    average = {key: value.clone() for key, value in network.state_dict().items()}
    channels = (network.widths[1], network.widths[2])
    objective = Objective(channels, arguments.temperature, arguments.probe)
    optimiser = _optimiser(network, objective, arguments)
    checkpoint, start, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        objective.load_state_dict(state["objective"])
        optimiser.load_state_dict(state["optimiser"])
        average, start, spent = state["average"], state["step"], state["seconds"]
    began = time.perf_counter() - spent
    log = Log(out / "log.csv", arguments.report, start)
    last = min(arguments.steps, arguments.last or arguments.steps)
    stop = min(last, arguments.stop or last)
    batches = Batches(sheets, arguments.size, arguments.episodes, arguments.seed, start, stop)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, drawn in enumerate(loader, start):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(arguments, step)
        images = normalised(drawn.images).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features = network.layers(images)
        loss, parts = objective([maps.float() for maps in features[1:]], drawn)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        keep = min(arguments.average, (step + 1) / (step + 10))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, 1 - keep)
        log.add(step + 1, time.perf_counter() - began, parts)
        if (step + 1) % arguments.keep == 0 or step + 1 == stop:
            state = {
                "network": network.state_dict(),
                "objective": objective.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step + 1,
                "seconds": time.perf_counter() - began,
            }
            torch.save(state, out / "checkpoint.partial")
            (out / "checkpoint.partial").rename(checkpoint)
    if stop == last:
        half = {key: value.half().contiguous() for key, value in average.items() if value.is_floating_point()}
        save_file(half, out / "vadnet10.safetensors")
        record = {**vars(arguments), "seconds": round(time.perf_counter() - began), "torch": torch.__version__}
        (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments; the defaults are those of the shipped file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--cache", default="var/pretrain_backbone", help="folder of the drawn sheets")
    parser.add_argument("--sheets", type=int, default=6144)
    parser.add_argument("--sheet-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=96, help="pixels of the pictures, a multiple of 16")
    parser.add_argument("--episodes", type=int, default=4, help="in a step, of eight pictures each")
    parser.add_argument("--steps", type=int, default=5000, help="after which the learning rate would be nothing")
    parser.add_argument("--last", type=int, default=4200, help="the step that ends the training")
    parser.add_argument("--stop", type=int, help="stop at this step, to go on another time")
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--temperature", type=float, default=0.15)
    parser.add_argument("--probe", type=float, default=0.5, help="weight of the loss of the linear probes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", type=int, default=100)
    parser.add_argument("--keep", type=int, default=200)
    return parser.parse_args(given)


if __name__ == "__main__":
    train(parse())
