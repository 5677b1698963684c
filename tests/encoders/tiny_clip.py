"""Other configurations of the random CLIP that comparisons use."""

from __future__ import annotations

import copy
from typing import Any

from vad_lib.comparison.random_clip import CONFIG


def config_with(**changes: Any) -> dict[str, Any]:
    """Return the configuration with other values: ``vision_cfg={"layers": 2}`` changes that one number."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return config
