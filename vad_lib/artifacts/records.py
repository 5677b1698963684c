"""The written records of a tree: JSON files, the history of experiments, the logs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

HISTORY_FILE = "experimental_history.json"
PIPELINE_LOG, PROCESS_LOG = "pipeline.log", "process.log"
MOST_EXPERIMENTS = 1000
_LOGGERS = ("vad_lib", "vad_dagster")


def write_json(file: Path, content: Any) -> None:
    """Write JSON as people read it: indented, UTF-8, no NaN (None instead). Models, paths, dates, numpy are known."""
    file.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return a value in plain JSON types.

    Raises:
        TypeError: there is no obvious way to.
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def extend_history(last_tree: Path, log_folder: Path, entry: Mapping[str, Any]) -> None:
    """Write ``experimental_history.json``: what the last published tree says, and one entry more.

    A history that cannot be read is begun anew, because a broken old file must not stop a new result.

    Args:
        last_tree: the target, as published before; may not exist.
        log_folder: of the tree in the making.
        entry: 'date' is added.
    """
    try:
        past = json.loads((last_tree / "log" / HISTORY_FILE).read_text(encoding="utf-8"))
        past = past if isinstance(past, list) else []
    except (OSError, ValueError):
        past = []
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    write_json(log_folder / HISTORY_FILE, [*past, {"date": date, **entry}][-MOST_EXPERIMENTS:])


@contextmanager
def collect_logs(folder: Path) -> Iterator[None]:
    """Append what our modules log during the block to ``pipeline.log`` and ``process.log``, made where absent.

    ``pipeline.log`` holds the steps, INFO and above; ``process.log`` the same with process, thread and place in the
    code, and with whatever is logged below INFO if that level is switched on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handlers = []
    for name, level, form in (
        (PIPELINE_LOG, logging.INFO, "%(asctime)sZ %(levelname)s %(message)s"),
        (
            PROCESS_LOG,
            logging.NOTSET,
            "%(asctime)sZ %(levelname)s %(process)d %(threadName)s %(name)s:%(lineno)d %(message)s",
        ),
    ):
        handler = logging.FileHandler(folder / name, encoding="utf-8")
        handler.setLevel(level)
        formatter = logging.Formatter(form, datefmt="%Y-%m-%d %H:%M:%S")
        formatter.converter = _gmtime
        handler.setFormatter(formatter)
        handlers.append(handler)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


def copy_logs(source: Path | None, log_folder: Path) -> None:
    """Take over what was collected during the earlier steps, where there is something."""
    log_folder.mkdir(parents=True, exist_ok=True)
    for name in (PIPELINE_LOG, PROCESS_LOG):
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, log_folder / name)


def _gmtime(seconds: float | None) -> Any:
    import time

    return time.gmtime(seconds)
