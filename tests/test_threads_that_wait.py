"""How the threads of torch wait for one another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = "import os, {package}; print(os.environ['OMP_WAIT_POLICY'])"


@pytest.mark.parametrize("package", ["vad_lib", "vad_dagster"])
@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_they_sleep_unless_somebody_says_otherwise(package: str, given: dict[str, str], kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    command = [sys.executable, "-c", SHOW.format(package=package)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept


def test_torch_is_not_loaded_before_it_is_said() -> None:
    show = "import sys, vad_lib, vad_dagster; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
