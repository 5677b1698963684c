"""Every figure in an answer is looked for in what was handed in; one that is not there is marked.

The check says that a figure was handed in, not that it was used rightly: 3 parts that were NG and the third of December
are both a 3. It never changes an answer. What counts as handed in:

* a number of the data, written with a separator of thousands, a comma for the point, or rounded. A whole number stands
  for one with decimals only from 10 on, so that a share of 0.93 does not vouch for "1 part";
* a share of the data written in percent, and a percentage that is rounded to whole percents from 1 % on;
* a date or a time of the data, in the usual ways of writing them;
* a number in a text of the data, and a name of it with digits, such as that of a file;
* numbers at the beginning of lines that count 1, 2, 3.

A sum, a difference or a quotient that a model has made itself was not handed in, right or wrong.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, NamedTuple

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER_WORDS: Mapping[str, int] = {
    **{word: value for value, word in enumerate([*_UNITS, *_TEENS]) if word != "one"},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
    **{f"{tens}-{unit}": 10 * v + u for v, tens in enumerate(_TENS, 2) for u, unit in enumerate(_UNITS) if u},
}
"""Numbers as English words. 'One' is left out: it mostly stands for a thing that was named before."""

_LETTER = "A-Za-z_\u00c0-\u024f\u0370-\u04ff"
"""Of scripts that put spaces between words; digits beside them belong to a name."""
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)(?!\w)\.?"
)
_PERCENT = r"\s*(?:%|percent\b|per\ cent\b)"
_TOKENS = re.compile(
    rf"""
    (?P<day>\d{{4}}-\d{{1,2}}-\d{{1,2}}(?!\d) | \d{{1,2}}\.\d{{1,2}}\.\d{{4}}(?!\w)
      | \d{{1,2}}/\d{{1,2}}/\d{{4}}(?!\w))T?
    | (?P<short>\d{{1,2}}\.\d{{1,2}})\.(?!\w)
    | (?P<day_first>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<then_month>{_MONTH})(?:,?\s+(?P<year>\d{{4}})(?!\d))?
    | (?<!\w)(?P<month_first>{_MONTH})\s+(?P<then_day>\d{{1,2}})(?:st|nd|rd|th)?(?![\w:.,]\d|\d)
      (?:,?\s+(?P<year_last>\d{{4}})(?!\d))?
    | (?P<clock>\d{{1,2}}:\d\d(?::\d\d(?:\.\d+)?)?)(?!\d)(?:\s*(?P<half>[ap])\.?m\b\.?)?
    | (?P<hour>\d{{1,2}})\s*(?P<half_of_hour>[ap])\.?m\b\.?
    | (?P<number>\d{{1,3}}(?:[,.'\u2019\u00a0\u202f]\d{{3}})+(?:[,.]\d+)?(?!\d) | \d+(?:[,.]\d+)?(?:e[+-]?\d+)?)
      (?:(?P<percent>{_PERCENT}) | (?P<tail>[{_LETTER}][{_LETTER}\d]*))?
    | (?P<name>[{_LETTER}][{_LETTER}\d]*(?:[.\-][{_LETTER}\d]+)*)(?P<percent_of_word>{_PERCENT})?
    | (?P<sign>[^\W\d{_LETTER}])
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What may be a figure, and names, which may hold digits. Each alternative reads on without trying again."""
_LIST_MARK = re.compile(r"^[ \t]*(\d{1,2})[.)](?=\s)", re.MULTILINE)


class Span(NamedTuple):
    """Where a figure stands in a text: the first character, and the one after the last."""

    start: int
    end: int


@dataclass
class Handed:
    """What was handed in, taken apart.

    Attributes:
        numbers: values.
        percents: values that are percentages.
        dates: days.
        clocks: times of day, with the number of their parts (hours and minutes, or seconds too).
        texts: in small letters.
    """

    numbers: set[float] = field(default_factory=set)
    percents: set[float] = field(default_factory=set)
    dates: set[date] = field(default_factory=set)
    clocks: set[time] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, *data: Any) -> Handed:
        """Take apart JSON-ready data, and texts."""
        made = cls()
        for each in data:
            made._add(each, "")
        return made

    def _add(self, value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self._add_text(str(name))
                self._add(inner, str(name))
        elif isinstance(value, str):
            self._add_text(value)
        elif isinstance(value, Sequence):
            for inner in value:
                self._add(inner, key)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            (self.percents if "percent" in key else self.numbers).add(abs(float(value)))

    def _add_text(self, text: str) -> None:
        self.texts.append(text.casefold())
        for figure in _figures(text):
            (self.percents if figure.is_percent else self.numbers).update(value for value, _ in figure.numbers)
            self.dates.update(figure.dates)
            self.clocks.update(figure.clocks)

    def holds(self, figure: Figure) -> bool:
        """Return whether a figure was handed in, in one of its meanings."""
        return (
            any(self._has_day(day, figure.has_year) for day in figure.dates)
            or any(self._has_clock(clock, figure.precision) for clock in figure.clocks)
            or any(self._has_number(*number, figure.is_percent) for number in figure.numbers)
            or (figure.is_name and any(figure.text.casefold() in text for text in self.texts))
        )

    def _has_day(self, day: date, has_year: bool) -> bool:
        return any(each == day if has_year else (each.month, each.day) == (day.month, day.day) for each in self.dates)

    def _has_clock(self, clock: time, precision: int) -> bool:
        return any(_cut(each, precision) == _cut(clock, precision) for each in self.clocks)

    def _has_number(self, value: float, decimals: int, is_percent: bool) -> bool:
        if is_percent:
            shares = {100 * share for share in self.numbers if share < 1}
            return any(_rounds_to(each, value, decimals, 1) for each in self.percents | shares)
        return any(_rounds_to(each, value, decimals, 10) for each in self.numbers | self.percents)


@dataclass(frozen=True)
class Figure:
    """One figure of a text, with everything that it may mean.

    Attributes:
        span: where it stands.
        text: as it is written.
        numbers: values, each with its number of decimals; several where a point or a comma can be read in two ways.
        is_percent: whether it is written as a percentage.
        dates: days; the year of one without is 2000.
        has_year: whether the day has one.
        clocks: times of day.
        precision: how many parts of a time are written.
        is_name: whether it may be a name with digits in it, which is looked for letter by letter.
    """

    span: Span
    text: str
    numbers: tuple[tuple[float, int], ...] = ()
    is_percent: bool = False
    dates: tuple[date, ...] = ()
    has_year: bool = True
    clocks: tuple[time, ...] = ()
    precision: int = 0
    is_name: bool = False


def unfounded_figures(answer: str, *handed_in: Any) -> list[Span]:
    """Return where figures stand in an answer that were not handed in, in their order.

    Args:
        answer: of a model.
        handed_in: JSON-ready data, and texts such as questions.

    >>> text = "12 parts were NG, that is 7.5 %; 3 were scratched."
    >>> [text[start:end] for start, end in unfounded_figures(text, {"NG": 12, "NG_share": 0.075})]
    ['3']
    """
    handed = Handed.of(*handed_in)
    counted = _list_marks(answer)
    found = [figure.span for figure in _figures(answer) if not handed.holds(figure)]
    return [span for span in found if not any(start <= span.start and span.end <= end for start, end in counted)]


def pieces(text: str, marked: Iterable[Sequence[int]]) -> Iterator[tuple[str, bool]]:
    """Cut a text at its marks: each piece with whether it is marked. Marks that do not fit are passed over."""
    at = 0
    for start, end in marked:
        if at <= start < end <= len(text):
            if start > at:
                yield text[at:start], False
            yield text[start:end], True
            at = end
    if at < len(text):
        yield text[at:], False


def _figures(text: str) -> Iterator[Figure]:
    for match in _TOKENS.finditer(text):
        if (figure := _figure(match)) is not None:
            yield figure


def _figure(match: re.Match[str]) -> Figure | None:
    """Return what a token means; None where it is a word without a figure."""
    span, text = Span(*match.span()), match.group()
    if match["name"] or match["sign"]:
        value = NUMBER_WORDS.get((match["name"] or "").lower())
        if value is not None:
            return Figure(span, text, ((float(value), 0),), is_percent=bool(match["percent_of_word"]))
        # digits, and signs that are numbers by themselves, such as a half
        has_figure = any(unicodedata.category(each).startswith("N") for each in text)
        return Figure(span, text, is_name=True) if has_figure else None
    if match["number"]:
        tail, values = match["tail"] or "", _values(match["number"])
        is_code = any(each.isdecimal() or each == "_" for each in tail) or bool(re.match(r"0\d", text))
        values = () if is_code else values
        return Figure(span, text, values, bool(match["percent"]), is_name=bool(tail) or not values)
    if match["clock"] or match["hour"]:
        parts = (match["clock"] or match["hour"]).partition(".")[0].split(":")
        clocks = _clock([int(part) for part in parts], (match["half"] or match["half_of_hour"] or "").lower())
        return Figure(span, text, clocks=clocks, precision=max(len(parts), 2), is_name=not clocks)
    if match["short"]:
        span, values = Span(*match.span("short")), _values(match["short"])
        return Figure(span, match["short"], values, dates=tuple(_days(match["short"])), has_year=False)
    if match["day"]:
        days = tuple(_days(match["day"]))
        return Figure(span, text, dates=days, is_name=not days)
    month, day = match["then_month"] or match["month_first"], match["day_first"] or match["then_day"]
    year = match["year"] or match["year_last"]
    days = _day(year or 2000, _MONTHS.index(month[:3].lower()) + 1, day)
    # "3 may be scratched"
    is_verb = month == "may" and not year
    return Figure(span, text, ((float(day), 0),) if is_verb else (), dates=days, has_year=bool(year), is_name=not days)


def _values(written: str) -> tuple[tuple[float, int], ...]:
    """Return what a number may be, each with its decimals: '1,234' is a thousand and some, or one and a quarter."""
    plain = re.sub(r"['\u2019\u00a0\u202f]", "", written)
    marks = [sign for sign in plain if sign in ".,"]
    tail = plain[plain.index(marks[-1]) + 1 :] if marks else ""
    if "e" in plain.lower():
        found = [(float(plain.replace(",", ".")), 12)]
    elif len(marks) < 2:
        found = [(float(plain.replace(",", ".")), len(tail))]
        if len(tail) == 3 and len(plain) <= 7:
            found.append((float(plain.replace(marks[0], "")), 0))
    elif len(set(marks)) == 1:
        found = [(float(plain.replace(marks[0], "")), 0)]
    else:
        whole, _, tail = plain.rpartition(marks[-1])
        found = [(float(f"{re.sub('[.,]', '', whole)}.{tail}"), len(tail))]
    return tuple((value, decimals) for value, decimals in found if math.isfinite(value))


def _rounds_to(value: float, written: float, decimals: int, whole_from: float) -> bool:
    """Return whether a value that was handed in is the written one, or becomes it when rounded to its decimals."""
    if value == written:
        return True
    if decimals == 0 and (value == int(value) or value < whole_from):
        return False
    return abs(value - written) <= 0.5 * 10.0**-decimals + 1e-9 * max(1.0, value)


def _days(written: str) -> Iterator[date]:
    numbers = [int(part) for part in re.split(r"[-./]", written) if part]
    if "-" in written:
        yield from _day(*numbers)
        return
    first, second, year = [*numbers, 2000][:3]
    yield from _day(year, second, first)
    if "/" in written:
        yield from _day(year, first, second)


def _day(year: Any, month: Any, day: Any) -> tuple[date, ...]:
    try:
        return (date(int(year), int(month), int(day)),)
    except ValueError:
        return ()


def _clock(parts: list[int], half: str) -> tuple[time, ...]:
    hour, minute, second = [*parts, 0, 0][:3]
    if half:
        if not 1 <= hour <= 12:
            return ()
        hour = hour % 12 + (12 if half == "p" else 0)
    try:
        return (time(hour, minute, second),)
    except ValueError:
        return ()


def _cut(clock: time, precision: int) -> tuple[int, ...]:
    return (clock.hour, clock.minute, clock.second)[:precision]


def _list_marks(text: str) -> list[Span]:
    """Return the numbers of lines that count from 1 on."""
    found, wanted = [], 1
    for match in _LIST_MARK.finditer(text):
        if int(match[1]) == wanted:
            found.append(Span(*match.span(1)))
            wanted += 1
    return found
