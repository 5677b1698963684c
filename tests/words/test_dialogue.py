"""Questions of people are answered once, in order, within budgets, and their figures are checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from inspection_rig import dead_worker
from sqlalchemy import insert, select, update

from tests.words.stub_endpoint import ANSWER, Stub, Turn
from tests.words.words_rig import PLENTY, MakeClient, WordsRig, pictures, texts
from vad_lib.errors import InputError
from vad_lib.inspection_db import utc_now
from vad_lib.inspection_db.schema import turns
from vad_lib.words.client import CircuitBreaker, Client
from vad_lib.words.describing import Budgets
from vad_lib.words.dialogue import MOST_WAITING, answer_waiting, ask_question, newest_turns
from vad_lib.words.waiting import lines_due

LINE = "bottles"


def ask(words: WordsRig, text: str = "What is wrong?", prediction: int | None = 2, **how: Any) -> int:
    return ask_question(
        words.db, LINE, text, person="Kim", prediction_id=prediction, hours=None if prediction else 8, **how
    )


def answer(words: WordsRig, client: Client, budgets: Budgets = PLENTY, worker: str = "worker", **how: Any) -> int:
    return answer_waiting(words.db, words.facts, client, worker, budgets, **how)


def said(words: WordsRig, prediction: int | None = 2) -> list[tuple[str, str, str]]:
    return [(row.role, row.state, row.text) for row in newest_turns(words.db, LINE, prediction)]


def last_turn(words: WordsRig, prediction: int | None = 2) -> Any:
    return newest_turns(words.db, LINE, prediction)[-1]


def roles(messages: Sequence[dict[str, Any]]) -> list[str]:
    return [message["role"] for message in messages]


@pytest.mark.spec("P4.06")
def test_a_question_about_a_part_is_answered_with_its_pictures_and_the_turns_before_it(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    client = make_client()
    stub.turns = [Turn("A spot at the top right."), Turn("It is bright.")]
    first = ask(words)
    assert said(words) == [("user", "waiting", "What is wrong?")], "the question is kept before anybody is asked"
    assert lines_due(words.db, turns) == [LINE]
    assert answer(words, client) == 1
    ask(words, "How does it look?")
    assert answer(words, client) == 1
    assert lines_due(words.db, turns) == []
    assert said(words) == [
        ("user", "done", "What is wrong?"),
        ("assistant", "done", "A spot at the top right."),
        ("user", "done", "How does it look?"),
        ("assistant", "done", "It is bright."),
    ]
    messages = stub.asked[1]["messages"]
    assert roles(messages) == ["system", "user", "assistant", "user"]
    assert len(pictures(stub.asked[1])) == len(pictures(stub.asked[0])) > 3, "pictures are there once"
    assert texts(stub.asked[1])[-1] == "What is wrong?"
    assert [message["content"] for message in messages[2:]] == ["A spot at the top right.", "How does it look?"]
    reply = newest_turns(words.db, LINE, 2)[1]
    assert (reply.answers, reply.model, reply.endpoint, reply.left_machine) == (first, "stub", stub.url, False)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)


def test_a_prompt_keeps_the_last_turns_that_fit_and_the_answer_says_what_was_left_out(
    words: WordsRig, stub: Stub, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_VLM_PROMPT_TOKENS", "3000")
    client = make_client()
    for number, tokens in enumerate((2000, 2300, 2600, 2900)):
        stub.turns = [Turn(f"answer {number}", usage={"prompt_tokens": tokens, "completion_tokens": 290})]
        ask(words, f"question {number}")
        answer(words, client)
    left_out = [json.loads(row.marks)["left_out"] for row in newest_turns(words.db, LINE, 2) if row.marks]
    # 2000 + 290, 2300 + 290, 2600 + 290 and a question fit; that is what the endpoint has counted
    assert left_out == [0, 0, 0, 0]
    ask(words, "question 4")
    answer(words, client)
    assert json.loads(last_turn(words).marks)["left_out"] == 1, "2900 + 290 and a question do not"
    first = texts(stub.asked[-1])
    assert first[-1] == "question 1"
    assert "(1 earlier questions and their answers are left out.)" in first
    assert "question 0" not in json.dumps(stub.asked[-1])


def test_where_nothing_is_counted_the_estimate_bounds_the_prompt(
    words: WordsRig, stub: Stub, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_VLM_PROMPT_TOKENS", "500")
    client = make_client()
    for number in range(3):
        stub.turns = [Turn(f"answer {number}", usage=None)]
        ask(words, f"question {number}")
        answer(words, client)
    assert json.loads(last_turn(words).marks)["left_out"] == 2, "the pictures alone are more"
    assert roles(stub.asked[-1]["messages"]) == ["system", "user"]


@pytest.mark.spec("P7.10")
def test_a_question_about_the_day_gets_the_data_of_the_database_and_no_pictures(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    client = make_client()
    words.ask(2)
    words.describe(client)
    stub.turns = [Turn("1 of 2 images was NG (50 %), a scratch in zbright.png. In all 17 parts were bad.")]
    ask(words, "What was new this shift? More than 3?", prediction=None)
    assert answer(words, client) == 1
    body = stub.asked[-1]
    (block,) = [text for text in texts(body) if text.startswith("DATA\n")]
    data = json.loads(block.removeprefix("DATA\n"))
    assert not pictures(body)
    assert data["images"] == {"predictions": 2, "OK": 1, "NG": 1, "NG_percent": 50.0, "refused_files": 0}
    assert data["new_kinds"] == ["scratch"]
    reply = last_turn(words, None)
    assert json.loads(reply.handed_in) == data
    marks = json.loads(reply.marks)
    assert [reply.text[start:end] for start, end in marks["figures"]] == ["17"], "all other figures were handed in"


def test_figures_of_a_model_vouch_for_nothing_and_those_of_a_person_do(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    client = make_client()
    stub.turns = [
        Turn(json.dumps(ANSWER | {"summary": "A scratch of 4711 mm."})),
        Turn("It is 4712 mm."),
        Turn("4712 or 4713?"),
    ]
    words.ask(2)
    words.describe(client)
    for question in ("How long?", "Is it not 4713?"):
        ask(words, question)
        answer(words, client)
    replies = [row for row in newest_turns(words.db, LINE, 2) if row.role == "assistant"]
    found = [[row.text[a:b] for a, b in json.loads(row.marks)["figures"]] for row in replies]
    assert found == [["4712"], ["4712"]]
    assert "4711 mm" in json.dumps(stub.asked[1]), "what was described before is told, as words of a model"


def test_an_endpoint_that_fails_is_asked_again_later_and_then_no_more(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    stub.script = lambda body: Turn(status=400)
    client = make_client(retries=0)
    ask(words)
    assert answer(words, client) == 0
    assert said(words) == [("user", "waiting", "What is wrong?")]
    assert "status 400" in last_turn(words).error
    assert answer(words, client) == 0, "not before its pause is over"
    assert len(stub.asked) == 1
    with words.db.writing() as connection:
        connection.execute(update(turns).values(leased_until=utc_now() - timedelta(seconds=1)))
    assert answer(words, client) == 1
    assert said(words) == [("user", "failed", "What is wrong?")]
    stub.script = lambda body: Turn("A spot.")
    ask(words, "And now?")
    assert answer(words, client) == 1
    assert roles(stub.asked[-1]["messages"]) == ["system", "user"], "what has no answer is not told"


def test_a_question_waits_while_the_endpoint_is_left_alone_or_a_budget_is_used_up(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    breaker = CircuitBreaker(failures=1)
    client = make_client(breaker)
    breaker.failed("It was away.")
    ask(words)
    assert answer(words, client) == 0
    assert "left alone" in last_turn(words).error
    breaker.worked()
    assert answer(words, client, Budgets(findings_hour=0, tokens_day=0)) == 0
    assert "VAD_VLM_TOKENS_DAY" in last_turn(words).error
    assert last_turn(words).attempts == 0
    assert answer(words, client, Budgets(findings_hour=0, tokens_day=1)) == 1, "findings have a budget of their own"


def test_the_question_of_a_worker_that_died_is_answered_once_by_the_next(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    number = ask(words)
    with words.db.writing() as connection:
        held = {"leased_by": dead_worker(), "leased_until": utc_now() + timedelta(hours=1), "attempts": 1}
        connection.execute(update(turns).where(turns.c.turn_id == number).values(**held))
    assert lines_due(words.db, turns) == [LINE]
    assert answer(words, make_client()) == 1
    assert [state for _, state, _ in said(words)] == ["done", "done"]


def test_two_answers_to_one_question_cannot_be_written(words: WordsRig, stub: Stub, make_client: MakeClient) -> None:
    number = ask(words)

    def taken_meanwhile(body: dict[str, Any]) -> Turn:
        with words.db.writing() as connection:
            connection.execute(update(turns).where(turns.c.turn_id == number).values(leased_by="another"))
        return Turn("too late")

    stub.script = taken_meanwhile
    answer(words, make_client())
    assert said(words) == [("user", "waiting", "What is wrong?")]


def test_questions_of_one_dialogue_are_answered_in_order_and_another_dialogue_does_not_wait(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    first = ask(words, "first")
    ask(words, "second")
    ask(words, "of another part", prediction=1)
    with words.db.writing() as connection:
        elsewhere = {"leased_by": "another machine", "leased_until": utc_now() + timedelta(hours=1)}
        connection.execute(update(turns).where(turns.c.turn_id == first).values(**elsewhere))
    assert answer(words, make_client()) == 1
    assert [state for _, state, _ in said(words)] == ["waiting", "waiting"]
    assert [state for _, state, _ in said(words, 1)] == ["done", "done"]


def test_nothing_of_a_line_is_sent_to_another_machine_without_its_plans_leave(
    words: WordsRig, make_client: MakeClient
) -> None:
    client = make_client(url="http://10.1.2.3/v1")
    ask(words)
    with pytest.raises(InputError, match="allow_images_to_leave"):
        answer(words, client)
    assert "allow_images_to_leave" in last_turn(words).error


def test_an_image_that_is_gone_is_told_to_who_asks(words: WordsRig, make_client: MakeClient) -> None:
    (words.rig.line.inbox / "zbright.png").unlink()
    ask(words)
    assert answer(words, make_client()) == 1
    assert "cannot be read any more" in last_turn(words).error


def test_thoughts_and_control_characters_are_not_shown(words: WordsRig, stub: Stub, make_client: MakeClient) -> None:
    stub.turns = [Turn("<think>77 of them?</think>\nA \x1b[31mspot\u202e.\nIt is bright.")]
    ask(words)
    answer(words, make_client())
    assert last_turn(words).text == "A [31mspot.\nIt is bright."
    assert last_turn(words).raw_reply.startswith("<think>")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"text": " \x00 "}, "Ask something"),
        ({"text": "a" * 1001}, "at most 1000 characters"),
        ({"person": " "}, "Say who asks"),
        ({"prediction_id": 99}, "no prediction 99"),
        ({"prediction_id": None}, "1 to 48"),
        ({"prediction_id": None, "hours": 49}, "1 to 48"),
    ],
)
def test_what_is_no_question_is_refused(words: WordsRig, values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask_question(words.db, LINE, **{"text": "Why?", "person": "Kim", "prediction_id": 2, **values})
    with words.db.reading() as connection:
        assert connection.execute(select(turns)).all() == []


def test_only_some_questions_wait_at_once(words: WordsRig) -> None:
    for number in range(MOST_WAITING):
        ask(words, f"{number}?")
    with pytest.raises(InputError, match="wait for their answers"):
        ask(words, "one more?")
    ask(words, "about the day?", prediction=None)


def test_turns_of_another_day_are_not_in_a_prompt_about_this_one(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    before = utc_now() - timedelta(hours=25)
    with words.db.writing() as connection:
        question = {
            "line": LINE,
            "role": "user",
            "text": "yesterday?",
            "person": "Kim",
            "hours": 8,
            "created_at": before,
        }
        number = connection.execute(insert(turns).values(**question).returning(turns.c.turn_id)).scalar_one()
        reply = {"line": LINE, "role": "assistant", "text": "Nothing.", "answers": number, "created_at": before}
        connection.execute(insert(turns).values(**reply))
    ask(words, "and today?", prediction=None)
    answer(words, make_client())
    assert roles(stub.asked[-1]["messages"]) == ["system", "user"]
