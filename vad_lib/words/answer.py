"""What a model answers about one finding: the form of it, and how a reply is read.

The form is checked here and nowhere else. Every text is bounded and free of control characters, so that it can be put
into a terminal, a page (escaped there, as all texts) or another prompt.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from vad_lib.errors import VadError

MAX_REGIONS = 12
LONGEST_DESCRIPTION, LONGEST_SUMMARY, LONGEST_NOTE = 200, 300, 300
LONGEST_WORD, LONGEST_PLACE = 60, 100
LONGEST_REPLY = 20_000
"""Characters of a reply that are read and kept."""
OTHER_KIND = "other"

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_JOINERS = "\u200c\u200d"
"""They have no width, and words of some languages are written with them."""
_MAX_CANDIDATES = 200
"""Braces at which a JSON object is looked for."""

Word = Literal["yes", "no", "unsure"]
Level = Literal["low", "medium", "high"]


class AnswerError(VadError):
    """A reply is no answer; the text says what is wrong, for the model that is to repair it."""


def plain_text(text: str, longest: int, *, lines: bool = False) -> str:
    """Return a text without control characters, cut with an ellipsis where it is longer than so many characters.

    Args:
        text: of anybody.
        longest: at least 1.
        lines: whether line ends stay; else they become spaces.

    >>> plain_text("a \\x1b[31mred\\n  mark", 40)
    'a [31mred mark'
    >>> plain_text("a long scratch", 8)
    'a long…'
    """
    if lines:
        kept = "".join(each for each in text if each == "\n" or each in _JOINERS or _is_printable(each)).strip()
    else:
        kept = " ".join("".join(each for each in _spaced(text) if each in _JOINERS or _is_printable(each)).split())
    return kept if len(kept) <= longest else kept[: longest - 1].rstrip() + "…"


def without_thoughts(reply: str) -> str:
    """Return a reply without what a model thought before it answered, between tags.

    >>> without_thoughts("<think>A? B?</think>A")
    ' A'
    """
    return _THOUGHTS.sub(" ", reply)


def _spaced(text: str) -> str:
    return "".join(" " if each.isspace() else each for each in text)


def _is_printable(character: str) -> bool:
    # other (control, format such as the marks that turn the direction of writing, surrogate, private, unassigned)
    return not unicodedata.category(character).startswith("C")


def _cleaned(longest: int) -> BeforeValidator:
    def clean(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        # A model that writes too much has answered; a person is told instead.
        return plain_text(value, longest if _cuts(info) else len(value) + 1)

    return BeforeValidator(clean)


def _cuts(info: ValidationInfo) -> bool:
    return isinstance(info.context, dict) and bool(info.context.get("cut"))


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _bounded(value: Any, info: ValidationInfo) -> Any:
    return value[:MAX_REGIONS] if _cuts(info) and isinstance(value, list) else value


Kind = Annotated[str, Field(max_length=LONGEST_WORD), _cleaned(LONGEST_WORD)]
Place = Annotated[str, Field(max_length=LONGEST_PLACE), _cleaned(LONGEST_PLACE)]
Description = Annotated[str, Field(max_length=LONGEST_DESCRIPTION), _cleaned(LONGEST_DESCRIPTION)]
Summary = Annotated[str, Field(max_length=LONGEST_SUMMARY), _cleaned(LONGEST_SUMMARY)]
Note = Annotated[str, Field(max_length=LONGEST_NOTE), _cleaned(LONGEST_NOTE)]
ChosenWord = Annotated[Word, BeforeValidator(_lower)]
ChosenLevel = Annotated[Level, BeforeValidator(_lower)]


class RegionAnswer(BaseModel):
    """What a model says about one region."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0, le=99, description="The number of the box; 0 where no box marks what you see.")
    kind: Kind = Field(description="The kind of defect, in one or two words.")
    place: Place = Field(description="Where on the part, such as 'top left, on the rim'.")
    description: Description = Field(
        description=f"What is seen there: colour, form, size. At most {LONGEST_DESCRIPTION} characters."
    )
    severity: ChosenLevel = Field(description="How bad it is for the part.")


