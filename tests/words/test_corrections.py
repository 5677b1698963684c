"""Corrections of people: written down, told in the next prompts, and exported for fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.words.stub_endpoint import ANSWER, Stub, Turn
from tests.words.words_rig import MakeClient, WordsRig, data_of, write_part
from vad_lib.errors import InputError
from vad_lib.inspection_db import utc_now
from vad_lib.words.answer import Answer
from vad_lib.words.context import CORRECTED
from vad_lib.words.corrections import newest_corrections, record_correction
from vad_lib.words.day import day_facts
from vad_lib.words.describing import description_by_id, search_descriptions
from vad_lib.words.fine_tuning import export_chat


@pytest.fixture
def described(words: WordsRig, stub: Stub, make_client: MakeClient) -> WordsRig:
    """The finding has description 1."""
    words.ask(2)
    words.describe(make_client())
    return words


def test_a_correction_changes_the_fields_that_it_names_and_the_description_stays(described: WordsRig) -> None:
    before = description_by_id(described.db, 1)
    record_correction(described.db, 1, {"summary": "It is dust."}, person="Kim", note="wiped\x00 off")
    record_correction(described.db, 1, {"summary": "It is a fibre.", "anomaly": "no"}, person="Lee")
    (held,) = newest_corrections(described.db, "bottles", 10)
    assert held.answer == Answer.checked(ANSWER | {"summary": "It is a fibre.", "anomaly": "no"})
    assert (held.person, held.predicted, held.prediction_id) == ("Lee", "NG", 2)
    after = description_by_id(described.db, 1)
    assert before is not None
    assert after is not None
    assert dict(after._mapping) == dict(before._mapping) | {"summary": "It is a fibre.", "agrees": False}
    assert newest_corrections(described.db, "caps", 10) == []


def test_what_a_person_corrected_is_what_a_search_finds_and_the_day_tells(described: WordsRig) -> None:
    record_correction(described.db, 1, {"summary": "It is a fibre."}, person="Kim")

    def found(text: str) -> list[str]:
        return [row.summary for row in search_descriptions(described.db, "bottles", text)]

    assert found("scratch") == []
    assert found("fibre") == ["It is a fibre."]
    (newest,) = day_facts(described.db, "bottles", utc_now(), 24)["newest_NG"]
    assert newest["described_as"] == "It is a fibre."


@pytest.mark.parametrize(
    ("number", "values", "person", "said"),
    [
        (9, {}, "Kim", "no description 9"),
        (1, {}, " ", "Say who"),
        (1, {"summary": "x" * 301}, "Kim", "summary: String should have at most 300"),
        (1, {"verdict": "OK"}, "Kim", "verdict: Extra inputs"),
        (1, {"anomaly": "maybe"}, "Kim", "not an answer: anomaly"),
    ],
)
def test_what_is_no_correction_is_refused_in_words(
    number: int, values: dict[str, Any], person: str, said: str, described: WordsRig
) -> None:
    with pytest.raises(InputError, match=said):
        record_correction(described.db, number, values, person=person)
    assert newest_corrections(described.db, "bottles", 10) == []


def test_a_reply_without_form_is_corrected_by_a_whole_answer(
    words: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    stub.script = lambda body: Turn("a scratch")
    words.ask(2)
    words.describe(make_client())
    with pytest.raises(InputError, match="reference_difference: Field required"):
        record_correction(words.db, 1, {"summary": "A dent."}, person="Kim")
    record_correction(words.db, 1, ANSWER, person="Kim")


def test_the_nearest_corrections_of_the_line_are_examples_of_the_next_prompt(
    described: WordsRig, stub: Stub, make_client: MakeClient
) -> None:
    for number, brightness in enumerate((140, 152, 200, 158, 230)):
        write_part(described.rig.inbox / f"zz{number}.png", brightness, spot=255)
    described.rig.inspect()
    described.ask(3, 4, 5, 6)
    described.describe(make_client())
    for number in range(1, 6):
        record_correction(described.db, number, {"summary": f"Correction {number}."}, person="Kim Minsu")
    described.ask(1, 2, again=True)
    described.describe(make_client())
    told = [[one["right_answer"]["summary"] for one in data_of(body)[CORRECTED]] for body in stub.asked[-2:]]
    assert told[0] == ["Correction 2.", "Correction 1.", "Correction 3."], "the dark image is nearest to the darkest"
    assert told[1] == ["Correction 3.", "Correction 5.", "Correction 2."], "its own correction is no example"
    assert "Minsu" not in json.dumps(stub.asked[-1])


def test_corrections_are_exported_in_the_chat_format_with_pictures_as_files(
    described: WordsRig, stub: Stub, make_client: MakeClient, tmp_path: Path
) -> None:
    described.ask(1)
    described.describe(make_client())
    record_correction(described.db, 1, {"summary": "It is dust."}, person="Kim Minsu")
    record_correction(described.db, 2, {"summary": "It is fine.", "anomaly": "no"}, person="Kim Minsu")
    (described.rig.inbox / "dark.png").unlink()
    made = export_chat(described.db, described.facts, tmp_path / "chat")
    assert (made.examples, made.lost) == (1, (described.rig.inbox / "dark.png",))
    (line,) = made.file.read_text(encoding="utf-8").splitlines()
    example = json.loads(line)
    _, user, assistant = example["messages"]
    assert [message["role"] for message in example["messages"]] == ["system", "user", "assistant"]
    assert json.loads(assistant["content"][0]["text"])["summary"] == "It is dust."
    named = [part["image"] for part in user["content"] if part["type"] == "image"]
    assert named == example["images"]
    assert len(named) == 5
    for name in named:
        with Image.open(tmp_path / "chat" / name) as picture:
            picture.load()
    assert CORRECTED not in line
    assert "Minsu" not in line
    assert "base64" not in line
