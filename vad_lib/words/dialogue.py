"""Questions of people and answers of a model: about one prediction, or about the day of a line.

A question is stored before anybody is asked, so a process that dies loses none; a worker leases it as it leases a
description, and writes its answer in the transaction that ends it. Of one dialogue, questions are answered in order.

A prompt holds the system text, then pictures and data once, then the last turns. Where they would be more tokens than
``VAD_VLM_PROMPT_TOKENS``, the oldest turns are left out, and the answer says how many. Tokens are counted by the
endpoint: what the last prompt and its reply took, and what comes on top. An endpoint that counts nothing gets an
estimate, ``vad_lib.words.client.estimated_tokens``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, desc, func, insert, select

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.lineage import prediction_by_id
from vad_lib.inspection_db.schema import DONE, FAILED, WAITING, turns
from vad_lib.settings import settings
from vad_lib.words.answer import plain_text, without_thoughts
from vad_lib.words.client import Client, EndpointError, EndpointRestsError, Reply, estimated_tokens
from vad_lib.words.context import DATA_RULE, LineFacts, context_of
from vad_lib.words.day import MOST_HOURS, day_facts
from vad_lib.words.describing import Budgets, answer_of, newest_description
from vad_lib.words.figures import unfounded_figures
from vad_lib.words.waiting import LONGEST_REASON, finish, is_due, lease, note, note_why_waiting, offer_again

PERSON, MODEL = "user", "assistant"
"""Roles of turns."""
LONGEST_QUESTION, LONGEST_ANSWER = 1000, 4000
MOST_WAITING = 5
"""Questions of one dialogue that may wait at once."""
MOST_PAIRS = 30
"""Questions with their answers that are read for a prompt at most."""
MOST_ANSWER_TOKENS = 1000
MOST_ATTEMPTS = 2
PAUSE_SECONDS = 15.0
"""Before the second attempt. A person waits, and may ask again."""
DAY_HISTORY = timedelta(hours=24)
"""What was said about the day of a line before that is another day's."""
LEASE_SLACK_SECONDS, LEASED_REPLIES = 120.0, 4
_TURN = turns.c

logger = logging.getLogger("vad.words")

_COMMON = (
    "Answer in the language of the question, in a few plain sentences, without tables, links and markup. Where "
    "pictures and data do not tell, say that they do not. Write numbers as digits, exactly as they stand in DATA: do "
    "not calculate, estimate or invent any.\n" + DATA_RULE
)
PREDICTION_SYSTEM = (
    "You answer questions of a person who looks at a part in an industrial inspection. An anomaly detector has decided "
    "about the part already, and nothing that is said here changes its decision. Compare the inspected image with the "
    "normal references. Asked what is wrong, say whether you see an anomaly, where, and what it looks like.\n" + _COMMON
)
DAY_SYSTEM = (
    "You answer questions about what happened on a line of an industrial inspection. The block DATA holds all that is "
    "known; there is nothing else that you could look up.\n" + _COMMON
)


@dataclass(frozen=True)
class Pair:
    """A question with its answer."""

    question: Row[Any]
    answer: Row[Any]

    @property
    def tokens(self) -> int:
        """What both take in a prompt."""
        return _tokens(self.question.text) + (self.answer.completion_tokens or _tokens(self.answer.text))


@dataclass(frozen=True)
class Prompt:
    """What is asked.

    Attributes:
        messages: in the form of the protocol.
        handed_in: the data, JSON-ready.
        vouched: texts of people and of ours in it, whose figures an answer may repeat.
        left_out: pairs that were left out.
        first_turn: of the pairs that are in it; None without any.
    """

    messages: list[dict[str, Any]]
    handed_in: Mapping[str, Any]
    vouched: tuple[str, ...]
    left_out: int
    first_turn: int | None


