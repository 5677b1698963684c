"""From a request to a description: asked for, leased, described, finished. Any death leaves it to be done once.

A description is a row that waits until a worker has time for it; nothing that inspects images waits for one. The
detector decides: what a model says about a finding is written beside the prediction, and never into it. Where it says
the opposite, ``agrees`` is false, and somebody should look.

===============================  ================================================================================
what happens                     what becomes of the row
===============================  ================================================================================
the endpoint does not reply      it waits again, later each time; after ``MOST_ATTEMPTS`` it has failed, with why
the worker dies                  as soon as that is seen, or its lease runs out, another worker takes it
the image is gone                it has failed, with why
a budget is used up              it waits, with why, and no attempt is counted
the endpoint is left alone       it waits, with why, and no attempt is counted
===============================  ================================================================================
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, desc, func, insert, or_, select

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.lineage import prediction_by_id
from vad_lib.inspection_db.schema import DONE, FAILED, WAITING, descriptions, predictions, turns
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.settings import settings
from vad_lib.words.answer import LONGEST_SUMMARY, Answer, answer_schema, plain_text
from vad_lib.words.client import Asked, Client, EndpointError, EndpointRestsError
from vad_lib.words.context import LineFacts, context_of
from vad_lib.words.waiting import LONGEST_REASON, finish, is_due, lease, note, note_why_waiting, offer_again

MOST_ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 30.0
"""Before the second attempt; four times as long before the third."""
LEASE_SLACK_SECONDS = 600.0
LEASED_REPLIES = 12
"""A lease lasts for so many replies of the longest duration, beside the slack: two turns, each sent three times, on
any rung. On one machine a death is seen at once; the end of a lease is for all other cases."""
_LANGUAGE = re.compile(r"[^\W\d_][\w ()-]{0,40}")
"""It becomes a part of the system text, where nobody should write more."""
_ROW = descriptions.c

logger = logging.getLogger("vad.words")


@dataclass(frozen=True)
class Budgets:
    """How much of one line is described, counted in the database: restarts and machines share it.

    Attributes:
        findings_hour: descriptions within an hour.
        tokens_day: of descriptions and dialogues within 24 hours.
    """

    findings_hour: int
    tokens_day: int

    @classmethod
    def of_settings(cls) -> Budgets:
        """Return those of the environment."""
        now = settings()
        return cls(now.vlm_findings_hour, now.vlm_tokens_day)

    def why_not(self, connection: Connection, line: str, now: datetime) -> str:
        """Say which budget of a line is used up; '' where none is."""
        done = select(func.count()).where(
            _ROW.line == line, or_(_ROW.finished_at > now - timedelta(hours=1), _is_held(now))
        )
        if connection.execute(done).scalar_one() >= self.findings_hour:
            return f"{self.findings_hour} findings were described within an hour (VAD_VLM_FINDINGS_HOUR); it waits."
        return self.why_no_tokens(connection, line, now)

    def why_no_tokens(self, connection: Connection, line: str, now: datetime) -> str:
        """Say that the tokens of a line are used up; '' where they are not."""
        if _tokens_of_day(connection, line, now) < self.tokens_day:
            return ""
        return f"{self.tokens_day} tokens were used within 24 hours (VAD_VLM_TOKENS_DAY); it waits."


def _tokens_of_day(connection: Connection, line: str, now: datetime) -> int:
    """Return how many tokens descriptions and dialogues of a line have used within the last 24 hours."""
    since = now - timedelta(hours=24)
    used = 0
    # A description that waits again has used tokens too: it counts until it is finished and a day has passed.
    for table, recent in (
        (descriptions, or_(_ROW.finished_at > since, _ROW.state == WAITING)),
        (turns, turns.c.created_at > since),
    ):
        tokens = func.coalesce(table.c.prompt_tokens, 0) + func.coalesce(table.c.completion_tokens, 0)
        used += connection.execute(
            select(func.coalesce(func.sum(tokens), 0)).where(table.c.line == line, recent)
        ).scalar_one()
    return int(used)


def request_description(
    db: InspectionDatabase, line: str, prediction_id: int, *, asked_by: str, language: str = "", again: bool = False
) -> int:
    """Ask for the description of a prediction, and return its number. Asking twice is asking once.

    Args:
        db: the inspection database.
        line: of the prediction.
        prediction_id: what is to be described.
        asked_by: a person, or a part of the system.
        language: of the texts; empty: ``VAD_VLM_LANGUAGE``.
        again: ask anew where there is a description already.

    Raises:
        InputError: the line has no such prediction, or the language is none.
    """
    language = language.strip() or settings().vlm_language
    if not _LANGUAGE.fullmatch(language):
        raise InputError(f"{plain_text(language, 80)!r} is no language: name it in one or two words, such as German.")
    with db.writing(line=line) as connection:
        known = select(predictions.c.prediction_id).where(
            predictions.c.line == line, predictions.c.prediction_id == prediction_id
        )
        if connection.execute(known).first() is None:
            raise InputError(f"The line {line!r} has no prediction {prediction_id}.")
        wanted = (WAITING,) if again else (WAITING, DONE)
        there = connection.execute(
            select(_ROW.description_id)
            .where(_ROW.prediction_id == prediction_id, _ROW.state.in_(wanted))
            .order_by(case((_ROW.state == WAITING, 0), else_=1), desc(_ROW.description_id))
            .limit(1)
        ).scalar()
        if there is not None:
            return int(there)
        made = connection.execute(
            insert(descriptions)
            .values(
                line=line,
                prediction_id=prediction_id,
                state=WAITING,
                attempts=0,
                asked_by=plain_text(asked_by, 128) or "somebody",
                language=language,
                created_at=db.clock(connection),
            )
            .returning(_ROW.description_id)
        )
        return int(made.scalar_one())


def lease_description(
    db: InspectionDatabase,
    line: str,
    worker: str,
    budgets: Budgets,
    *,
    seconds: float = LEASE_SLACK_SECONDS,
    only: Collection[int] = (),
) -> tuple[Row[Any] | None, str]:
    """Take the description of a line that waits for longest; None where there is none, or with why it has to wait.

    Args:
        db: the inspection database.
        line: of which line.
        worker: who takes it, as ``vad_lib.queue.new_worker`` names them.
        budgets: of the line.
        seconds: after which another worker may take it.
        only: of these, and no others; empty: of all.
    """
    with db.writing(line=line) as connection:
        now = db.clock(connection)
        offer_again(connection, descriptions, line, now, MOST_ATTEMPTS, {"finished_at": now})
        waiting = select(_ROW.description_id).where(_ROW.line == line, is_due(descriptions, now))
        if only:
            waiting = waiting.where(_ROW.description_id.in_(only))
        number = connection.execute(waiting.order_by(_ROW.description_id).limit(1)).scalar()
        if number is None:
            return None, ""
        if reason := budgets.why_not(connection, line, now):
            note(connection, descriptions, line, reason)
            return None, reason
        return lease(connection, descriptions, number, worker, now + timedelta(seconds=seconds)), ""


def _is_held(now: datetime) -> ColumnElement[bool]:
    return and_(_ROW.leased_by.is_not(None), _ROW.leased_until > now)


@dataclass(frozen=True)
class Tally:
    """What a worker did.

    Attributes:
        done: descriptions that were finished.
        failed: that came to a bad end; what is tried again is not counted.
        structured: of those done, how many had the form of an answer.
        disagreements: of those done, how many say the opposite of the detector.
        tokens: used, of prompts and replies.
        seconds: that the endpoint took.
        waiting: descriptions of the line that wait still.
        why_waiting: why the worker stopped before all was done; '' where it did not.
    """

    done: int = 0
    failed: int = 0
    structured: int = 0
    disagreements: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waiting: int = 0
    why_waiting: str = ""


def describe_waiting(
    db: InspectionDatabase,
    facts: LineFacts,
    client: Client,
    worker: str,
    budgets: Budgets,
    *,
    most: int = 1_000_000,
    only: Collection[int] = (),
    progress: Progress = silent,
    goes_on: Callable[[], bool] = lambda: True,
) -> Tally:
    """Describe what waits on a line, until nothing is due, a budget is used up or the endpoint is left alone.

    Args:
        db: the inspection database.
        facts: of the line.
        client: asks the endpoint.
        worker: name of the worker.
        budgets: of the line.
        most: descriptions at most.
        only: of these, and no others; empty: of all.
        progress: told of each.
        goes_on: asked before each; False ends it.

    Raises:
        InputError: pictures of the line may not leave this machine, or the client library is missing. What waits says
            so, too.
    """
    line = facts.line
    try:
        client.require_installed()
        client.endpoint.require_leave(line, facts.allow_images_to_leave)
    except InputError as error:
        note_why_waiting(db, descriptions, line, str(error))
        raise
    total = min(most, len(only) or _count_waiting(db, line))
    meter = ProgressMeter(progress, "describing", total, "findings", 0.0)
    lease_seconds = LEASE_SLACK_SECONDS + LEASED_REPLIES * client.endpoint.seconds
    tally, why = Tally(), ""
    while tally.done + tally.failed < most and goes_on():
        try:
            client.breaker.refuse_while_it_rests()
        except EndpointRestsError as error:
            why = str(error)
            note_why_waiting(db, descriptions, line, why)
            break
        row, why = lease_description(db, line, worker, budgets, seconds=lease_seconds, only=only)
        if row is None:
            break
        tally = _added(tally, _describe(db, facts, client, worker, row))
        meter.advance()
    return Tally(**{**vars(tally), "waiting": _count_waiting(db, line), "why_waiting": why})


def _count_waiting(db: InspectionDatabase, line: str) -> int:
    with db.reading() as connection:
        waiting = select(func.count()).where(_ROW.line == line, _ROW.state == WAITING)
        return int(connection.execute(waiting).scalar_one())


def _added(tally: Tally, values: dict[str, Any]) -> Tally:
    state = values["state"]
    return Tally(
        done=tally.done + (state == DONE),
        failed=tally.failed + (state == FAILED),
        structured=tally.structured + bool(values.get("structured")),
        disagreements=tally.disagreements + (values.get("agrees") is False),
        tokens=tally.tokens + values.get("tokens", 0),
        seconds=tally.seconds + values.get("seconds", 0.0),
    )


def _describe(db: InspectionDatabase, facts: LineFacts, client: Client, worker: str, row: Row[Any]) -> dict[str, Any]:
    """Describe one finding that was leased, and return what was written about it."""
    record = prediction_by_id(db, row.line, row.prediction_id)
    assert record is not None
    try:
        context = context_of(db, facts, record)
        asked = client.ask_for(context.describing_messages(row.language), Answer.of_reply, answer_schema(context.kinds))
        values = _described(asked, record.predicted)
    except UnreadableImageError as error:
        values = {"state": FAILED, "error": f"The image cannot be read any more: {error.reason}.", "asked": False}
    except EndpointRestsError as error:
        values = {"state": WAITING, "error": str(error), "pause": error.seconds, "asked": False}
        values["attempts"] = row.attempts - 1
    except EndpointError as error:
        values = _tried(row, str(error))
    except Exception as error:  # whatever one image does must stay with it
        logger.exception("a finding cannot be described", extra={"line": facts.line})
        values = _tried(row, f"It could not be described ({type(error).__name__}: {error}).")
    except BaseException:  # somebody ends the worker: that is no attempt
        _finish(db, row, worker, client, {"state": WAITING, "attempts": row.attempts - 1, "asked": False})
        raise
    values["error"] = plain_text(values["error"], LONGEST_REASON) if values.get("error") else None
    kept = _finish(db, row, worker, client, dict(values))
    logger.info(
        "a finding was described" if kept else "a finding was described by two workers; the other one's stands",
        extra={"line": facts.line, "prediction_id": row.prediction_id, "state": values["state"]},
    )
    return values


def _described(asked: Asked[Answer], predicted: str) -> dict[str, Any]:
    answer, reply = asked.value, asked.reply
    return {
        "state": DONE,
        "anomaly": answer.anomaly if answer else None,
        "agrees": answer.agrees(predicted) if answer else None,
        "structured": answer is not None,
        "answer": answer.model_dump_json() if answer else None,
        "raw_reply": reply.text,
        "summary": answer.summary if answer else plain_text(reply.text, LONGEST_SUMMARY),
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "tokens": reply.prompt_tokens + reply.completion_tokens,
        "seconds": reply.seconds,
        "error": asked.problem,
    }


def _tried(row: Row[Any], reason: str) -> dict[str, Any]:
    if row.attempts >= MOST_ATTEMPTS:
        return {"state": FAILED, "error": f"After {row.attempts} attempts: {reason}"}
    return {"state": WAITING, "error": reason, "pause": FIRST_PAUSE_SECONDS * 4 ** (row.attempts - 1)}


def _finish(db: InspectionDatabase, row: Row[Any], worker: str, client: Client, values: dict[str, Any]) -> bool:
    """Write what became of a leased description, and return whether it still was this worker's."""
    pause = values.pop("pause", 0.0)
    values.pop("tokens", None)
    if values.pop("asked", True):
        values |= {
            "model": client.endpoint.model[:200],
            "endpoint": client.endpoint.url,
            "left_machine": not client.endpoint.is_local,
        }
    for name in ("prompt_tokens", "completion_tokens"):
        if name in values:
            values[name] = func.coalesce(_ROW[name], 0) + values[name]
    with db.writing(line=row.line) as connection:
        now = db.clock(connection)
        waits = values["state"] == WAITING
        values["finished_at"] = None if waits else now
        until = now + timedelta(seconds=pause) if waits else None
        return finish(connection, descriptions, row.description_id, worker, values, until)


