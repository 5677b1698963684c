"""The thread that tells people what happens: by the rules of each line, through apprise, and no receiver waits for
another."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from vad_lib.errors import InputError
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.notices import Message, due_messages, record_notice, record_told
from vad_lib.notice_rules import NoticeRule, addresses
from vad_lib.settings import settings

IDLE_SECONDS = 5.0
RECEIVERS_AT_ONCE = 16
SHOWN = 12
"""Notices that a message tells in words; of more it tells the numbers."""
TROUBLE_AFTER = 60.0
"""A line that cannot be served for so long is told; a model that is being loaded is not."""
NAMES = {
    "ng": "NG",
    "refused": "refused",
    "drift": "drift",
    "trouble": "trouble",
    "training_done": "trained",
    "training_failed": "training failed",
    "gate": "gate",
}
Rules = Mapping[tuple[str, str], NoticeRule]
logger = logging.getLogger("vad.serving.messenger")


def message_text(message: Message, service_url: str) -> tuple[str, str]:
    """Return title and body of a message, as plain text.

    Args:
        message: what is to be told.
        service_url: where the pages of the service are.
    """
    counts = Counter(notice.event for notice in message.notices)
    title = f"{message.line}: " + ", ".join(f"{count} {NAMES.get(event, event)}" for event, count in counts.items())
    told = [f"{notice.created_at:%Y-%m-%d %H:%M} UTC  {notice.text}" for notice in message.notices[-SHOWN:]]
    if len(message.notices) > SHOWN:
        told.insert(0, f"The last {SHOWN} of {len(message.notices)}:")
    page = next((notice.page for notice in reversed(message.notices) if notice.page), f"/lines/{message.line}/results")
    return title, "\n".join([*told, f"{service_url.rstrip('/')}{page}"])


def send_message(receiver: str, title: str, body: str) -> str:
    """Send plain text to a receiver of ``VAD_NOTIFY``; return why it was not sent, without its address, or ''."""
    import apprise

    try:
        known = addresses()
    except InputError as error:
        return str(error)
    if receiver not in known:
        return f"VAD_NOTIFY names no {receiver!r}."
    # its log lines hold addresses, and those hold secrets
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    sender = apprise.Apprise()
    for address in known[receiver].split():
        if not sender.add(address):
            return f"VAD_NOTIFY: an address of {receiver!r} is none that apprise knows."
    try:
        sent = sender.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:  # plugins raise what they like
        return f"{receiver!r} could not be told ({type(error).__name__})."
    return "" if sent else f"{receiver!r} did not take the message."


class Messenger:
    """Tells receivers what happens.

    Args:
        db: the inspection database.
        rules: those of each line and receiver as they are now.
        trouble: line -> why it cannot be served now.
        worker: name of the service.
        send: sends a message: receiver, title, body; returns an error or ''.
    """

    def __init__(
        self,
        db: InspectionDatabase,
        rules: Callable[[], Rules],
        trouble: Callable[[], Mapping[str, str]],
        worker: str,
        send: Callable[[str, str, str], str] = send_message,
    ) -> None:
        self._db = db
        self._rules = rules
        self._trouble = trouble
        self._worker = worker
        self._send = send
        self._stopping = threading.Event()
        self._sending: dict[tuple[str, str], threading.Thread] = {}
        self._in_trouble: dict[str, tuple[str, float, bool]] = {}

    def stop(self) -> None:
        """Let ``run`` return after what it is at."""
        self._stopping.set()

    def run(self) -> None:
        """Tell until stopped. Trouble with the database is logged and passes."""
        while not self._stopping.wait(IDLE_SECONDS):
            try:
                self.look()
            except Exception:
                logger.exception("nobody can be told now")

    def look(self) -> None:
        """Note what is wrong with lines, and begin to tell what is due."""
        self.note_trouble(time.monotonic())
        busy = set(self._sending)
        rules = {pair: rule for pair, rule in self._rules().items() if pair not in busy}
        free = max(0, RECEIVERS_AT_ONCE - len(busy))
        rules = dict(list(rules.items())[:free])
        for message in due_messages(self._db, rules, self._worker):
            pair = (message.line, message.receiver)
            # a receiver may take for ever to answer: it holds up nobody, not even the end of the process
            thread = threading.Thread(target=self._tell, args=(message, rules[pair]), name="vad-tell", daemon=True)
            self._sending[pair] = thread
            thread.start()

    def note_trouble(self, now: float) -> None:
        """Write a notice of each line that could not be served for a minute, and of each that can be again."""
        present = dict(self._trouble())
        notes: list[tuple[str, str]] = []
        for line, reason in present.items():
            before, since, is_told = self._in_trouble.get(line, (reason, now, False))
            if not is_told and now - since >= TROUBLE_AFTER:
                notes.append((line, f"The line cannot be served: {reason}"))
                is_told = True
            self._in_trouble[line] = (before, since, is_told)
        for line in set(self._in_trouble) - set(present):
            if self._in_trouble.pop(line)[2]:
                notes.append((line, "The line is served again."))
        if notes:
            with self._db.writing() as connection:
                moment = self._db.clock(connection)
                for line, text in notes:
                    # by the minute: several services that see the same tell it once
                    subject = f"{text[:100]} {moment:%Y-%m-%d %H:%M}"
                    record_notice(connection, line, "trouble", text, subject=subject, now=moment)

    def _tell(self, message: Message, rule: NoticeRule) -> None:
        try:
            error = self._send(message.receiver, *message_text(message, settings().service_ui_url))
            if error:
                logger.warning("a receiver could not be told", extra={"line": message.line, "error": error})
            record_told(self._db, message, error, rule)
        except Exception:
            logger.exception("what became of a message cannot be written down: it is sent again")
        finally:
            del self._sending[message.line, message.receiver]

    def wait(self, seconds: float) -> None:
        """Wait for what is being sent, at most so long."""
        deadline = time.monotonic() + seconds
        threads: Sequence[threading.Thread] = list(self._sending.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
