"""A language model of a local folder that takes vectors in the place of words.

The package transformers is an extra (``pip install vad[vlm]``), so it is imported where a model is loaded. The folder
holds numbers and texts only: one that would run code of its own, or that must be unpickled, is refused, and nothing is
looked up anywhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from vad_lib.errors import InputError, ModelFormatError, PlanError
from vad_lib.machine import resolve_device

LONGEST_PROMPT = 1024
"""Tokens of question and answer together, those of the picture among them; the length of the study's runs."""
LONGEST_ANSWER = 64
"""Tokens of an answer."""
_PLAIN: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def require_plain_folder(folder: Path) -> None:
    """Refuse a folder that is no model, that would run code of its own, or that has to be unpickled.

    Raises:
        InputError: there is no such folder, or it holds no model.
        ModelFormatError: it holds code, names code, holds no safetensors, or points to another model.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is no folder of a language model: it holds no config.json. Fetch one on a machine with a "
            "network, such as with `hf download`, and give its folder."
        )
    if code := sorted(file.name for file in folder.rglob("*.py")):
        raise ModelFormatError(f"{folder} brings code of its own ({code[0]}), which is never run. Take another model.")
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelFormatError(f"{file} cannot be read as JSON ({error}). Copy the folder again.") from error
        parts = (content, *content.values()) if isinstance(content, dict) else ()
        if any(isinstance(part, dict) and "auto_map" in part for part in parts):
            raise ModelFormatError(f"{file} names code to run (auto_map), which is never done. Take another model.")
    if (folder / "adapter_config.json").exists():
        raise ModelFormatError(f"{folder} holds an adapter of another model. Merge them, and give the merged folder.")
    if not any(folder.glob("*.safetensors")):
        raise ModelFormatError(f"{folder} holds no .safetensors file, and other files of weights are not read.")


class LanguageModel:
    """A language model, with or without eyes, that stays as it is.

    Args:
        folder: of the model, its tokenizer and, where it sees pictures, its processor.
        accelerator: cpu or gpu.

    Attributes:
        sees: whether it takes pictures.
        width: numbers in the vector of a word.
        spread: deviation of the numbers in the vectors of its words.
        fingerprint: sha256 of the vectors of its words: what learnt prompts fit to.

    Raises:
        InputError, ModelFormatError: see ``require_plain_folder``; or transformers cannot read it.
        PlanError: transformers is not installed, or there is no GPU.
    """

    def __init__(self, folder: Path, accelerator: str = "cpu") -> None:
        device = resolve_device(accelerator)
        require_plain_folder(folder)
        try:
            import transformers
        except ImportError as error:
            raise PlanError(
                f"{folder} is a model of transformers, which is not installed here. Install it with the extra vlm: "
                "pip install 'vad[vlm]'."
            ) from error
        self.name = folder.name
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **_PLAIN)
            self.sees = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            kind = transformers.AutoModelForImageTextToText if self.sees else transformers.AutoModelForCausalLM
            model = kind.from_pretrained(folder, use_safetensors=True, dtype="auto", **_PLAIN)
            reader = transformers.AutoProcessor if self.sees else transformers.AutoTokenizer
            self.processor: Any = reader.from_pretrained(folder, **_PLAIN)
        except Exception as error:  # damaged and foreign folders raise many kinds
            raise ModelFormatError(f"transformers cannot read the language model in {folder}: {error}") from error
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.device = device
        words = self.model.get_input_embeddings().weight
        self.width = int(words.shape[1])
        self.spread = float(words.float().std())
        self.fingerprint = hashlib.sha256(words.float().cpu().numpy().tobytes()).hexdigest()
        self.tokenizer: Any = self.processor.tokenizer if self.sees else self.processor
        filler = self.tokenizer.pad_token or self.tokenizer.eos_token
        if filler is None:
            raise ModelFormatError(f"The tokenizer of {folder} has neither a padding token nor one for the end.")
        self.filler: str = filler

    def loss(self, picture: Image.Image, question: str, answer: str, vectors: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of an answer's tokens; gradients reach ``vectors`` (n, width).

        Raises:
            InputError: question, picture and answer are longer than ``LONGEST_PROMPT`` tokens.
        """
        prompt, start = self._prompt(picture, question, len(vectors))
        said = self.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
        end = self.tokenizer.eos_token_id
        if end is not None:
            said = torch.cat([said, torch.tensor([[end]])], dim=1)
        said = said.to(self.device)
        before = prompt["input_ids"]
        for name, value in prompt.items():  # masks and kinds of tokens go on as they are for words
            if value.shape == before.shape:
                more = said if name == "input_ids" else torch.full_like(said, int(name == "attention_mask"))
                prompt[name] = torch.cat([value, more.to(value.dtype)], dim=1)
        self._require_short(prompt)
        with self._in_place_of_words(vectors, start):
            logits = self.model(**prompt, use_cache=False).logits[0, -said.shape[1] - 1 : -1]
        return functional.cross_entropy(logits.float(), said[0])

    @torch.no_grad()
    def answer(self, picture: Image.Image, question: str, vectors: torch.Tensor) -> str:
        """Return what the model says, always its most probable next word.

        Raises:
            InputError: see ``loss``.
        """
        prompt, start = self._prompt(picture, question, len(vectors))
        self._require_short(prompt)
        length = prompt["input_ids"].shape[1]
        with self._in_place_of_words(vectors, start):
            made = self.model.generate(**prompt, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        return str(self.tokenizer.decode(made[0, length:], skip_special_tokens=True)).strip()

    def _prompt(self, picture: Image.Image, question: str, count: int) -> tuple[dict[str, torch.Tensor], int]:
        """Return tokens and pixels of one turn, and where the ``count`` tokens begin that vectors take the place of."""
        text = self.filler * count + question
        if not self.sees:
            if self.tokenizer.chat_template:
                turn = [{"role": "user", "content": text}]
                text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            found = self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template, return_tensors="pt")
        else:
            parts = [{"type": "image", "image": picture.convert("RGB")}, {"type": "text", "text": text}]
            found = self.processor.apply_chat_template(
                [{"role": "user", "content": parts}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        filler = self.tokenizer.convert_tokens_to_ids(self.filler)
        runs = (found["input_ids"][0] == filler).unfold(0, count, 1).all(dim=1).nonzero()
        if not len(runs):
            raise ModelFormatError(f"The chat template of {self.name} does not keep a question as it is.")
        return {name: value.to(self.device) for name, value in found.items()}, int(runs[0])

    def _require_short(self, prompt: dict[str, torch.Tensor]) -> None:
        length = prompt["input_ids"].shape[1]
        if length > LONGEST_PROMPT:
            raise InputError(
                f"The prompt has {length} tokens, and at most {LONGEST_PROMPT} are taken. A smaller picture has fewer."
            )

    @contextmanager
    def _in_place_of_words(self, vectors: torch.Tensor, start: int) -> Iterator[None]:
        """Put vectors (n, width) among the ``inputs_embeds``, where the model looks up the vectors of its tokens.

        The tokens go on saying where a picture stands, so a model that sees places its pictures as it always does.
        """

        def put(_: torch.nn.Module, __: Any, words: torch.Tensor) -> torch.Tensor:
            end = start + len(vectors)
            if words.ndim < 3 or words.shape[1] < end:  # a later word of an answer, by itself
                return words
            return torch.cat([words[:, :start], vectors.to(words)[None], words[:, end:]], dim=1)

        handle = self.model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()
