"""An inspection line is one camera's view of one product, and one folder under ``$VAD_HOME/lines``.

This module knows where everything of a line lies. It opens nothing but the small ``line.yaml``, which remembers where
the plan came from, so that the relative paths of a plan keep their meaning after it was copied into the line's folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from vad_lib.atomic_files import write_whole
from vad_lib.errors import InputError

PLAN_FILE = "experimental_plan.yaml"
LINE_FILE = "line.yaml"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def vad_home() -> Path:
    """Return the folder that holds everything the system writes: ``$VAD_HOME``, or ``var`` beside the code."""
    from vad_lib.settings import settings

    return settings().home or Path(__file__).resolve().parent.parent / "var"


@dataclass(frozen=True)
class Home:
    """The layout under ``$VAD_HOME``."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        return cls(vad_home())

    @property
    def lines_folder(self) -> Path:
        return self.root / "lines"

    @property
    def dagster_folder(self) -> Path:
        return self.root / "dagster"

    @property
    def mlflow_folder(self) -> Path:
        return self.root / "mlflow"

    @property
    def weights_folder(self) -> Path:
        """``$VAD_WEIGHTS`` if set, else ``weights`` under the home."""
        from vad_lib.settings import settings

        return settings().weights or self.root / "weights"

    @property
    def feature_cache_folder(self) -> Path:
        """Features of training images by content, shared by all lines; may be removed at any time."""
        return self.root / "cache" / "features"

    @property
    def inspection_db_url(self) -> str:
        """SQLAlchemy URL of the inspection database: ``$VAD_INSPECTION_DB`` if set, else SQLite under the home."""
        from vad_lib.settings import settings

        return settings().inspection_db or f"sqlite:///{self.root / 'inspection.db'}"

    def line(self, name: str) -> Line:
        """Return the line of that name (which need not exist yet).

        Raises:
            InputError: the name is not letters, digits, ``-`` and ``_``, starting with a letter or digit, at most 63.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise InputError(
                f"{name!r} cannot be the name of a line: use letters, digits, '-' and '_', "
                "beginning with a letter or digit, at most 63 characters."
            )
        return Line(name, self.lines_folder / name)

    def lines(self) -> list[Line]:
        """Return the lines that have a plan, sorted by name. Folders whose names cannot be lines are passed over."""
        if not self.lines_folder.is_dir():
            return []
        return [
            Line(folder.name, folder)
            for folder in sorted(self.lines_folder.iterdir())
            if NAME_PATTERN.fullmatch(folder.name) and (folder / PLAN_FILE).is_file()
        ]


@dataclass(frozen=True)
class Line:
    """The layout of one line's folder."""

    name: str
    folder: Path

    @property
    def plan_file(self) -> Path:
        return self.folder / PLAN_FILE

    @property
    def base_folder(self) -> Path:
        """Where relative paths of the plan start: the folder it was copied from, else the line's own.

        Raises:
            InputError: ``line.yaml`` was damaged.
        """
        file = self.folder / LINE_FILE
        if not file.is_file():
            return self.folder
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            return Path(content.get("base_folder") or self.folder)
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
            raise InputError(
                f"{file} cannot be read ({error}). It needs one line, 'base_folder: <the folder where relative paths "
                "of the plan start>'; without the file they start in the folder of the line."
            ) from error

    def remember_base_folder(self, base_folder: Path) -> None:
        """Write ``line.yaml``."""
        text = "# Relative paths of experimental_plan.yaml start from this folder.\n" + yaml.safe_dump(
            {"base_folder": str(base_folder.resolve())}, allow_unicode=True
        )
        write_whole(self.folder / LINE_FILE, text.encode())

    @property
    def inbox(self) -> Path:
        """Where images land by default; the plan may name another folder."""
        return self.folder / "inbox"

    @property
    def quarantine(self) -> Path:
        """Copies of files that were refused."""
        return self.folder / "quarantine"

    @property
    def labelled_images(self) -> Path:
        """Copies of the images that people judged, each under the name of its content."""
        return self.folder / "labelled_images"

    @property
    def train_artifacts(self) -> Path:
        """Default place of the train tree; the plan may name another."""
        return self.folder / "train_artifacts"

    @property
    def inference_artifacts(self) -> Path:
        """Default place of the inference tree; the plan may name another."""
        return self.folder / "inference_artifacts"

    @property
    def training_work(self) -> Path:
        """What a training keeps to go on after a kill; gone when it has ended."""
        return self.folder / "training_work"

    @property
    def comparison(self) -> Path:
        """What the last comparison of detectors found, and what it keeps to go on after a kill."""
        return self.folder / "comparison"

    @property
    def store(self) -> Path:
        """Where the values of the assets lie (written by the IO manager)."""
        return self.folder / "store"

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """What the line writes itself: never inspected, even where the plan names a watch folder that holds it."""
        return (
            self.quarantine,
            self.labelled_images,
            self.train_artifacts,
            self.inference_artifacts,
            self.training_work,
            self.comparison,
            self.store,
            *(self.folder / name for name in ("maps", "logs", "results")),
        )
