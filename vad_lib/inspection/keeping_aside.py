"""Keep refused inputs where they can be looked at: a hard link, else a copy. Never a reason for a batch to fail."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from sqlalchemy import Row, or_, select, update

from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.schema import kept_aside, landings
from vad_lib.landing.scanning import NOT_AN_IMAGE, SCAN_RULES
from vad_lib.lines import Line

MAX_COPY_BYTES = 256 * 2**20
UNTOUCHED_RULES = SCAN_RULES - {NOT_AN_IMAGE}
"""Refused for what they are: following them could lead out of the folder, or wait for ever."""


def keep_aside(db: InspectionDatabase, line: Line, batch_id: str, folder: Path) -> None:
    """Link or copy the refused files of a batch into ``line.kept_aside``, as far as that is not done yet.

    The database says for each where it is, or why it is nowhere.
    """
    with db.reading() as connection:
        found = connection.execute(
            select(kept_aside)
            .outerjoin(
                landings,
                (landings.c.line == kept_aside.c.line)
                & (landings.c.path == kept_aside.c.path)
                & (landings.c.size == kept_aside.c.size)
                & (landings.c.mtime_ns == kept_aside.c.mtime_ns),
            )
            .where(
                kept_aside.c.line == line.name,
                or_(kept_aside.c.batch_id == batch_id, landings.c.batch_id == batch_id),
                kept_aside.c.kept_file.is_(None),
                kept_aside.c.kept_note.is_(None),
            )
        ).all()
    settled = []
    for row in found:
        kept_file, note = _keep(row, folder, line.kept_aside)
        settled.append((row.kept_id, kept_file, note))
    if not settled:
        return
    with db.writing() as connection:
        for kept_id, kept_file, note in settled:
            connection.execute(
                update(kept_aside)
                .where(kept_aside.c.kept_id == kept_id)
                .values(kept_file=kept_file, kept_note=note, batch_id=batch_id)
            )


def _keep(row: Row[Any], folder: Path, target_folder: Path) -> tuple[str | None, str | None]:
    if row.rule in UNTOUCHED_RULES:
        return None, f"not kept: {row.reason}"
    try:
        source = Path(os.path.realpath(folder / row.path))
        facts = os.lstat(source)
        if not source.is_relative_to(os.path.realpath(folder)) or not stat.S_ISREG(facts.st_mode):
            return None, "not kept: no longer a regular file of the folder"
        if facts.st_size != row.size:
            return None, "not kept: the file was changed since"
        target_folder.mkdir(parents=True, exist_ok=True)
        target = target_folder / _safe_name(row.kept_id, row.path)
        try:
            os.link(source, target)
        except FileExistsError:
            pass  # linked before a death
        except OSError:
            # Another file system, or one without hard links.
            if facts.st_size > MAX_COPY_BYTES:
                return None, f"not kept: {facts.st_size} bytes are too many to copy"
            partial = target.with_name(f".{target.name}.part")
            shutil.copyfile(source, partial, follow_symlinks=False)
            os.replace(partial, target)
    except (OSError, ValueError) as error:
        return None, f"not kept: {error}"
    return str(target), None


def _safe_name(kept_id: int, path: str) -> str:
    """A name of at most 200 bytes, unique by the number, with the end of the original."""
    name = re.sub(r"[\x00-\x1f/\\]", "_", path.rpartition("/")[2])
    return f"{kept_id:06d}_{name.encode()[-190:].decode(errors='ignore')}"
