"""CLIP and SigLIP encoders, built by open_clip from a configuration and tensors; nothing is looked up anywhere.

open_clip is an extra of the package (``pip install vad[clip]``), so it is imported where a network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vad_lib.encoders.build import Normalise, freeze, layer_names
from vad_lib.encoders.precision import in_own_precision
from vad_lib.encoders.protocol import Embedding, Encoder
from vad_lib.encoders.weight_file import BackboneWeights, part_of
from vad_lib.errors import ModelFormatError, PlanError

CLIP_WORDS = 49_408
"""Words of CLIP's own vocabulary, which open_clip brings along; other text towers need a tokenizer of their own."""
TEXTS = 64
"""Texts that are encoded at once."""
_TEXT_PARTS = ("transformer.", "token_embedding.", "ln_final.", "positional_embedding", "text_projection")


class OpenClipEncoder(Encoder):
    """A network of CLIP's kind: the vector of an image is what it is compared with texts by.

    Patches are those of the chosen blocks behind the tower's last norm, as ``TimmEncoder`` has them. Transformers take
    images of any size from one patch on; their position embeddings are stretched (bilinear, without aligned corners).

    Args:
        weights: of the library open_clip.
        layers: of ``clip_layer_names`` whose patches are wanted.
        text: whether the text tower is built too. A model that has stored its text vectors needs none.

    Raises:
        PlanError: open_clip is not installed, or there is no such layer.
        ModelFormatError: configuration and tensors do not fit together.
    """

    def __init__(self, weights: BackboneWeights, layers: Sequence[str], *, text: bool = True) -> None:
        super().__init__(weights)
        names = clip_layer_names(weights)
        if unknown := [layer for layer in layers if layer not in names]:
            raise PlanError(
                f"The plan names the layer {unknown[0]!r}, but the layers of {weights.name} are {', '.join(names)} "
                "(shallowest first)."
            )
        self.indices = sorted(names.index(layer) for layer in layers)
        self.last = len(names) - 1
        self.normalise = Normalise(weights)
        tensors = tensors_of(weights)
        self.visual = build_image_tower(weights, tensors)
        self.text = build_text_tower(weights, tensors) if text else None

    @in_own_precision
    def forward(self, images: torch.Tensor) -> Embedding:
        """See ``Encoder.forward``."""
        visual: Any = self.visual
        prepared = self.normalise(images)
        try:
            if not hasattr(visual, "class_embedding"):
                # always with the last layer: a residual tower makes the vector of the image from the deepest one
                asked = [*self.indices] if self.last in self.indices else [*self.indices, self.last]
                found = visual.forward_intermediates(prepared, indices=asked, normalize_intermediates=True)
                return Embedding(found["image_features"], tuple(found["image_intermediates"][: len(self.indices)]))
            tokens, (rows, columns) = embed_patches(visual, prepared)
            tokens, blocks = visual.transformer.forward_intermediates(tokens, indices=self.indices)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"The encoder {self.weights.name} cannot take images of {images.shape[2]} x {images.shape[3]} pixels "
                f"({error}). Its own size is {self.weights.model_config['vision_cfg'].get('image_size', 224)}: "
                "change img_size."
            ) from error
        pooled, _ = visual._pool(tokens)
        # a tower that pools first has its norm on vectors of another length than those of patches
        norm = visual.ln_post if visual.attn_pool is None else nn.Identity()
        patches = [norm(block)[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for block in blocks]
        return Embedding(pooled @ visual.proj, tuple(patches))

    def patches_beside_text(self, patches: torch.Tensor) -> torch.Tensor:
        """Bring patches (N, C, rows, columns) of the last block into the space of texts, (N, D, rows, columns).

        Raises:
            PlanError: the tower has no projection of single patches.
        """
        projection: Any = getattr(self.visual, "proj", None)
        if not torch.is_tensor(projection) or projection.shape[0] != patches.shape[1]:
            raise PlanError(
                f"The patches of {self.weights.name} cannot be compared with texts. Take a CLIP with a ViT."
            )
        return torch.einsum("nchw,cd->ndhw", patches, projection)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """See ``Encoder.encode_text``."""
        if self.text is None:
            return super().encode_text(texts)
        return text_vectors(self.weights, self.text, texts)


def text_vectors(weights: BackboneWeights, tower: nn.Module, texts: Sequence[str]) -> torch.Tensor:
    """Return one vector of length 1 for each text, float32 (M, D), by the text tower of these weights.

    Raises:
        PlanError: the tower has a vocabulary of its own, and its tokenizer is not in the folder or cannot be read.
    """
    tokens = tokenizer_of(weights)(list(texts)).to(next(tower.parameters()).device)
    return functional.normalize(tower(tokens), dim=-1)


def class_vectors(weights: BackboneWeights, sentences: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return the mean vector of the texts of each class, (classes, D), of the texts' vectors of length 1.

    Raises:
        PlanError: the folder has no text tower that can be used.
    """
    tower = build_text_tower(weights, tensors_of(weights))
    parts = []
    for texts in sentences:
        chunks = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        parts.append(torch.cat([text_vectors(weights, tower, chunk) for chunk in chunks]).mean(0))
    return torch.stack(parts)


def clip_layer_names(weights: BackboneWeights) -> list[str]:
    """Return the names of the layers of a tower of open_clip whose patches can be taken, shallowest first."""
    vision = weights.model_config["vision_cfg"]
    if name := vision.get("timm_model_name"):
        return layer_names(BackboneWeights(name, None, "none", ""))
    layers = vision.get("layers", 12)
    if isinstance(layers, int):
        return [f"blocks.{number}" for number in range(layers)]
    return ["stem", "layer1", "layer2", "layer3", "layer4"]


def embed_patches(visual: Any, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return the tokens (N, 1 + patches, C) that enter the blocks of open_clip's transformer, and their rows, columns.

    The first token is the one of the whole image. Positions are stretched where the images have another size than the
    tower's own.

    Args:
        visual: open_clip's ``VisionTransformer``.
        images: normalised, float32 (N, 3, H, W); what is over at the right and below a whole patch is left out.
    """
    grid = visual.conv1(images)
    positions = visual.positional_embedding
    if tuple(grid.shape[2:]) != tuple(visual.grid_size):
        square = positions[1:].T.unflatten(1, visual.grid_size)[None]
        square = functional.interpolate(square, size=grid.shape[2:], mode="bilinear", align_corners=False)
        positions = torch.cat([positions[:1], square[0].flatten(1).T])
    first = visual.class_embedding.expand(images.shape[0], 1, -1)
    tokens = torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1) + positions
    return visual.ln_pre(tokens), (grid.shape[2], grid.shape[3])


def tensors_of(weights: BackboneWeights) -> dict[str, torch.Tensor] | None:
    """Return the tensors of both towers; None where the folder is not here, since a fitted model brings its own."""
    return None if weights.file is None else weights.load_state_dict()


def build_image_tower(weights: BackboneWeights, tensors: dict[str, torch.Tensor] | None) -> nn.Module:
    """Build the image tower, frozen, float32, with the tensors of ``tensors_of``."""
    tower = _build(weights, "_build_vision_tower", "vision_cfg")
    trunk = getattr(tower, "trunk", None)
    if hasattr(trunk, "dynamic_img_size"):
        _take_any_size(trunk)
    return _load(tower, weights, None if tensors is None else part_of(tensors, "visual."))


def build_text_tower(weights: BackboneWeights, tensors: dict[str, torch.Tensor] | None) -> nn.Module:
    """Build the text tower, frozen, float32; it maps tokens (M, length) to vectors (M, D) that are not normalised."""
    tower = _build(weights, "_build_text_tower", "text_cfg")
    if tensors is None:
        return _load(tower, weights, None)
    own = part_of(tensors, "text.")
    if not own:  # CLIP's own layout: the parts of the text tower have no name before them
        own = {key: value for key, value in tensors.items() if key.startswith(_TEXT_PARTS)}
    return _load(tower, weights, own)


def tokenizer_of(weights: BackboneWeights) -> Callable[[list[str]], torch.Tensor]:
    """Return what turns texts into tokens, int64 (M, length), for the text tower of these weights.

    Raises:
        PlanError: the tower has a vocabulary of its own, and its tokenizer is not in the folder or cannot be read.
    """
    text = weights.model_config.get("text_cfg", {})
    length, options = text.get("context_length", 77), dict(text.get("tokenizer_kwargs") or {})
    if text.get("vocab_size", CLIP_WORDS) == CLIP_WORDS:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=length, **options)
    folder = None if weights.file is None else weights.file.parent
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise PlanError(
            f"The text tower of {weights.name} has {text['vocab_size']:,} words, CLIP has {CLIP_WORDS:,}: it needs "
            f"tokenizer.json beside its tensors{'' if folder is None else f' in {folder}'}."
        )
    try:
        from open_clip.tokenizer import HFTokenizer

        return HFTokenizer(str(folder), context_length=length, local_files_only=True, **options)
    except ImportError as error:
        raise PlanError(
            f"The tokenizer of {weights.name} is read by the package transformers, which is not installed here: "
            "install it, or take a CLIP, whose tokenizer needs nothing."
        ) from error


