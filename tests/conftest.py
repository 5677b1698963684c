"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy.engine import URL

from tests.postgres_server import new_inspection_url, postgres_server

# Nothing that a test starts may talk to the outside.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

# The readline library of the process that starts the workers of pytest-xdist leaves them its terminal's size, which
# rich would keep for good: what a test reads must not depend on who started it.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

# One worker of pytest-xdist on each core: threads of torch would only wait for those of the other workers.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, so that a red test is a change's own; `make test-random` looks for new ones. What it
# finds becomes an @example, or it would be forgotten.
hypothesis_settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis_settings.register_profile("random", print_blob=True, deadline=None)
hypothesis_settings.load_profile("fixed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real image sets and backbone weights: ``$VAD_TEST_DATA``, else ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("VAD_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no image sets at {folder}: set VAD_TEST_DATA to a folder that holds them")
    return folder


@pytest.fixture
def vad_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for one test."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("VAD_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A PostgreSQL server; skips where there is none."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an inspection database that nobody has opened yet, on each kind of database."""
    yield from new_inspection_url(request, tmp_path)
