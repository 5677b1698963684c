"""An endpoint for each test, a client that does not wait long, and a tiny model, alone and behind a server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from stub_endpoint import Stub, stub_endpoint
from words_rig import WordsRig, make_rig

from tests.postgres_server import new_inspection_url
from tests.words.tiny_vlm import tiny_vlm, vlm_server  # noqa: F401
from vad_lib.words.client import CircuitBreaker, Client
from vad_lib.words.endpoint import Endpoint


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


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from new_inspection_url(request, tmp_path)


@pytest.fixture
def words(inspection_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WordsRig:
    """On each kind of database; processes that a test starts find the same one."""
    monkeypatch.setenv("VAD_INSPECTION_DB", inspection_url)
    return make_rig(inspection_url, tmp_path)
