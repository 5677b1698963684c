"""One home with a fork server of its own, shared by most tests, and further ones on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from warm_bench import Bench, settings


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Open instances in homes of their own; their servers end with the test."""
    benches: list[Bench] = []

    def open_one(**config: Any) -> Bench:
        home = tmp_path / f"home{len(benches)}"
        home.mkdir()
        (home / "dagster.yaml").write_text(settings(**config))
        benches.append(Bench(dg.DagsterInstance.from_config(str(home))))
        return benches[-1]

    yield open_one
    for bench in benches:
        bench.stop_server()
        bench.instance.dispose()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An instance with a server that most tests share."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    home = tmp_path_factory.mktemp("warm")
    (home / "dagster.yaml").write_text(settings())
    with dg.DagsterInstance.from_config(str(home)) as instance:
        bench = Bench(instance)
        yield bench
        bench.stop_server()
