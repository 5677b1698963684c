"""A folder of open_clip with a CLIP of random weights, small and with CLIP's own vocabulary.

It shows that everything works together, and tells nothing about images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vad_lib.encoders.clip_folder import CONFIG_FILE, TENSORS_FILE

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
}


def random_clip(config: dict[str, Any]) -> torch.nn.Module:
    """Return open_clip's own network; its numbers are the same each time, and none of them is 0 or 1."""
    from open_clip.model import CLIP, CustomTextCLIP

    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def write_random_clip(folder: Path, config: dict[str, Any] | None = None) -> torch.nn.Module:
    """Write the folder and return the network that is in it."""
    config = config or CONFIG
    model = random_clip(config)
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "resize_mode": "shortest"}
    content = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / TENSORS_FILE)
    return model
