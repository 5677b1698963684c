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
import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from tools.pretrain_backbone.drawing import draw_sheets
from tools.pretrain_backbone.views import DAMAGES, Batches, Views
from vad_lib.backbones import vadnet  # noqa: F401  registers the architecture


class Objective(nn.Module):
    """What the features of layer2 and layer3 must do, place by place.

    Intact places of one sheet, in two pictures with other crops and other light, must lie closer together than to
    anything else; a damaged place is like nothing, not even like its own sheet (supervised contrastive loss of Khosla
    et al., NeurIPS 2020, dense, with damaged places as negatives only). Beside that a linear probe must name the kind
    of damage.

    Args:
        channels: of layer2 and layer3.
        places: how many places of an image take part in the comparison (all are asked for damage).
        temperature: of the comparison.
        damage_weight: of the probe's loss.
    """

    def __init__(self, channels: tuple[int, int], places: int, temperature: float, damage_weight: float) -> None:
        super().__init__()
        self.damages = nn.ModuleList(nn.Conv2d(width, len(DAMAGES), 1) for width in channels)
        self.places, self.temperature, self.damage_weight = places, temperature, damage_weight

    def forward(self, features: list[Tensor], views: Views, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, and ``right``: the share of intact places of layer3 whose nearest place is of their sheet."""
        found: dict[str, Tensor] = {}
        for number, (maps, detect) in enumerate(zip(features, self.damages, strict=True), 2):
            damage, inlay = views.damage, views.inlay
            if number == 3:
                damage, inlay = F.max_pool2d(damage, 2), F.avg_pool2d(inlay, 2)
            found[f"damage{number}"] = self.damage_weight * F.binary_cross_entropy_with_logits(
                detect(maps), (damage > 0.3).float(), pos_weight=torch.tensor(3.0)
            )
            inlay, worst = inlay.flatten(1), damage.amax(1).flatten(1)
            label = torch.where(inlay > 0.75, views.inlaid[:, None], views.ground[:, None])
            label = torch.where(worst > 0.5, -1, label)
            unclear = ((inlay > 0.25) & (inlay < 0.75)) | ((worst > 0.05) & (worst < 0.5))
            # damaged places are few: they are drawn first half of the time
            order = torch.rand(label.shape, generator=generator) + 0.4 * (label == -1) - 2.0 * unclear
            order, pick = order.sort(1, descending=True)
            pick, use = pick[:, : self.places], order[:, : self.places].flatten() > 0
            vectors = maps.flatten(2).transpose(1, 2)
            vectors = vectors.gather(1, pick[..., None].expand(-1, -1, vectors.shape[-1])).flatten(0, 1)[use]
            label = label.gather(1, pick).flatten()[use]
            vectors = F.normalize(vectors - vectors.mean(0), dim=1)
            alike = vectors @ vectors.T / self.temperature
            alike = alike.masked_fill(torch.eye(len(alike), dtype=torch.bool), -1e4)
            positive = (label[:, None] == label) & (label[:, None] >= 0) & ~torch.eye(len(alike), dtype=torch.bool)
            anchors = positive.any(1)
            log_share = alike - alike.logsumexp(1, keepdim=True)
            found[f"like{number}"] = -((log_share * positive).sum(1) / positive.sum(1).clamp(min=1))[anchors].mean()
            found["right"] = (label[alike.argmax(1)] == label)[anchors].float().mean()
        return found


def sheets_of(arguments: argparse.Namespace) -> Tensor:
    """The drawn sheets, from the cache where the same ones were drawn before."""
    cache = Path(arguments.cache) / f"sheets_{arguments.seed}_{arguments.sheets}_{arguments.sheet_size}.npy"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial.npy")
        np.save(partial, draw_sheets(arguments.sheets, arguments.seed, arguments.sheet_size, arguments.processes))
        partial.rename(cache)
    return torch.from_numpy(np.load(cache, allow_pickle=False))


class Log:
    """Means of the losses over every ``every`` steps, as lines of a csv file; a resumed training goes on in it."""

    def __init__(self, file: Path, every: int, start: int) -> None:
        self.file, self.every, self.sums = file, every, dict[str, float]()
        if not start:
            file.unlink(missing_ok=True)

    def add(self, step: int, seconds: float, losses: dict[str, Tensor]) -> None:
        """Take in the losses of step number ``step``, counted from 1."""
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
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": arguments.decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=arguments.rate)


def learning_rate(arguments: argparse.Namespace, step: int) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    warm = min(1.0, (step + 1) / 200)
    return arguments.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / arguments.schedule)))


def train(arguments: argparse.Namespace) -> None:
    """Train and write; see the module's text."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    sheets = sheets_of(arguments)
    network = timm.create_model("vadnet10", features_only=True, out_indices=(2, 3))
    network = network.to(memory_format=torch.channels_last).train()
    if not arguments.level:
        network["level"] = nn.Identity()
    average = {key: value.clone() for key, value in network.state_dict().items()}
    channels = tuple(network.feature_info.channels())
    objective = Objective(channels, arguments.places, arguments.temperature, arguments.damage_weight)
    optimiser = _optimiser(network, objective, arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    checkpoint, start, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        objective.load_state_dict(state["objective"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        average, start, spent = state["average"], state["step"], state["seconds"]
    began = time.perf_counter() - spent
    log = Log(out / "log.csv", arguments.report, start)
    stop = min(arguments.steps, arguments.stop or arguments.steps)
    batches = Batches(sheets, arguments.view_size, arguments.batch, arguments.seed, start, stop)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    for step, views in enumerate(loader, start):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(arguments, step)
        images = normalised(views.images).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features = network(images)
        losses = objective([maps.float() for maps in features], views, generator)
        loss = torch.stack([value for name, value in losses.items() if name != "right"]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        keep = min(arguments.average, (step + 1) / (step + 10))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, 1 - keep)
        log.add(step + 1, time.perf_counter() - began, losses)
        if (step + 1) % arguments.keep == 0 or step + 1 == stop:
            state = {
                "network": network.state_dict(),
                "objective": objective.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "average": average,
                "step": step + 1,
                "seconds": time.perf_counter() - began,
            }
            torch.save(state, out / "checkpoint.partial")
            (out / "checkpoint.partial").rename(checkpoint)
    if stop == arguments.steps:
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
    parser.add_argument("--sheets", type=int, default=4096)
    parser.add_argument("--sheet-size", type=int, default=160)
    parser.add_argument("--view-size", type=int, default=64, help="pixels, a multiple of 16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--schedule", type=int, default=1500, help="steps after which the learning rate would be nothing"
    )
    parser.add_argument("--stop", type=int, help="stop at this step, to go on another time")
    parser.add_argument("--level", action="store_true", help="level the light in training too, not only in use")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--places", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--damage-weight", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", type=int, default=50)
    parser.add_argument("--keep", type=int, default=100)
    return parser.parse_args(given)


if __name__ == "__main__":
    train(parse())
