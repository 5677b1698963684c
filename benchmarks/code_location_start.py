"""How long `dagster dev` takes until its code location is loaded: this project beside one with nothing in it.

Both are started in turn, the same number of times, from their folder and with the same settings, on an instance that
`dagster dev` makes and removes; measured is the time from the start of the process to the first answer of GraphQL that
shows the location as loaded. Lines that say "warning" are printed: Dagster's own are those of the empty project too.

    python -m benchmarks.code_location_start [ROUNDS]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from vad_dagster.cli.guard import stop

REPOSITORY = Path(__file__).resolve().parent.parent
QUERY = "{workspaceOrError{...on Workspace{locationEntries{name loadStatus locationOrLoadError{__typename}}}}}"
MOST_SECONDS = 180.0


def seconds_to_load(project: Path) -> tuple[float, list[str]]:
    """Start `dagster dev` in a folder; return seconds until its location is loaded, and what it warned of."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="vad_start_") as home, (Path(home) / "log").open("w+b") as log:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
            "VAD_HOME": home,
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [str(Path(sys.executable).with_name("dagster")), "dev", "--port", str(port)]
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not _loaded(port):
                if process.poll() is not None or time.monotonic() - began > MOST_SECONDS:
                    raise SystemExit((Path(home) / "log").read_text())
                time.sleep(0.05)
            seconds = time.monotonic() - began
            time.sleep(2)
        finally:
            stop([process], seconds=30)
        lines = (Path(home) / "log").read_text(errors="replace").splitlines()
    return seconds, [line for line in lines if re.search("warn", line, re.IGNORECASE)]


def _loaded(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": QUERY}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            entries = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]
    except (OSError, KeyError, ValueError):
        return False
    if not entries or entries[0]["loadStatus"] != "LOADED":
        return False
    if entries[0]["locationOrLoadError"]["__typename"] != "RepositoryLocation":
        raise SystemExit(f"{entries[0]['name']} does not load")
    return True


def main(rounds: int = 3) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="vad_empty_") as folder:
        (Path(folder) / "empty.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
        (Path(folder) / "pyproject.toml").write_text('[tool.dagster]\nmodule_name = "empty"\n')
        shutil.copyfile(REPOSITORY / "dagster.yaml", Path(folder) / "dagster.yaml")
        took: dict[str, list[float]] = {"empty": [], "vad": []}
        for number in range(rounds):
            for name, project in (("empty", Path(folder)), ("vad", REPOSITORY)):
                seconds, warned = seconds_to_load(project)
                took[name].append(seconds)
                print(f"round {number + 1}: {name} {seconds:.2f} s", *warned, sep="\n  ")
    least = {name: min(values) for name, values in took.items()}
    middle = {name: statistics.median(values) for name, values in took.items()}
    for name in took:
        print(f"{name:5}  least {least[name]:.2f} s, median {middle[name]:.2f} s")
    print(f"more   least {least['vad'] - least['empty']:.2f} s, median {middle['vad'] - middle['empty']:.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
