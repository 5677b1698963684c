"""Figures of an answer are looked for in what was handed in."""

from __future__ import annotations

import time
import unicodedata
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vad_lib.words.figures import NUMBER_WORDS, pieces, unfounded_figures

DATA: dict[str, Any] = {
    "from": "2026-12-01 06:00",
    "by_hour": [{"hour_from": "2026-12-01 13:00", "NG": 14}],
    "NG": 12,
    "images": 1234,
    "NG_percent": 7.46,
    "p": 0.9312,
    "seconds": 1.23,
    "model_versions": ["vad-bottles/3"],
    "newest_NG": [{"image": "bottle_0012.png"}],
}


def marked(text: str, *handed_in: Any) -> list[str]:
    return [text[start:end] for start, end in unfounded_figures(text, *handed_in)]


@pytest.mark.parametrize(
    "text",
    [
        "12 NG of 1,234 images; 12 von 1.234; 12 of 1234",
        "Twelve were NG.",
        "7.46 %, about 7.5 percent, 7 %; 7,5 % auf Deutsch",
        "p was 0.93, which is 93 % or 93.1 %",
        "1.2 s or 1.23s",
        "from 06:00 on 1 December 2026, 6 am, Dec 1st, 01.12.2026, 1.12., 12/1/2026, 2026-12-01T06:00:00",
        "at 1 pm and at 13:00",
        "version 3 of vad-bottles/3; bottle_0012.png is image 0012",
        "1. scratches\n2) dents\n3. the rest",
        "12個の不良品",
        "12 may be scratched",
    ],
)
def test_what_was_handed_in_is_not_marked_however_it_is_written(text: str) -> None:
    assert marked(text, DATA) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("13 NG of 1,235 images", ["13", "1,235"]),
        ("seven or twenty-one parts", ["seven", "twenty-one"]),
        ("12 % were NG", ["12 %"]),
        ("1 part, 1.3 s, 0.94", ["1", "1.3", "0.94"]),
        ("at 06:01, at 2 pm, 2 December, 1 December 2025", ["06:01", "2 pm", "2 December", "1 December 2025"]),
        ("between 6 and 13 h", ["6", "13"]),
        ("bottle_0013.png by v2", ["bottle_0013.png", "v2"]),
        ("½ of them, ² and ①", ["½", "²", "①"]),
        ("1. this\n4. that", ["4"]),
        ("it rose by 1222 (1234 - 12)", ["1222"]),
        ("1e9 and 1e400 and 25:61 and 2026-13-45", ["1e9", "1e400", "25:61", "2026-13-45"]),
    ],
)
def test_what_was_not_handed_in_is_marked_where_it_stands(text: str, found: list[str]) -> None:
    assert marked(text, DATA) == found


numbers = st.one_of(st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0.001, 0.999))
GERMAN = str.maketrans(",.", ".,")


@given(value=st.integers(0, 10**9), style=st.sampled_from(["{}", "{:,}", "-{}", "({})", "{} mm", "{}x", "={}."]))
def test_a_whole_number_is_found_in_each_usual_way_of_writing_it(value: int, style: str) -> None:
    text = f"There were {style.format(value)} parts"
    assert marked(text, {"n": value}) == []
    assert marked(text.translate(GERMAN), {"n": value}) == []


@given(value=st.floats(10, 1e6), decimals=st.integers(0, 4))
def test_a_number_is_found_when_it_is_rounded(value: float, decimals: int) -> None:
    assert marked(f"It took {value:.{decimals}f} s", {"seconds": value}) == []
    assert marked(f"Es dauerte {value:,.{decimals}f} s".translate(GERMAN), {"seconds": value}) == []


@given(share=st.floats(0.011, 0.999), decimals=st.integers(0, 3))
def test_a_share_is_found_as_a_percentage(share: float, decimals: int) -> None:
    assert marked(f"{100 * share:.{decimals}f} % were NG", {"share": share}) == []


@given(value=st.integers(0, 10**6), others=st.lists(st.integers(0, 10**6), max_size=8))
def test_a_whole_number_that_was_not_handed_in_is_marked_as_a_whole(value: int, others: list[int]) -> None:
    text = f"There were {value} parts."
    assert marked(text, {"counts": others}) == ([] if value in others else [str(value)])


@given(moment=st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)), other=st.datetimes(datetime(2000, 1, 1)))
def test_times_and_days_are_found_and_others_are_not(moment: datetime, other: datetime) -> None:
    handed_in = {"at": moment.strftime("%Y-%m-%d %H:%M")}
    for style in ("%Y-%m-%d", "%d.%m.%Y", "%d %B %Y", "%B %d, %Y", "%d %b", "%H:%M", "%I:%M %p"):
        assert marked(f"It was {moment.strftime(style)}, they say", handed_in) == []
        text = other.strftime(style)
        if text != moment.strftime(style) and style != "%I:%M %p":
            assert marked(f"It was {text}, they say", handed_in) == [text]


texts = st.text(st.one_of(st.sampled_from("0123456789.,:%-/ \n'eapm_½²①三"), st.characters()), max_size=60)


@given(text=texts)
@settings(max_examples=300)
def test_with_nothing_handed_in_no_digit_stays_without_a_mark(text: str) -> None:
    text = "x " + text.replace("\n", " ")
    marks = unfounded_figures(text)
    covered = {position for start, end in marks for position in range(start, end)}
    assert {at for at, sign in enumerate(text) if unicodedata.category(sign).startswith("N")} <= covered


@given(text=texts)
@settings(max_examples=300)
def test_a_text_that_was_handed_in_vouches_for_all_of_its_figures(text: str) -> None:
    assert marked(text, text) == []


@given(text=texts, data=st.dictionaries(st.text(max_size=5), numbers, max_size=5))
def test_marks_follow_each_other_and_pieces_are_the_text_again(text: str, data: dict[str, float]) -> None:
    spans = unfounded_figures(text, data)
    assert all(start < end for start, end in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    cut = list(pieces(text, spans))
    assert "".join(piece for piece, _ in cut) == text
    assert [piece for piece, is_marked in cut if is_marked] == [text[start:end] for start, end in spans]


@pytest.mark.parametrize("word", ["two", "nineteen", "forty", "ninety-nine"])
def test_number_words_of_english_are_figures(word: str) -> None:
    assert marked(f"there were {word} of them") == [word]
    assert marked(f"there were {word} of them", [NUMBER_WORDS[word]]) == []


@pytest.mark.parametrize("part", ["a", "1", "1.", "a-1", "1,234", "12 ", "_", "may ", "1.2.", " 1", "12:34"])
def test_a_long_reply_is_looked_through_quickly(part: str) -> None:
    text = (part * 4_000)[:4_000]
    started = time.process_time()
    unfounded_figures(text, {"counts": list(range(200))})
    assert time.process_time() - started < 1