def ask_question(
    db: InspectionDatabase,
    line: str,
    text: str,
    *,
    person: str,
    prediction_id: int | None = None,
    hours: int | None = None,
) -> int:
    """Write down a question that waits for its answer, and return its number.

    Args:
        db: the inspection database.
        line: of which line.
        text: the question, at most ``LONGEST_QUESTION`` characters.
        person: who asks.
        prediction_id: what it is about; None: the line's day.
        hours: of a question about the day: about how many hours before it, 1 to ``MOST_HOURS``.

    Raises:
        InputError: nobody asks, nothing is asked or too much, the line has no such prediction, the hours are out of
            range, or too many questions of the dialogue wait.
    """
    text = plain_text(text, LONGEST_QUESTION + 1, lines=True)
    person = plain_text(person, 128)
    if not text or len(text) > LONGEST_QUESTION:
        raise InputError(f"Ask something, in at most {LONGEST_QUESTION} characters.")
    if not person:
        raise InputError("Say who asks.")
    if prediction_id is None and not 1 <= (hours or 0) <= MOST_HOURS:
        raise InputError(f"Say about how many hours you ask: 1 to {MOST_HOURS}.")
    if prediction_id is not None and prediction_by_id(db, line, prediction_id) is None:
        raise InputError(f"The line {line!r} has no prediction {prediction_id}.")
    with db.writing(line=line) as connection:
        waiting = select(func.count()).where(_of_dialogue(line, prediction_id), _TURN.state == WAITING)
        if connection.execute(waiting).scalar_one() >= MOST_WAITING:
            raise InputError(
                f"{MOST_WAITING} questions wait for their answers already. Ask again after the first of them."
            )
        made = connection.execute(
            insert(turns)
            .values(
                line=line,
                prediction_id=prediction_id,
                hours=hours if prediction_id is None else None,
                role=PERSON,
                state=WAITING,
                text=text,
                person=person,
                created_at=db.clock(connection),
            )
            .returning(_TURN.turn_id)
        )
        return int(made.scalar_one())


def newest_turns(db: InspectionDatabase, line: str, prediction_id: int | None, limit: int = 100) -> list[Row[Any]]:
    """Return the last turns of a dialogue in their order, each answer behind its question."""
    with db.reading() as connection:
        rows = connection.execute(
            select(turns).where(_of_dialogue(line, prediction_id)).order_by(desc(_TURN.turn_id)).limit(limit)
        ).all()
    return sorted(rows, key=lambda row: (row.answers or row.turn_id, row.turn_id))


def question_counts(db: InspectionDatabase) -> list[tuple[str, str, int]]:
    """Return how many questions there are: line, state, number."""
    with db.reading() as connection:
        counted = select(_TURN.line, _TURN.state, func.count()).where(_TURN.role == PERSON)
        rows = connection.execute(counted.group_by(_TURN.line, _TURN.state).order_by(_TURN.line, _TURN.state)).all()
        return [(line, state, int(count)) for line, state, count in rows]


def answer_waiting(
    db: InspectionDatabase,
    facts: LineFacts,
    client: Client,
    worker: str,
    budgets: Budgets,
    *,
    most: int = 1_000_000,
    goes_on: Callable[[], bool] = lambda: True,
) -> int:
    """Answer questions that wait on a line until none is due; return how many came to an end, good or bad.

    Args:
        db: the inspection database.
        facts: of the line.
        client: asks the endpoint.
        worker: name of the worker.
        budgets: of the line; only that of tokens counts.
        most: questions at most.
        goes_on: asked before each; False ends it.

    Raises:
        InputError: pictures of the line may not leave this machine. What waits says so, too.
    """
    line = facts.line
    try:
        client.endpoint.require_leave(line, facts.allow_images_to_leave)
    except InputError as error:
        note_why_waiting(db, turns, line, str(error))
        raise
    ended = 0
    while ended < most and goes_on():
        try:
            client.breaker.refuse_while_it_rests()
        except EndpointRestsError as error:
            note_why_waiting(db, turns, line, str(error))
            break
        question = _lease(db, line, worker, budgets, LEASE_SLACK_SECONDS + LEASED_REPLIES * client.endpoint.seconds)
        if question is None:
            break
        ended += _answer(db, facts, client, worker, question)
    return ended


def _of_dialogue(line: str, prediction_id: int | None) -> ColumnElement[bool]:
    return and_(_TURN.line == line, _TURN.prediction_id == prediction_id)


