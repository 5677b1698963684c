"""Reading hand-written csv files as text, with errors that name the file, the line and the byte."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd

from vad_lib.errors import InputError
from vad_lib.images.paths import resolve_inside

MAX_TABLE_BYTES = 256 * 2**20
_SEPARATORS = (",", ";", "\t")


def read_csv_text(folder: Path, name: str, encoding: str) -> pd.DataFrame:
    """Return one csv file as a table of text; empty cells are None, empty lines are passed over.

    The separator is a comma, or a semicolon or tab where the header has no comma. Short lines are filled up with empty
    cells. A column without a name becomes 'Unnamed: <position>'.

    Args:
        folder: The data folder.
        name: Path of the file relative to it.
        encoding: A text encoding that Python knows; a byte-order mark is understood.

    Raises:
        InputError: not a regular file, not text in this encoding, broken quotes, too many fields in a line, a column
            twice, no rows.
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
    header_end = re.search(r"[\r\n]", text.lstrip("\r\n"))
    header_line = text.lstrip("\r\n")[: header_end.start()] if header_end else text
    separator = next((s for s in _SEPARATORS if s in header_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
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
                    f"{name} line {reader.line_num} has {len(fields)} fields, the header has {len(header)}. "
                    f"Put quotes around a field that contains '{separator}'."
                )
            padded: list[str | None] = [field if field.strip() else None for field in fields]
            rows.append(padded + [None] * (len(header) - len(fields)))
    except csv.Error as error:
        raise InputError(f"{name} line {reader.line_num} is not csv ({error}). Check its quotes.") from error
    if not header or not rows:
        what = "only a header" if header else "empty"
        raise InputError(f"{name} is {what}. It needs a header line and one line an image.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _header(fields: list[str], name: str) -> list[str]:
    # Spreadsheets and pandas leave a nameless index column; pandas calls it so, too.
    header = [field.strip() or f"Unnamed: {position}" for position, field in enumerate(fields)]
    if twice := sorted({field for field in header if header.count(field) > 1}):
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