def _build(weights: BackboneWeights, builder: str, section: str) -> nn.Module:
    try:
        from open_clip import model
    except ImportError as error:
        raise PlanError(
            f"{weights.name} is a network of open_clip, which is not installed here. Install it with the extra clip: "
            "pip install 'vad[clip]'."
        ) from error
    config = weights.model_config
    try:
        tower: nn.Module = getattr(model, builder)(
            config["embed_dim"], dict(config[section]), bool(config.get("quick_gelu", False))
        )
    except Exception as error:  # each wrong number fails in its own place
        raise ModelFormatError(f"The {section} of {weights.name} does not describe a tower ({error!r}).") from error
    return tower


def _take_any_size(trunk: Any) -> None:
    """Let a transformer of timm take images of any size, as its argument dynamic_img_size does when it is made."""
    from timm.layers import Format

    trunk.dynamic_img_size = True
    trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = False, False
    trunk.patch_embed.output_fmt = Format.NHWC


def _load(tower: nn.Module, weights: BackboneWeights, tensors: dict[str, torch.Tensor] | None) -> nn.Module:
    if tensors is not None:
        try:
            missing, _ = tower.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise ModelFormatError(f"{weights.file} does not fit its configuration: {error}") from error
        if missing:
            raise ModelFormatError(
                f"{weights.file} lacks {len(missing)} weights that its configuration asks for, such as {missing[0]}. "
                "Copy the folder again."
            )
    return freeze(tower)
