"""A home with a small real line, and an instance that knows it."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from gravel_line import make_line

from vad_lib.lines import Home


@pytest.fixture(scope="module")
def gravel_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with one line, for the tests of one module; random weights, a tracking database of its own."""
    folder = tmp_path_factory.mktemp("gravel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_HOME", str(folder))
        patch.setenv("VAD_WEIGHTS", str(folder / "weights"))
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "VAD_INSPECTION_DB"):
            patch.delenv(name, raising=False)
        home = Home(folder)
        make_line(home)
        yield home


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        ephemeral.add_dynamic_partitions("line", ["gravel"])
        yield ephemeral