def description_counts(db: InspectionDatabase) -> list[tuple[str, str, int]]:
    """Return how many descriptions there are: line, state (``disagrees`` for marks among those done), number."""
    disagrees = and_(_ROW.state == DONE, _ROW.agrees.is_(False))
    state = case((disagrees, "disagrees"), else_=_ROW.state)
    with db.reading() as connection:
        counted = select(_ROW.line, state, func.count()).group_by(_ROW.line, state).order_by(_ROW.line, state)
        return [(line, name, int(count)) for line, name, count in connection.execute(counted).all()]


def description_by_id(db: InspectionDatabase, description_id: int) -> Row[Any] | None:
    """Return a row of ``descriptions``; None where there is none of that number."""
    with db.reading() as connection:
        return connection.execute(select(descriptions).where(_ROW.description_id == description_id)).one_or_none()


def newest_description(db: InspectionDatabase, prediction_id: int) -> Row[Any] | None:
    """Return the description of a prediction that was asked for last, in whichever state; None where none was."""
    with db.reading() as connection:
        return connection.execute(
            select(descriptions).where(_ROW.prediction_id == prediction_id).order_by(desc(_ROW.description_id)).limit(1)
        ).one_or_none()


def answer_of(row: Row[Any]) -> Answer | None:
    """Return the answer of a description; None where its reply had no form."""
    return Answer.model_validate_json(row.answer) if row.answer else None


def search_descriptions(
    db: InspectionDatabase, line: str, text: str = "", *, disagreements: bool = False, limit: int = 50
) -> list[Row[Any]]:
    """Return finished descriptions of a line whose summary holds every word of a text, newest first.

    Args:
        db: the inspection database.
        line: of which line.
        text: words, in any letter case; empty: all descriptions.
        disagreements: only those that say the opposite of the detector.
        limit: at most so many.

    Returns:
        Rows of ``descriptions`` with ``path`` and ``predicted`` of the prediction.
    """
    query = (
        select(descriptions, predictions.c.path, predictions.c.predicted)
        .join(predictions, predictions.c.prediction_id == _ROW.prediction_id)
        .where(_ROW.line == line, _ROW.state == DONE)
        .order_by(desc(_ROW.description_id))
        .limit(limit)
    )
    for word in text.replace("\0", "").split():
        # SQLite lowers letters of English only
        lowered = func.lower(_ROW.summary).contains(word.lower(), autoescape=True)
        query = query.where(or_(lowered, _ROW.summary.contains(word, autoescape=True)))
    if disagreements:
        query = query.where(_ROW.agrees.is_(False))
    with db.reading() as connection:
        return list(connection.execute(query).all())
