"""Lines with folders, a source that tests turn the knobs of, a running service, and a receiver of its notifications."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "inspection"))

from brightness_model import BrightnessModel

from tests.postgres_server import new_inspection_url
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.serving import InferenceService, ServiceLimits, Sinks, WatchedLine


@dataclass
class RigSource:
    """Lines and models as a test says."""

    home: Home
    lines: dict[str, WatchedLine] = field(default_factory=dict)
    make: Callable[[str, str], BrightnessModel] = lambda line, version: BrightnessModel()
    loaded: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, version: str = "1", **more: object) -> WatchedLine:
        line = self.home.line(name)
        line.inbox.mkdir(parents=True, exist_ok=True)
        self.lines = {**self.lines, name: WatchedLine(line, line.inbox, version, **more)}  # type: ignore[arg-type]
        return self.lines[name]

    def change(self, name: str, **values: object) -> None:
        self.lines = {**self.lines, name: replace(self.lines[name], **values)}  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        self.lines = {other: line for other, line in self.lines.items() if other != name}

    def watched(self) -> dict[str, WatchedLine]:
        return self.lines

    def load(self, line: str, model_version: str) -> BrightnessModel:
        self.loaded.append((line, model_version))
        return self.make(line, model_version)


@pytest.fixture
def source(tmp_path: Path) -> RigSource:
    made = RigSource(Home(tmp_path / "home"))
    made.add("bottles")
    return made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def inspection_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from new_inspection_url(request, tmp_path)


@pytest.fixture
def db(inspection_url: str, source: RigSource, monkeypatch: pytest.MonkeyPatch) -> InspectionDatabase:
    """On each kind of database; processes that a test starts find the same one."""
    monkeypatch.setenv("VAD_INSPECTION_DB", inspection_url)
    return InspectionDatabase(inspection_url)


Starter = Callable[..., InferenceService]


@pytest.fixture
def start(db: InspectionDatabase, source: RigSource) -> Iterator[Starter]:
    services: list[InferenceService] = []

    def begin(*, wait: bool = True, **limits: object) -> InferenceService:
        service = InferenceService(db, source, ServiceLimits(**{"follow_seconds": 0.1, **limits}))  # type: ignore[arg-type]
        services.append(service)
        service.start()
        if wait:
            until(lambda: not service.not_ready())
        return service

    yield begin
    for service in services:
        service.stop()


def until(true: Callable[[], object], seconds: float = 30.0, seen: Callable[[], object] = lambda: "nothing") -> None:
    """Wait until something is true; ``seen`` says what was seen instead where it does not come about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it does not come about within {seconds} s; seen: {seen()}"
        time.sleep(0.01)


def states(db: InspectionDatabase, line: str = "bottles") -> dict[str, str]:
    """Return the state of the newest version of each file, or the rule by which it was refused."""
    files = db.incoming_files(line)
    return dict(zip(files["path"], files["rule"].where(files["state"] == "refused", files["state"]), strict=True))


class Receiver:
    """A web server that answers as it is told and remembers what it was told."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.attempts = 0
        self.status = 200
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None
        """How the request of a line named ``slow`` is answered instead."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.attempts += 1
                if receiver.answer is not None and self.path == "/slow":
                    receiver.answer(self)
                    return
                status = receiver.status
                if status == 200:
                    receiver.got.append(json.loads(body))
                    receiver.headers.append(dict(self.headers))
                    receiver.bodies.append(body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/{{line}}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def paths(self) -> list[str]:
        return sorted(str(each["image_path"]) for each in self.got)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


__all__ = ["Receiver", "RigSource", "Sinks", "Starter", "states", "until"]
