"""A value that is one JSON file in a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

RECORD_FILE = "record.json"


class JsonRecord(BaseModel):
    """Write and read the value as ``record.json`` of a folder."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_FILE).write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls.model_validate_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
