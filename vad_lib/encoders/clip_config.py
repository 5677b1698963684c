"""What a configuration of open_clip may say: sizes and switches of the two towers, and nothing that names a place.

open_clip, and timm and transformers behind it, fetch networks, weights and tokenizers by names that stand in such a
configuration. So a configuration passes here before it reaches them, whether it comes from a folder that somebody
downloaded or from a fitted model.
"""

from __future__ import annotations

import re
from typing import Any

from vad_lib.errors import ModelFormatError

_BLOCK_KEYS = {
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
}
_TOWER_KEYS = _BLOCK_KEYS | {"layers", "width", "mlp_ratio", "ls_init_value", "pool_type", "final_ln_after_pool"}
_TOWER_KEYS |= {"output_tokens", "act_kwargs", "norm_kwargs"}
ALLOWED: dict[str, set[str]] = {
    "": {"embed_dim", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias", "vision_cfg", "text_cfg"},
    "vision_cfg": _TOWER_KEYS
    | {"head_width", "patch_size", "image_size", "patch_dropout", "attentional_pool", "attn_pooler_queries"}
    | {"attn_pooler_heads", "no_ln_pre", "pos_embed_type", "timm_model_name", "timm_pool", "timm_proj"}
    | {"timm_proj_bias", "timm_drop", "timm_drop_path"},
    "text_cfg": _TOWER_KEYS
    | {"context_length", "vocab_size", "heads", "embed_cls", "pad_id", "eos_id", "no_causal_mask", "proj_bias"}
    | {"proj_type", "tokenizer_kwargs"},
}
"""The keys of a configuration, by section; '' is the configuration itself."""
_LEFT_OUT = {"timm_model_pretrained", "hf_tokenizer_name", "tokenizer_mode"}
"""What a published configuration may have and a folder with all its files has no use for."""
_WORD = re.compile(r"\w*(\.\w+)*", re.ASCII)


def clean_config(config: Any, whose: str) -> dict[str, Any]:
    """Return a published configuration without what only names other places; see ``require_plain_config``.

    Raises:
        ModelFormatError: something else in it is not allowed.
    """
    if not isinstance(config, dict):
        raise ModelFormatError(f"{whose} is not a JSON object.")
    kept = {
        key: {name: inner for name, inner in value.items() if name not in _LEFT_OUT}
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }
    return require_plain_config(kept, whose)


def require_plain_config(config: Any, whose: str) -> dict[str, Any]:
    """Return a configuration in which every key is known and every value is a number, a word, or a few of those.

    Args:
        config: as ``open_clip_config.json`` has it under ``model_cfg``.
        whose: for the message.

    Raises:
        ModelFormatError: it has another key, or a value that could name a file or an address.
    """
    if not isinstance(config, dict) or not isinstance(config.get("vision_cfg"), dict):
        raise ModelFormatError(f"{whose} is not a configuration of open_clip: it has no vision_cfg.")
    sections = {"": {key: value for key, value in config.items() if not isinstance(value, dict)}}
    sections |= {key: value for key, value in config.items() if isinstance(value, dict)}
    for section, values in sections.items():
        for key, value in values.items():
            inner = value.values() if key.endswith("_kwargs") and isinstance(value, dict) else [value]
            if key not in ALLOWED.get(section, ()) or not all(map(_is_plain, inner)):
                place = f"{section}.{key}" if section else key
                raise ModelFormatError(
                    f"{whose} has {place}: {value!r}. Only sizes and switches of the usual towers can be read: take a "
                    "CLIP or SigLIP folder without networks of other libraries."
                )
    if not isinstance(config.get("embed_dim"), int):
        raise ModelFormatError(f"{whose} has no embed_dim.")
    return config


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return all(
        part is None or isinstance(part, int | float) or (isinstance(part, str) and bool(_WORD.fullmatch(part)))
        for part in parts
    )
