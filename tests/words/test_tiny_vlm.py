"""The tiny vision language model: it generates by itself, and a real server of OpenAI's protocol answers with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.words.tiny_vlm import VlmServer, as_data_url, make_tiny_vlm


def test_the_tiny_model_is_small_looks_at_the_picture_and_is_the_same_each_time(tiny_vlm: Path, tmp_path: Path) -> None:
    """Otherwise a test with it would say nothing about pictures, or would change from run to run."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    again = make_tiny_vlm(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (tiny_vlm / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (tiny_vlm / "tokenizer.json").read_bytes()

    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm, local_files_only=True)
    processor = AutoProcessor.from_pretrained(tiny_vlm, local_files_only=True)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000

    found = []
    for colour in ("red", "green"):
        picture = {"type": "image", "image": Image.new("RGB", (90, 70), colour)}
        asked = [{"role": "user", "content": [picture, {"type": "text", "text": "Is there any anomaly?"}]}]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        with torch.no_grad():
            found.append(model(**processor.apply_chat_template(asked, **options)).logits[0, -1])
    assert not torch.equal(*found)


@pytest.mark.slow
def test_a_client_of_openai_gets_an_answer_about_a_picture_from_the_server(vlm_server: VlmServer) -> None:
    """The picture travels in its address; its tokens are counted."""
    import openai

    client = openai.OpenAI(base_url=vlm_server.base_url, api_key="none", timeout=60)
    assert vlm_server.model in [model.id for model in client.models.list()]
    text = {"type": "text", "text": "Is there any anomaly in the image?"}
    picture = {"type": "image_url", "image_url": {"url": as_data_url(Image.new("RGB", (120, 90), "red"))}}
    replies = [
        client.chat.completions.create(
            model=vlm_server.model, messages=[{"role": "user", "content": content}], max_tokens=8, temperature=0
        )
        for content in ([text], [picture, text])
    ]
    assert all(reply.choices[0].message.content for reply in replies)
    tokens = [reply.usage.prompt_tokens for reply in replies]
    assert tokens[1] >= tokens[0] + 4
