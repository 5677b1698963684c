"""Reading hand-written csv files as text, with errors that name the file, the line and the byte."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vad_lib.errors import InputError
from vad_lib.images.paths import resolve_inside

MAX_TABLE_BYTES = 256 * 2**20
MAX_COLUMNS = 16_384
"""As many as a spreadsheet has."""
MAX_HEADER_CHARACTERS = 4 * 2**20
MOST_COMMENTS = 100
"""Lines above the header that are looked at."""
_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ ,;\t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_EMPTY_LINES = re.compile(r"(?:[ \t,;]*(?:\r\n|\r|\n))+")


def read_csv_text(
    folder: Path, name: str, encoding: str, wanted: Collection[str] = (), *, may_be_empty: bool = False
) -> pd.DataFrame:
    """Return one csv file as a table of text; empty cells are None, empty lines are passed over.

    The separator is the one under which the wanted columns appear: a comma, a semicolon or a tab, or what a first line
    'sep=' says, as Excel writes it. Lines that begin with '#' may stand above the header. Short lines are filled up
    with empty cells. A column without a name becomes 'Unnamed: <position>'.

    Args:
        folder: The data folder.
        name: Path of the file relative to it.
        encoding: A text encoding that Python knows; a byte-order mark is understood.
        wanted: Columns that tell the header; where none of them appears, the first line that is no comment and has
            several columns is the header.
        may_be_empty: A header alone will do.

    Raises:
        InputError: not a regular file, not text in this encoding, broken quotes, too many fields in a line, a column
            twice, too many columns, no rows.
    """
    file = resolve_inside(folder, name)
    if not file.is_file():
        raise InputError(f"{name} is not a regular file. Replace it with the csv table itself.")
    try:
        if (size := file.stat().st_size) > MAX_TABLE_BYTES:
            raise InputError(f"{name} has {size / 2**20:.0f} MiB; a table of paths and labels is far smaller.")
        text = _decode(file.read_bytes(), name, encoding)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}). Check its permissions.") from error
    layout = _layout(text, wanted)
    above = sum(1 for _ in _LINE_END.finditer(text, 0, layout.start))
    stream = io.StringIO(text, newline="")
    stream.seek(layout.start)
    reader = csv.reader(stream, delimiter=layout.separator, strict=True)
    rows: list[list[str | None]] = []
    header: list[str] = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if not header:
                header = _header(fields, name)
                continue
            if len(fields) > len(header):
                raise InputError(
                    f"{name} line {above + reader.line_num} has {len(fields)} fields, the header has {len(header)}. "
                    f"Put quotes around a field that contains '{layout.separator}'."
                )
            padded: list[str | None] = [field if field.strip() else None for field in fields]
            rows.append(padded + [None] * (len(header) - len(fields)))
    except csv.Error as error:
        raise InputError(f"{name} line {above + reader.line_num} is not csv ({error}). Check its quotes.") from error
    if not header or not (rows or may_be_empty):
        what = "only a header" if header else "empty"
        raise InputError(f"{name} is {what}. It needs a header line and one line an image.")
    return pd.DataFrame(rows, columns=header, dtype=object)


class _Layout(NamedTuple):
    """Where the header begins in the text, and what separates the fields."""

    start: int
    separator: str


def _layout(text: str, wanted: Collection[str]) -> _Layout:
    best, most, first = None, 0, None
    for layout in _layouts(text):
        names = _first_fields(text, layout)
        if (found := len(set(wanted) & names)) > most:
            best, most = layout, found
        if first is None and len(names) > 1 and not text.startswith("#", layout.start):
            first = layout
    return best or first or next(_layouts(text))


def _layouts(text: str) -> Iterator[_Layout]:
    """Yield what the first lines may mean, the likeliest first."""
    separators: Collection[str] = _SEPARATORS
    start = empty.end() if (empty := _EMPTY_LINES.match(text)) else 0
    if said := _SEPARATOR_LINE.match(text, start):
        separators, start = (said[1],), said.end()
    for _ in range(MOST_COMMENTS + 1):
        if empty := _EMPTY_LINES.match(text, start):
            start = empty.end()
        yield from (_Layout(start, separator) for separator in separators)
        end = _LINE_END.search(text, start)
        if not text.startswith("#", start) or end is None:
            return
        start = end.end()


def _first_fields(text: str, layout: _Layout) -> set[str]:
    stream = io.StringIO(text[layout.start : layout.start + MAX_HEADER_CHARACTERS], newline="")
    try:
        return {field.strip() for field in next(csv.reader(stream, delimiter=layout.separator, strict=True), [])}
    except csv.Error:
        return set()


def _header(fields: list[str], name: str) -> list[str]:
    if len(fields) > MAX_COLUMNS:
        raise InputError(
            f"{name} has {len(fields):,} columns, and at most {MAX_COLUMNS:,} are read: a table has one line an image, "
            "not one column."
        )
    # Spreadsheets and pandas leave a nameless index column; pandas calls it so, too.
    header = [field.strip() or f"Unnamed: {position}" for position, field in enumerate(fields)]
    if twice := sorted(field for field, count in Counter(header).items() if count > 1):
        raise InputError(f"{name} has the column {twice[0]!r} twice. Rename one of them.")
    return header


def _decode(data: bytes, name: str, encoding: str) -> str:
    # 'utf-8-sig' reads plain UTF-8 too, and takes away the mark that Excel writes before the first column's name.
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        return data.decode(codec)
    except LookupError as error:
        raise InputError(f"encoding: {encoding} is not a text encoding that Python knows. Try utf-8.") from error
    except UnicodeError as error:
        where = ""
        if isinstance(error, UnicodeDecodeError):
            start = error.start + (3 if codec == "utf-8-sig" and data.startswith(b"\xef\xbb\xbf") else 0)
            start = min(start, len(data) - 1)
            line = data.count(b"\n", 0, start) + 1
            where = f": byte {start} (0x{data[start]:02X}, line {line}) does not fit"
        fitting = _fitting_encodings(data)
        advice = f"It can be read as {' or '.join(fitting)}" if fitting else "Save it as UTF-8"
        raise InputError(
            f"{name} is not {encoding} text{where}. {advice}: set 'encoding' in the plan's input step, "
            "or save the file as UTF-8."
        ) from error


def _fitting_encodings(data: bytes) -> list[str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ["utf-16"]
    fitting = []
    for codec in ("utf-8", "cp949", "cp932", "cp1252"):
        try:
            data.decode(codec)
        except UnicodeDecodeError:
            continue
        fitting.append(codec)
    return fitting[:2]
