"""A home with a small real line, and an instance that knows it."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from gravel_line import make_line, own_home

from tests.words.words_rig import home_db, stub
from vad_lib.lines import Home

__all__ = ["gravel_home", "home_db", "instance", "stub"]


@pytest.fixture(scope="module")
def gravel_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with one line, for the tests of one module; random weights, a tracking database of its own."""
    with own_home(tmp_path_factory.mktemp("gravel")) as home:
        make_line(home)
        yield home


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        ephemeral.add_dynamic_partitions("line", ["gravel"])
        yield ephemeral