class Answer(BaseModel):
    """What a model says about one finding.

    What is seen comes before what is concluded: a model that writes word by word concludes better then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference_difference: Note = Field(
        description=f"How the image differs from the normal references. At most {LONGEST_NOTE} characters."
    )
    regions: Annotated[list[RegionAnswer], BeforeValidator(_bounded)] = Field(
        max_length=MAX_REGIONS, description="One entry for each numbered box, and for what you see beside them."
    )
    anomaly: ChosenWord = Field(
        description="Whether the part is anomalous, as you see it; unsure where the pictures do not tell."
    )
    confidence: ChosenLevel = Field(description="How sure you are.")
    agrees_with_detector: bool = Field(description="Whether you come to the same conclusion as the detector.")
    summary: Summary = Field(
        description=f"One or two sentences for the person at the line. At most {LONGEST_SUMMARY} characters."
    )
    next_check: Note = Field(description=f"What a person should look at next. At most {LONGEST_NOTE} characters.")

    @classmethod
    def of_reply(cls, reply: str) -> Self:
        """Read a reply: JSON, or prose with JSON in it, after thoughts or none. Texts that are too long are cut.

        Raises:
            AnswerError: there is no JSON object in it, or it has another form; the message says what is wrong.
        """
        faults = []
        # A model may repeat the schema before it answers.
        for found in json_objects(without_thoughts(reply)):
            try:
                return cls.checked(found, cut=True)
            except AnswerError as error:
                faults.append(str(error))
        raise AnswerError(faults[0] if faults else "There is no whole JSON object in the reply.")

    @classmethod
    def checked(cls, values: Any, *, cut: bool = False) -> Self:
        """Check values of any source, such as those that a person typed.

        Args:
            values: a mapping, as JSON has it.
            cut: whether texts and lists that are too long are cut; else they are refused.

        Raises:
            AnswerError: they have another form; the message says what is wrong.
        """
        try:
            return cls.model_validate(values, context={"cut": cut})
        except ValidationError as error:
            raise AnswerError(told(error)) from None

    def agrees(self, predicted: str) -> bool | None:
        """Say whether this is what the detector decided (OK or NG); None where the model is unsure of it.

        A model that contradicts itself does not agree: somebody should look.
        """
        opposite = {"OK": "yes", "NG": "no"}[predicted]
        if self.anomaly == opposite or not self.agrees_with_detector:
            return False
        return None if self.anomaly == "unsure" else True


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text, the longest first; those inside another one are not returned by themselves.

    >>> json_objects('Sure! ```json\\n{"a": {"b": 1}}\\n``` and {} too')
    [{'a': {'b': 1}}, {}]
    """
    text = text[:LONGEST_REPLY]
    decoder = json.JSONDecoder()
    found: list[tuple[int, dict[str, Any]]] = []
    start = text.find("{")
    for _ in range(_MAX_CANDIDATES):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append((end - start, value))
        start = text.find("{", end)
    return [value for _, value in sorted(found, key=lambda pair: -pair[0])]


def told(error: ValidationError) -> str:
    """Return what is wrong in values, a line for each fault, without the values themselves."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, fault['loc'])) or 'the answer'}: {fault['msg']}" for fault in faults]
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    return plain_text("\n".join(lines[:10] + more), 2000, lines=True)


def answer_schema(kinds: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON schema of an answer, in the small part of the language that all endpoints understand.

    Bounds are told in words there, since some endpoints refuse schemas that hold them; they are checked here.

    Args:
        kinds: the line's known kinds of defect; the model chooses among them and 'other'. Empty: any word.
    """
    schema = Answer.model_json_schema()
    region = schema.pop("$defs")["RegionAnswer"]
    schema["properties"]["regions"]["items"] = region
    if kinds:
        region["properties"]["kind"]["enum"] = [*dict.fromkeys((*kinds, OTHER_KIND))]
    for part in (schema, region):
        part.pop("description", None)
        for facts in part["properties"].values():
            for bound in ("maxLength", "maxItems", "minimum", "maximum", "title"):
                facts.pop(bound, None)
        part.pop("title", None)
        part["required"] = [*part["properties"]]
    return schema
