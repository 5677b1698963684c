"""What a model answers: the form of it, and what a reply may be."""

from __future__ import annotations

import json

import pytest

from tests.words.stub_endpoint import ANSWER
from vad_lib.words.answer import LONGEST_SUMMARY, MAX_REGIONS, Answer, AnswerError, answer_schema, json_objects


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(ANSWER),
        f"Here you are:\n```json\n{json.dumps(ANSWER, indent=2)}\n```\nAnything else?",
        f"<think>a {{small}} thought {{}}</think> {json.dumps(ANSWER)}",
        f"<thinking>{json.dumps(ANSWER | {'summary': 'A draft. ' * 20})}</thinking>{json.dumps(ANSWER)}",
        json.dumps(ANSWER | {"anomaly": " Yes", "confidence": "HIGH", "agrees_with_detector": "true"}),
    ],
)
def test_an_answer_is_read_from_json_and_from_prose_around_it(reply: str) -> None:
    assert Answer.of_reply(reply).model_dump() == ANSWER


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("I cannot help with that.", "no whole JSON object"),
        (json.dumps(ANSWER)[:-20], "no whole JSON object|reference_difference: Field required"),
        ("{" * 50_000, "no whole JSON object"),
        ('{"a":' * 5_000, "no whole JSON object"),
        (json.dumps(ANSWER | {"verdict": "OK"}), "verdict: Extra inputs"),
        (json.dumps(ANSWER | {"anomaly": "maybe"}), "anomaly: Input should be 'yes', 'no' or 'unsure'"),
        (json.dumps(ANSWER | {"regions": [{"number": 1}]}), "regions.0.kind: Field required"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_is_wrong(reply: str, said: str) -> None:
    with pytest.raises(AnswerError, match=said):
        Answer.of_reply(reply)


def test_a_reply_that_says_too_much_is_cut_and_one_of_a_person_is_told() -> None:
    much = ANSWER | {"summary": "a " * 500, "regions": ANSWER["regions"] * 40}
    read = Answer.of_reply(json.dumps(much))
    assert len(read.summary) <= LONGEST_SUMMARY
    assert read.summary.endswith("…")
    assert len(read.regions) == MAX_REGIONS
    with pytest.raises(AnswerError, match=r"(?s)regions: .*summary: String should have at most 300"):
        Answer.checked(much)


def test_control_characters_and_marks_that_turn_the_direction_are_taken_out() -> None:
    read = Answer.of_reply(json.dumps(ANSWER | {"summary": "a\x1b[2J\u202e scratch\n\tat the\u2066 rim\x00"}))
    assert read.summary == "a[2J scratch at the rim"


@pytest.mark.parametrize(
    ("anomaly", "says", "predicted", "agrees"),
    [
        ("yes", True, "NG", True),
        ("no", True, "OK", True),
        ("no", True, "NG", False),
        ("yes", True, "OK", False),
        ("yes", False, "NG", False),
        ("unsure", True, "NG", None),
        ("unsure", False, "OK", False),
    ],
)
def test_a_model_agrees_only_where_both_its_conclusion_and_its_word_do(
    anomaly: str, says: bool, predicted: str, agrees: bool | None
) -> None:
    answer = Answer.checked(ANSWER | {"anomaly": anomaly, "agrees_with_detector": says})
    assert answer.agrees(predicted) is agrees


def test_the_schema_asks_for_every_field_and_nothing_else_and_offers_the_kinds_of_the_line() -> None:
    schema = answer_schema(["scratch", "dent"])
    region = schema["properties"]["regions"]["items"]
    assert schema["required"] == [*ANSWER]
    assert region["required"] == [*ANSWER["regions"][0]]
    assert schema["additionalProperties"] is region["additionalProperties"] is False
    assert region["properties"]["kind"]["enum"] == ["scratch", "dent", "other"]
    assert "$ref" not in json.dumps(schema)
    assert "maxLength" not in json.dumps(schema)


def test_an_answer_is_found_beside_other_objects_such_as_the_schema() -> None:
    assert json_objects('{"a": 1} {"b": {"c": 2}} {}') == [{"b": {"c": 2}}, {"a": 1}, {}]
    reply = f"{json.dumps(answer_schema())} {json.dumps(ANSWER)} {{}}"
    assert Answer.of_reply(reply) == Answer.checked(ANSWER)