def _lease(db: InspectionDatabase, line: str, worker: str, budgets: Budgets, seconds: float) -> Row[Any] | None:
    """Take the question that waits for longest and is the first that waits in its dialogue."""
    first = (
        select(func.min(_TURN.turn_id)).where(_TURN.line == line, _TURN.state == WAITING).group_by(_TURN.prediction_id)
    )
    with db.writing(line=line) as connection:
        now = db.clock(connection)
        # the death of a worker is no reply: one more than those is allowed
        offer_again(connection, turns, line, now, MOST_ATTEMPTS + 1)
        due = select(_TURN.turn_id).where(_TURN.turn_id.in_(first), is_due(turns, now))
        number = connection.execute(due.order_by(_TURN.turn_id).limit(1)).scalar()
        if number is None:
            return None
        if reason := budgets.why_no_tokens(connection, line, now):
            note(connection, turns, line, reason)
            return None
        return lease(connection, turns, number, worker, now + timedelta(seconds=seconds))


def _answer(db: InspectionDatabase, facts: LineFacts, client: Client, worker: str, question: Row[Any]) -> bool:
    """Ask the endpoint and write down what became of a question; return whether it came to an end."""
    ended: dict[str, Any] = {"state": WAITING, "error": None}
    answer: dict[str, Any] | None = None
    pause = 0.0
    try:
        prompt = _prompt_of(db, facts, question)
        reply = client.ask(prompt.messages, most_tokens=MOST_ANSWER_TOKENS)
        answer = _answered(prompt, reply, client)
        ended["state"] = DONE
    except UnreadableImageError as error:
        ended |= {"state": FAILED, "error": f"The image cannot be read any more: {error.reason}."}
    except EndpointRestsError as error:
        ended |= {"error": str(error), "attempts": question.attempts - 1}
        pause = error.seconds
    except Exception as error:  # whatever one question does must stay with it
        if not isinstance(error, EndpointError):
            logger.exception("a question cannot be answered", extra={"line": facts.line})
        ended |= {"error": str(error) or type(error).__name__}
        pause = PAUSE_SECONDS
        if question.attempts >= MOST_ATTEMPTS:
            ended["state"] = FAILED
    if ended["error"]:
        ended["error"] = plain_text(ended["error"], LONGEST_REASON)
    _finish(db, worker, question, ended, answer, pause)
    logger.info(
        "a question was asked", extra={"line": facts.line, "turn_id": question.turn_id, "state": ended["state"]}
    )
    return ended["state"] != WAITING


def _finish(
    db: InspectionDatabase,
    worker: str,
    question: Row[Any],
    ended: dict[str, Any],
    answer: dict[str, Any] | None,
    pause: float,
) -> None:
    with db.writing(line=question.line) as connection:
        now = db.clock(connection)
        until = now + timedelta(seconds=pause) if ended["state"] == WAITING else None
        if finish(connection, turns, question.turn_id, worker, ended, until) and answer is not None:
            same = {name: getattr(question, name) for name in ("line", "prediction_id", "hours", "person")}
            kept = {"role": MODEL, "state": DONE, "answers": question.turn_id, "created_at": now}
            connection.execute(insert(turns).values(**same, **kept, **answer))


def _answered(prompt: Prompt, reply: Reply, client: Client) -> dict[str, Any]:
    text = plain_text(without_thoughts(reply.text), LONGEST_ANSWER, lines=True)
    text = text or "The model wrote nothing but its thoughts."
    marks = {
        "figures": unfounded_figures(text, prompt.handed_in, *prompt.vouched),
        "left_out": prompt.left_out,
        "first_turn": prompt.first_turn,
        "cut": reply.cut,
    }
    return {
        "text": text,
        "raw_reply": reply.text,
        "handed_in": json.dumps(prompt.handed_in, ensure_ascii=False),
        "marks": json.dumps(marks),
        "model": client.endpoint.model[:200],
        "endpoint": client.endpoint.url,
        "left_machine": not client.endpoint.is_local,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "seconds": reply.seconds,
    }


