"""The client and the queue against a real server of the protocol: ``transformers serve`` with random numbers.

What such a model writes has no meaning, so the reply has no form, and its text is kept.
"""

from __future__ import annotations

import pytest

from tests.words.tiny_vlm import VlmServer
from tests.words.words_rig import WordsRig
from vad_lib.words.checking import check_rungs
from vad_lib.words.client import Client
from vad_lib.words.describing import description_by_id
from vad_lib.words.endpoint import Endpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def endpoint(vlm_server: VlmServer) -> Endpoint:
    return Endpoint(vlm_server.base_url, vlm_server.model, seconds=240.0, most_tokens=24)


def test_a_finding_is_described_by_a_real_server_and_the_prediction_stays(words: WordsRig, endpoint: Endpoint) -> None:
    before = words.predictions()
    (number,) = words.ask(2)
    client = Client(endpoint)
    tally = words.describe(client)
    client.close()
    row = description_by_id(words.db, number)
    assert row is not None
    assert (row.state, row.structured, row.agrees, row.left_machine) == ("done", False, None, False), row.error
    assert row.raw_reply
    assert row.prompt_tokens > 1000, "pictures and words of two turns"
    assert (tally.done, tally.structured) == (1, 0)
    assert words.predictions() == before


def test_a_real_server_is_checked_rung_by_rung(endpoint: Endpoint) -> None:
    client = Client(endpoint)
    assert endpoint.model in client.models()
    client.close()
    for one in check_rungs(endpoint):
        assert one.replied, one.said
        assert not one.structured
        assert one.tokens > 0
