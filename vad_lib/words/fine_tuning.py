"""Corrected answers in the usual chat format, with pictures as files, for the fine-tuning of a model elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vad_lib.atomic_files import write_whole
from vad_lib.errors import UnreadableImageError
from vad_lib.inspection_db.database import InspectionDatabase
from vad_lib.inspection_db.lineage import prediction_by_id
from vad_lib.words.context import CORRECTED, Context, LineFacts, context_of, system_text
from vad_lib.words.corrections import Correction, newest_corrections

FILE, PICTURES = "corrections.jsonl", "images"
MOST_EXAMPLES = 100_000


@dataclass(frozen=True)
class ChatExport:
    """What was written.

    Attributes:
        file: one JSON object a line.
        examples: how many.
        lost: images that are gone, or in whose place others lie; their corrections are left out.
    """

    file: Path
    examples: int
    lost: tuple[Path, ...]


def export_chat(db: InspectionDatabase, facts: LineFacts, folder: Path, language: str = "English") -> ChatExport:
    """Write the corrections of a line that hold: the prompt that a model would get, and the answer as corrected.

    A line of the file is ``{"messages": […], "images": […]}``: messages of system, user and assistant, where pictures
    are ``{"type": "image", "image": "images/…"}``, relative to the folder. Of other corrections nothing is in a prompt.

    Args:
        db: the inspection database.
        facts: of the line.
        folder: is made where it is missing; files of the same names in it are replaced.
        language: in which the answers are.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    lines, lost = [], []
    for one in reversed(newest_corrections(db, facts.line, MOST_EXAMPLES)):
        record = prediction_by_id(db, facts.line, one.prediction_id)
        assert record is not None
        try:
            context = context_of(db, facts, record)
        except UnreadableImageError:
            lost.append(one.image.file)
            continue
        context = replace(context, data={name: value for name, value in context.data.items() if name != CORRECTED})
        lines.append(json.dumps(_example(context, one, folder, language), ensure_ascii=False))
    write_whole(folder / FILE, "".join(f"{line}\n" for line in lines).encode())
    return ChatExport(folder / FILE, len(lines), tuple(lost))


def _example(context: Context, correction: Correction, folder: Path, language: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    files = []
    for number, picture in enumerate(context.pictures, 1):
        name = f"{PICTURES}/{correction.correction_id}_{number}.jpg"
        picture.image.save(folder / name, format="JPEG", quality=95, subsampling=0)
        files.append(name)
        parts += [{"type": "text", "text": f"Picture {number}: {picture.caption}"}, {"type": "image", "image": name}]
    parts.append({"type": "text", "text": f"{context.data_text()}\n\n{context.asked_form()}"})
    return {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": system_text(language)}]},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": correction.answer.model_dump_json()}]},
        ],
        "images": files,
    }
