"""New results and states of lines, sent to the pages that show them (server-sent events).

One task looks at the database for all browsers, only while somebody listens. It makes each part of a page once for each
language. A browser that does not keep up is let go; it comes again by itself and is told what it has missed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException

from vad_dagster.service.line_states import LineStates
from vad_dagster.service.page_parts import text_of
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.recent_results import News, newest_numbers, news_of

LOOK_SECONDS = 0.5
SHOWN_A_LOOK = 1
"""Pictures of a line for each look: two a second. The others are counted."""
LOOKS_FOR_STATES = 3
"""States of lines are looked at in every so many looks."""
HEARTBEAT_SECONDS = 15.0
MOST_LISTENERS = 60
MOST_EVENTS = 64
"""That wait for one browser."""
SHOWN_AT_FIRST = 12
"""Pictures that a browser gets of what it has missed."""
logger = logging.getLogger("vad.service.live")


@dataclass(eq=False)
class _Listener:
    """A page in a browser."""

    line: str
    """Empty: all lines."""
    language: str
    events: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(MOST_EVENTS))
    is_slow: bool = False

    def wants(self, line: str) -> bool:
        return self.line in ("", line)

    def put(self, event: bytes) -> None:
        try:
            self.events.put_nowait(event)
        except asyncio.QueueFull:
            self.is_slow = True


class LiveUpdates:
    """Tells listeners what comes. All but ``_look`` and ``_missed`` is run in the event loop.

    Args:
        db: the inspection database.
        lines: returns the names of the lines that are watched.
        states: of these lines.
    """

    def __init__(self, db: InspectionDatabase, lines: Callable[[], list[str]], states: LineStates) -> None:
        self._db, self._lines, self._states = db, lines, states
        self._listeners: set[_Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._seen: dict[str, int] | None = None
        """The highest ``prediction_id`` of each line that listeners were told of; None: nobody has looked yet."""
        self._told: dict[tuple[str, str], str] = {}
        """The state of a line as it was told last, by line and language."""
        self._looks = 0

    async def stream(self, line: str, language: str, after: int) -> AsyncIterator[bytes]:
        """Yield events for one page until its browser goes, or does not keep up.

        Args:
            line: whose results; empty: of all lines.
            language: of the parts of pages.
            after: the highest ``prediction_id`` that the page shows.
        """
        listener = _Listener(line, language)
        self._listeners.add(listener)
        try:
            for name in self._lines():  # each page begins with the states as they are
                self._told.pop((name, language), None)
            if self._task is None:
                self._task = asyncio.create_task(self._run())
            yield b"retry: 2000\n\n"
            while self._seen is None:
                await asyncio.sleep(0.02)
            seen = {name: number for name, number in self._seen.items() if listener.wants(name)}
            for event in await asyncio.to_thread(self._missed, seen, after, language):
                yield event
            while not (listener.is_slow and listener.events.empty()):
                try:
                    yield await asyncio.wait_for(listener.events.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield b": alive\n\n"
        finally:
            self._listeners.discard(listener)

    def require_room(self) -> None:
        """Answer 503 where too many listen.

        Raises:
            HTTPException: there is no room.
        """
        if len(self._listeners) >= MOST_LISTENERS:
            told = f"{MOST_LISTENERS} pages are following already: close some, or load this page again."
            raise HTTPException(503, told, {"Retry-After": "10"})

    async def _run(self) -> None:
        """Look, and tell, while somebody listens."""
        try:
            while self._listeners:
                try:
                    for line, language, event in await asyncio.to_thread(self._look):
                        for listener in self._listeners:
                            if listener.language == language and listener.wants(line):
                                listener.put(event)
                except Exception:  # the database is away: pages stay as they are until it is there again
                    logger.warning("new results cannot be looked for now", exc_info=True)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._task, self._seen = None, None

    def _look(self) -> list[tuple[str, str, bytes]]:
        """Return what is new: line, language and event."""
        languages = {listener.language for listener in list(self._listeners)}
        newest, before = newest_numbers(self._db, self._lines()), self._seen or {}
        events = []
        for line, number in newest.items():
            if number > before.get(line, number):
                news = news_of(self._db, line, before[line], number, most=SHOWN_A_LOOK)
                events += [(line, language, _results(line, language, news, number)) for language in languages]
        self._seen = newest
        if self._looks % LOOKS_FOR_STATES == 0:
            for line, glance in self._states.glances().items():
                for language in languages:
                    html = text_of("line_state.html", language, one=glance)
                    if self._told.get((line, language)) != html:
                        self._told[line, language] = html
                        events.append((line, language, _event("state", {"line": line, "html": html})))
        self._looks += 1
        return events

    def _missed(self, seen: dict[str, int], after: int, language: str) -> list[bytes]:
        """Return what came between the page and its stream."""
        events = []
        for line, number in seen.items():
            if number > after:
                news = news_of(self._db, line, after, number, most=SHOWN_AT_FIRST)
                events.append(_results(line, language, news, number))
        return events


def _results(line: str, language: str, news: News, number: int) -> bytes:
    told = {
        "line": line,
        "html": [text_of("tile.html", language, row=row) for row in news.rows],
        "images": news.images,
    }
    return _event("results", told, number)


def _event(name: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """Return an event; the browser says the last ``number`` when it comes again."""
    lines = [f"event: {name}", f"data: {json.dumps(data)}"]
    if number is not None:
        lines.insert(0, f"id: {number}")
    return "\n".join([*lines, "", ""]).encode()
