"""Which events of a line are told to whom, as the plan says it, and the addresses as the environment says them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from vad_lib.errors import InputError
from vad_lib.settings import settings

Event = Literal["ng", "refused", "drift", "trouble", "training_done", "training_failed", "gate"]
EVENTS: tuple[Event, ...] = get_args(Event)
DIGEST_MINUTES = 15
_RULE = re.compile(r"([a-z_]+(?:\s*,\s*[a-z_]+)*)\s+to\s+([\w.-]+)(?:\s+every\s+(\d{1,5})(?:\s+min(?:utes?)?)?)?")


@dataclass(frozen=True)
class NoticeRule:
    """Events that a receiver is told of.

    Attributes:
        events: which.
        receiver: a name; its address is in ``VAD_NOTIFY``.
        digest_minutes: after a message, what happens within so many minutes is told in the next one; 0: each by itself.
    """

    events: frozenset[str]
    receiver: str
    digest_minutes: int = DIGEST_MINUTES

    @classmethod
    def parsed(cls, text: str) -> NoticeRule:
        """Read a rule such as ``ng, drift to night-shift every 15``.

        Raises:
            ValueError: it is none; the message says how one is written.
        """
        found = _RULE.fullmatch(text.strip())
        if not found:
            raise ValueError(
                f"has {text!r}: write EVENTS to RECEIVER every MINUTES, such as 'ng, drift to night-shift'"
            )
        events = frozenset(re.split(r"\s*,\s*", found.group(1)))
        if unknown := sorted(events - set(EVENTS)):
            raise ValueError(f"names the event {unknown[0]!r}: there are {', '.join(EVENTS)}")
        return cls(events, found.group(2), DIGEST_MINUTES if found.group(3) is None else int(found.group(3)))


def addresses() -> dict[str, str]:
    """Return receiver -> address, from ``VAD_NOTIFY``.

    Raises:
        InputError: it is not written as ``NAME=ADDRESS NAME=ADDRESS``; no address is shown.
    """
    found: dict[str, str] = {}
    for word in settings().notify.get_secret_value().split():
        name, sign, address = word.partition("=")
        if not sign or not re.fullmatch(r"[\w.-]+", name) or "://" not in address:
            raise InputError("VAD_NOTIFY is written as NAME=ADDRESS NAME=ADDRESS, with addresses as apprise has them.")
        found[name] = f"{found[name]} {address}" if name in found else address
    return found
