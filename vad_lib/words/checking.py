"""What an endpoint can do, found out by asking it about a drawn picture."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vad_lib.words.answer import Answer, answer_schema
from vad_lib.words.client import RUNGS, Client, EndpointError
from vad_lib.words.context import Context, Picture
from vad_lib.words.endpoint import Endpoint

SIDE = 64


@dataclass(frozen=True)
class RungCheck:
    """How an endpoint takes one way to ask for the form of a reply.

    Attributes:
        rung: one of ``client.RUNGS``.
        replied: whether it replied at all.
        structured: whether the reply had the form, after its repair at most.
        seconds: until then.
        tokens: of the prompts and the replies.
        said: what is wrong where something is; else the summary of the answer.
    """

    rung: str
    replied: bool
    structured: bool
    seconds: float
    tokens: int
    said: str


def check_rungs(endpoint: Endpoint) -> list[RungCheck]:
    """Ask an endpoint about a grey square with a dark spot, once by each rung, and return how it went."""
    return [_check(endpoint, rung) for rung in RUNGS]


def _check(endpoint: Endpoint, rung: str) -> RungCheck:
    try:
        with closing(Client(endpoint)) as client:
            client.rung = rung
            asked = client.ask_for(_spotted().describing_messages("English"), Answer.of_reply, answer_schema())
    except EndpointError as error:
        return RungCheck(rung, False, False, 0.0, 0, str(error))
    said = asked.value.summary if asked.value else asked.problem
    tokens = asked.reply.prompt_tokens + asked.reply.completion_tokens
    return RungCheck(rung, True, asked.value is not None, asked.reply.seconds, tokens, said)


def _spotted() -> Context:
    normal = Image.new("RGB", (SIDE, SIDE), (160, 160, 160))
    spotted = normal.copy()
    ImageDraw.Draw(spotted).ellipse((40, 12, 52, 24), fill=(40, 30, 30))
    pictures = (Picture("a normal part, reference 1.", normal), Picture("the inspected image.", spotted))
    told = {"line": "a drawing, to try the endpoint", "detector": {"decision": "NG"}, "regions": []}
    return Context(pictures, told, (), ())
