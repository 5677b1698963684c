"""A PostgreSQL server for a test session: the one that ``VAD_TEST_POSTGRES_URL`` names, else one of its own.

The latter listens on a socket in a temporary folder only, and needs PostgreSQL's programs on this machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from vad_lib.inspection_db.engine import create_inspection_engine

ABSENT = "no PostgreSQL here: install it (initdb and pg_ctl), or set VAD_TEST_POSTGRES_URL to a server's address"


@contextmanager
def postgres_server() -> Iterator[URL]:
    """Yield the address of a server where databases may be made. Skips the test where there is none."""
    if given := os.environ.get("VAD_TEST_POSTGRES_URL"):
        yield make_url(given)
        return
    programs = _programs()
    if programs is None:
        pytest.skip(ABSENT)
    # The server refuses to run as root.
    owner = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="vad-pg-"))
    if owner:
        shutil.chown(folder, "nobody", "nogroup")

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            **owner,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}"

    data = folder / "data"
    try:
        run(programs / "initdb", "-D", data, "-U", "vad", "--auth=trust", "--encoding=UTF8", "--no-sync")
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=100"
        run(programs / "pg_ctl", "-D", data, "-l", folder / "server.log", "-w", "-t", "60", "-o", settings, "start")
        try:
            yield URL.create("postgresql+psycopg2", username="vad", database="postgres", query={"host": str(folder)})
        finally:
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: URL) -> Iterator[str]:
    """Yield the address of a new, empty database, which is dropped afterwards."""
    name = f"vad_test_{secrets.token_hex(6)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    address = server.set(database=name)
    try:
        yield address.render_as_string(hide_password=False)
    finally:
        # a session of tests makes more databases than a process of the system ever names
        create_inspection_engine(address.render_as_string(hide_password=False)).dispose()
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def new_inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a database of the kind that the fixture's parameter names."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/home/inspection.db"
    else:
        with new_database(request.getfixturevalue("postgres")) as url:
            yield url


def _programs() -> Path | None:
    """Return the folder of initdb and pg_ctl; Debian keeps them off the path."""
    found = [Path(program).parent for program in (shutil.which("initdb"), shutil.which("pg_ctl")) if program]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)