def _prompt_of(db: InspectionDatabase, facts: LineFacts, question: Row[Any]) -> Prompt:
    """Put together what is asked.

    Raises:
        UnreadableImageError: the image of the prediction is gone.
    """
    if question.prediction_id is None:
        data = day_facts(db, facts.line, question.created_at, question.hours)
        opening = [{"type": "text", "text": f"DATA\n{json.dumps(data, ensure_ascii=False)}"}]
        return _fitted(db, question, DAY_SYSTEM, opening, data, ())
    record = prediction_by_id(db, facts.line, question.prediction_id)
    assert record is not None
    context = context_of(db, facts, record)
    opening = context.parts()
    if (row := newest_description(db, record.prediction_id)) is not None and (said := answer_of(row)) is not None:
        # Figures in it are the words of a model: they vouch for nothing.
        told = json.dumps(said.model_dump(mode="json"), ensure_ascii=False)
        opening.append({"type": "text", "text": f"DATA, as a model described it before\n{told}"})
    captions = tuple(f"Picture {number}: {each.caption}" for number, each in enumerate(context.pictures, 1))
    return _fitted(db, question, PREDICTION_SYSTEM, opening, context.data, captions)


def _fitted(
    db: InspectionDatabase,
    question: Row[Any],
    system: str,
    opening: list[dict[str, Any]],
    data: Mapping[str, Any],
    captions: Sequence[str],
) -> Prompt:
    """Add as many of the last turns as the budget of tokens has room for."""
    pairs = _pairs_before(db, question)
    kept = _kept(pairs, question, [{"role": "user", "content": opening}])
    left_out = len(pairs) - len(kept)
    first: list[dict[str, Any]] = [*opening]
    if left_out:
        first.append({"type": "text", "text": f"({left_out} earlier questions and their answers are left out.)"})
    asked = [*(pair.question.text for pair in kept), question.text]
    # Many templates of chats want turns of both sides one after the other: the first question belongs to the opening.
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": PERSON, "content": [*first, {"type": "text", "text": asked[0]}]},
    ]
    for pair, following in zip(kept, asked[1:], strict=True):
        messages += [{"role": MODEL, "content": pair.answer.text}, {"role": PERSON, "content": following}]
    return Prompt(messages, data, (*captions, *asked), left_out, kept[0].question.turn_id if kept else None)


def _kept(pairs: Sequence[Pair], question: Row[Any], opening: Sequence[Mapping[str, Any]]) -> Sequence[Pair]:
    """Return the last pairs that fit into the budget, beside the opening and the question."""
    if not pairs:
        return pairs
    last = pairs[-1].answer
    if last.prompt_tokens:
        # What was left out of the last prompt stays out, so that the rest of it is what the endpoint has counted.
        first = json.loads(last.marks or "{}").get("first_turn") or pairs[-1].question.turn_id
        pairs = [pair for pair in pairs if pair.question.turn_id >= first]
        tokens = last.prompt_tokens + (last.completion_tokens or 0) + _tokens(question.text)
    else:
        tokens = estimated_tokens(opening) + _tokens(question.text) + sum(pair.tokens for pair in pairs)
    most, begin = settings().vlm_prompt_tokens, 0
    while tokens > most and begin < len(pairs):
        tokens -= pairs[begin].tokens
        begin += 1
    return pairs[begin:]


def _tokens(text: str) -> int:
    return estimated_tokens([{"content": text}])


def _pairs_before(db: InspectionDatabase, question: Row[Any]) -> list[Pair]:
    """Return the last answered questions of the dialogue, in their order."""
    before = (
        select(turns)
        .where(_of_dialogue(question.line, question.prediction_id), _TURN.role == MODEL)
        .where(_TURN.answers < question.turn_id)
        .order_by(desc(_TURN.answers))
        .limit(MOST_PAIRS)
    )
    if question.prediction_id is None:
        before = before.where(_TURN.created_at > question.created_at - DAY_HISTORY)
    with db.reading() as connection:
        answers = connection.execute(before).all()
        asked = select(turns).where(_TURN.turn_id.in_([answer.answers for answer in answers]))
        questions = {row.turn_id: row for row in connection.execute(asked).all()}
    return [Pair(questions[answer.answers], answer) for answer in reversed(answers)]
