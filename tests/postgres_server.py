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

from vad_lib.inspection_db.engine import _of_servers

ABSENT = "no PostgreSQL here: install it (initdb and pg_ctl), or set VAD_TEST_POSTGRES_URL to a server's address"


class OwnServer:
    """A server in a temporary folder, which can be stopped and started again."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # The server refuses to run as root.
        self._owner = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="vad-pg-"))
        self.url = URL.create(
            "postgresql+psycopg2", username="vad", database="postgres", query={"host": str(self.folder)}
        )
        if self._owner:
            shutil.chown(self.folder, "nobody", "nogroup")
        try:
            self._run("initdb", "-U", "vad", "--auth=trust", "--encoding=UTF8", "--no-sync")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        settings += " -c max_connections=100"
        self._run("pg_ctl", "-l", self.folder / "server.log", "-w", "-t", "60", "-o", settings, "start")

    def stop(self) -> None:
        """Stop it as if it had crashed: what was not committed, or not durably, is gone."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it and remove all that it has written."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str | Path) -> None:
        done = subprocess.run(
            [str(self._programs / program), "-D", str(self.folder / "data"), *map(str, words)],
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            **self._owner,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"


@contextmanager
def postgres_server() -> Iterator[URL]:
    """Yield the address of a server where databases may be made. Skips the test where there is none."""
    if given := os.environ.get("VAD_TEST_POSTGRES_URL"):
        yield make_url(given)
        return
    programs = postgres_programs()
    if programs is None:
        pytest.skip(ABSENT)
    server = OwnServer(programs)
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


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
        if opened := _of_servers.pop(address, None):
            opened.dispose()
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def new_inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a database of the kind that the fixture's parameter names."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/home/inspection.db"
    else:
        with new_database(request.getfixturevalue("postgres")) as url:
            yield url


def postgres_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl; Debian keeps them off the path."""
    found = [Path(program).parent for program in (shutil.which("initdb"), shutil.which("pg_ctl")) if program]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)
