"""The asset of descriptions: off by default, bounded where it is on, and no failure where the endpoint fails."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from tests.words.stub_endpoint import Stub, Turn
from vad_dagster.assets.words import finding_descriptions
from vad_dagster.resources import MLflowTracking
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.words.describing import search_descriptions


def materialize(**config: Any) -> list[dict[str, Any]]:
    """Return the metadata of what was materialized."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("line", ["bottles"])
        result = dg.materialize(
            [finding_descriptions, dg.AssetSpec("inference_outputs")],
            instance=instance,
            partition_key="bottles",
            resources={"tracking": MLflowTracking()},
            run_config={"ops": {"finding_descriptions": {"config": config}}},
        )
        assert result.success
        made = result.asset_materializations_for_node("finding_descriptions")
        return [{name: value.value for name, value in one.metadata.items()} for one in made]


def test_without_an_endpoint_nothing_is_done(home_db: InspectionDatabase) -> None:
    assert materialize() == []
    assert search_descriptions(home_db, "bottles") == []


@pytest.mark.spec("P7.10")
def test_the_newest_findings_are_described_once_with_their_cost(
    home_db: InspectionDatabase,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAD_VLM_URL", stub.url)
    monkeypatch.setenv("VAD_VLM_MODEL", "stub")
    (metadata,) = materialize()
    told = {name: metadata[name] for name in ("described", "disagreements", "share structured", "tokens", "waiting")}
    assert told == {"described": 1, "disagreements": 0, "share structured": 1.0, "tokens": 120, "waiting": 0}
    (again,) = materialize(only_ng=False)
    assert again["described"] == 1, "only the image that has no description yet"
    stub.script = lambda body: Turn(status=401)
    (nothing,) = materialize()
    assert nothing["described"] == 0
