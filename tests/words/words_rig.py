"""A line with inspected images, an endpoint that does what a test says, and clients that do not wait long."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brightness_model import BrightnessModel
from inspection_rig import Rig
from PIL import Image, ImageDraw

from tests.postgres_server import new_inspection_url
from tests.words.stub_endpoint import Stub, stub_endpoint
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.words.client import CircuitBreaker, Client
from vad_lib.words.context import LineFacts
from vad_lib.words.describing import Budgets, Tally, describe_waiting, request_description
from vad_lib.words.endpoint import Endpoint
from vad_lib.words.nearest import KnownImage

PLENTY = Budgets(findings_hour=1000, tokens_day=10_000_000)
SPOT = (60, 10, 90, 30)
"""Left, top, right, bottom of what is bright on a bright image of 96 x 64 pixels."""


def write_part(file: Path, background: int, *, spot: int | None = None, words: str = "") -> KnownImage:
    """Write a grey part of 96 x 64 pixels, with a spot or painted words on it."""
    picture = Image.new("L", (96, 64), background)
    draw = ImageDraw.Draw(picture)
    if spot is not None:
        draw.rectangle(SPOT, fill=spot)
    if words:
        draw.text((2, 45), words, fill=255)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
    return KnownImage(file, sha256(file.read_bytes()).hexdigest())


def brightness_map(_: Any, image: Any) -> tuple[np.ndarray, float]:
    (answer,) = BrightnessModel().predict_pixels([image.pixels], with_maps=True)
    return answer.map, 240.0


@dataclass
class WordsRig:
    """One line, ``bottles``: predictions 1 (dark, OK) and 2 (bright with a brighter spot, NG)."""

    db: InspectionDatabase
    rig: Rig
    facts: LineFacts

    def ask(self, *predictions: int, **how: Any) -> list[int]:
        return [request_description(self.db, "bottles", number, **{"asked_by": "Kim", **how}) for number in predictions]

    def describe(self, client: Client, budgets: Budgets = PLENTY, worker: str = "worker", **how: Any) -> Tally:
        return describe_waiting(self.db, self.facts, client, worker, budgets, **how)

    def with_facts(self, **facts: Any) -> WordsRig:
        return replace(self, facts=replace(self.facts, **facts))

    def predictions(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.db.predictions("bottles").itertuples(index=False)]


def inspected_parts(db: InspectionDatabase, line: Line) -> Rig:
    """Inspect a dark part, which is OK, and a bright one with a brighter spot, which is NG."""
    line.inbox.mkdir(parents=True)
    rig = Rig(db, line)
    write_part(line.inbox / "dark.png", 60)
    write_part(line.inbox / "zbright.png", 150, spot=250)
    rig.inspect()
    assert list(db.predictions("bottles")["predicted"]) == ["OK", "NG"]
    return rig


def make_rig(url: str, folder: Path) -> WordsRig:
    rig = inspected_parts(InspectionDatabase(url), Home(folder / "home").line("bottles"))
    normals = tuple(write_part(folder / f"normal_{value}.png", value) for value in (40, 130, 155, 220))
    return WordsRig(rig.db, rig, LineFacts("bottles", False, ("scratch", "dent"), normals, brightness_map))


def texts(body: dict[str, Any]) -> list[str]:
    content = body["messages"][1]["content"]
    return [part["text"] for part in content if part["type"] == "text"]


def pictures(body: dict[str, Any]) -> list[Image.Image]:
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls), "no picture is named by an address"
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def data_of(body: dict[str, Any]) -> dict[str, Any]:
    (block,) = [text for text in texts(body) if text.startswith("DATA\n")]
    found: dict[str, Any] = json.loads(block.removeprefix("DATA\n"))
    return found


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_endpoint() as started:
        yield started


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Make clients of the stub; the pause before a request is sent again is a hundredth of the usual one."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    made: list[Client] = []

    def make(breaker: CircuitBreaker | None = None, told: Any = None, **values: Any) -> Client:
        endpoint = Endpoint(**{"url": stub.url, "model": "stub", "seconds": 2.0, "retries": 2, **values})
        made.append(Client(endpoint, breaker, **({"told": told} if told else {})))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def home_db(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> InspectionDatabase:
    """The database of a home with the line ``bottles``: a plan, predictions 1 (OK) and 2 (NG), and their maps."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("vad_dagster.finding_words.ModelMaps.__call__", lambda self, *about: brightness_map(*about))
    home = Home(vad_home)
    line = home.line("bottles")
    db = inspected_parts(InspectionDatabase.of(home), line).db
    line.plan_file.write_text("user_parameters:\n  - train_pipeline:\n    - step: train\n")
    return db


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from new_inspection_url(request, tmp_path)


@pytest.fixture
def words(inspection_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WordsRig:
    """On each kind of database; processes that a test starts find the same one."""
    monkeypatch.setenv("VAD_INSPECTION_DB", inspection_url)
    return make_rig(inspection_url, tmp_path)
