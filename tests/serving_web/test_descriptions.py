"""The inference service describes what waits for words, and no image waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from brightness_model import BrightnessModel
from serving_rig import RigSource, until

from tests.words.stub_endpoint import Stub, Turn
from tests.words.words_rig import write_part
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.words.describing import newest_description, request_description

Web = Callable[..., str]


@dataclass
class Mapping(BrightnessModel):
    """The model of brightness, with a scale of its maps."""

    heatmap_scale: Any = field(default_factory=lambda: SimpleNamespace(contour=240.0))

    def __post_init__(self) -> None:
        super().__init__()


@pytest.fixture
def service(
    web: Web,
    source: RigSource,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("vad_dagster.service.describer.IDLE_SECONDS", 0.05)
    source.make = lambda line, version: Mapping()
    source.lines["bottles"].line.plan_file.write_text("user_parameters:\n  - train_pipeline:\n    - step: train\n")
    return web()


def send(service: str, source: RigSource, name: str, brightness: int) -> int:
    file = write_part(source.home.root / name, brightness, spot=255).file
    answer = requests.post(f"{service}/lines/bottles/images", data=file.read_bytes(), timeout=30)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["prediction_id"])


def test_what_waits_is_described_and_counted(
    service: str,
    source: RigSource,
    stub: Stub,
    db: InspectionDatabase,
) -> None:
    number = send(service, source, "a.png", 150)
    request_description(db, "bottles", number, asked_by="Kim")

    def done() -> bool:
        row = newest_description(db, number)
        return row is not None and row.state == "done"

    until(done)
    metrics = requests.get(f"{service}/metrics", timeout=5).text
    assert 'vad_vlm_requests_total{outcome="replied"} 1.0' in metrics
    assert 'vad_vlm_tokens_total{kind="prompt"} 100.0' in metrics
    assert 'vad_descriptions{line="bottles",state="done"} 1.0' in metrics
    captions = [part.get("text", "") for part in stub.asked[0]["messages"][1]["content"]]
    assert any("numbered boxes" in caption for caption in captions), "regions come from the model that is warm"


def test_no_image_waits_for_an_endpoint_that_hangs(
    service: str,
    source: RigSource,
    stub: Stub,
    db: InspectionDatabase,
) -> None:
    stub.script = lambda body: Turn(delay=3.0)
    number = send(service, source, "a.png", 150)
    request_description(db, "bottles", number, asked_by="Kim")
    until(lambda: stub.asked)
    for brightness in range(151, 156):
        send(service, source, f"{brightness}.png", brightness)
    row = newest_description(db, number)
    assert row is not None
    assert row.state == "waiting", "five images had their results meanwhile"


def test_a_wrong_address_keeps_no_image_from_being_inspected(
    web: Web, source: RigSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_VLM_URL", "nowhere")
    monkeypatch.setenv("VAD_VLM_MODEL", "m")
    assert send(web(), source, "a.png", 150)
