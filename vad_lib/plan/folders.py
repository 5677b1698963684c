"""Where the folders are that a plan names."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

from vad_lib.errors import InputError, PlanError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".xls", ".xlsx", ".parquet", ".json"})


def place(written: str, base: Path) -> Path | None:
    """Return the path that ``written`` means, relative to ``base``; None where it is empty."""
    if not written:
        return None
    return base / _from_home(written)


def candidates(written: str, base: Path) -> list[Path]:
    """Return the places that a ``load_*`` path may mean, in the order in which they are tried.

    Published solutions write paths from their project folder, as in ./solution/sample_data/train, and keep the plan in
    the solution folder or beside it.
    """
    path = _from_home(written)
    if path.is_absolute():
        return [path]
    places = [base / path, base.parent / path]
    if path.parts[:1] == ("solution",):
        places.append(base.joinpath(*path.parts[1:]))
    return places


def holds_escapes(path: str) -> bool:
    """Tell whether a path holds signs that nobody types: what is left of the backslashes of a path in double quotes."""
    return any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign == "\xa0" for sign in path)


def names_a_table(written: str) -> bool:
    """Tell whether a path looks like a table file rather than a folder."""
    return PurePosixPath(written.replace("\\", "/")).suffix.lower() in TABLE_SUFFIXES


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; a path that the system refuses (too long a name, no permission) is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Tell whether there is a file; as ``is_folder``."""
    try:
        return path.is_file()
    except OSError:
        return False


def data_folder(key: str, written: list[str], base: Path, source: str) -> Path:
    """Return the first existing folder.

    Args:
        key: the key of external_path, for messages.
        written: what it may be, in order.

    Raises:
        PlanError: it is a file.
        InputError: there is none.
    """
    tried = [candidate for path in written for candidate in candidates(path, base)]
    for candidate in tried:
        if is_file(candidate):
            raise PlanError(f"{source}: {key} names the file {candidate}: give the folder that holds it.")
        if is_folder(candidate):
            return candidate.resolve()
    listed = "\n".join(f"  {candidate}" for candidate in dict.fromkeys(tried))
    raise InputError(
        f"{source}: {key} is {' or '.join(written)}, and there is no such folder. Tried:\n{listed}\n"
        f"Put the data there, or correct {key}."
    )


def _from_home(written: str) -> Path:
    """Read '\\' as '/', and a leading '~' as the user's home."""
    path = Path(written.replace("\\", "/"))
    return path.expanduser() if path.parts[:1] == ("~",) else path
