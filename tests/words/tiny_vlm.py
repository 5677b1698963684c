"""A vision language model of half a million random numbers, made without a network: for the tests of answers in words.

It has the structure of Qwen2.5-VL (Bai et al., "Qwen2.5-VL Technical Report", 2025, https://arxiv.org/abs/2502.13923),
a tokenizer trained on the pages of this project, a processor and a chat template. What it says has no meaning.

Fixtures, to be imported by a conftest (``from tests.words.tiny_vlm import tiny_vlm, vlm_server  # noqa: F401``):

* ``tiny_vlm``: the folder of the model, as ``transformers`` saves it; a second or two, once in a session.
* ``vlm_server``: a ``VlmServer`` (``base_url``, ``model``), which is ``transformers serve`` on that folder: a real
  server of OpenAI's protocol. Starting takes some 20 to 60 seconds, so tests that ask for it are marked slow.
"""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = 600
"""Entries of the tokenizer; the 256 bytes and the special tokens are among them."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START_SECONDS = 240
"""Within this time the server has to answer, also on a machine that is busy."""


@dataclass(frozen=True)
class VlmServer:
    """A server that runs: its address, which ends in ``/v1``, and the name that its model goes by."""

    base_url: str
    model: str


def make_tiny_vlm(folder: Path) -> Path:
    """Write model, tokenizer, processor and chat template into a folder, and return it."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    from vad_lib.randomness import seeded

    tokenizer = train_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 96,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    with seeded(0):
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    model.generation_config.max_new_tokens = 16
    model.save_pretrained(folder, safe_serialization=True)
    sizes = {"min_pixels": 56 * 56, "max_pixels": 224 * 224}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def train_tokenizer(texts: Sequence[str] = ()):  # type: ignore[no-untyped-def]
    """Return a byte-level tokenizer with Qwen's special tokens, trained on texts, or on the pages under docs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = texts or [page.read_text(encoding="utf-8") for page in sorted((REPOSITORY / "docs").glob("*.md"))]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=WORDS, special_tokens=[*SPECIAL], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*SPECIAL[1:]],
        chat_template=CHAT_TEMPLATE,
    )


def as_data_url(picture: Image.Image) -> str:
    """Return a picture as the address that carries it, a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model; skips where the extra ``vlm`` is not installed."""
    pytest.importorskip("transformers", reason="the extra vlm is not installed")
    return make_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="session")
def vlm_server(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmServer]:
    """``transformers serve`` with the tiny model on a free port; ended with the session."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tiny_vlm)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        wait_until_it_answers(process, f"http://127.0.0.1:{port}/health", log)
        yield VlmServer(f"http://127.0.0.1:{port}/v1", str(tiny_vlm))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return once an address answers; fail with the server's last words where it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.3)
    raise AssertionError(f"the server does not answer: {log.read_text(errors='replace')[-3000:]}")
