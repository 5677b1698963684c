"""What is shown of a run while it goes, and said at its end."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from vad_dagster.cli.following import Follower
from vad_lib.errors import InputError


@dg.asset
def first() -> None:
    raise InputError("The table has no column 'label'.")


@dg.asset(deps=[first])
def second() -> None:
    """Never made."""


@dg.asset(deps=[second])
def third() -> None:
    """Never made."""


def test_a_failure_is_told_once_with_its_step_and_a_page_and_not_the_steps_that_were_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_UI_URL", "http://127.0.0.1:3210")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([first, second, third], instance=instance, raise_on_error=False)
        logs = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
        assert "Dependencies for step second" in logs, "Dagster does not say it any more: nothing is to be held back"
        capsys.readouterr()  # of Dagster's own logger
        with Follower("train bricks") as follower:
            follower.started(result.run_id)
            outcome = follower.outcome(instance)
    shown = capsys.readouterr().err + outcome.why("bricks", "trained")
    assert "Dependencies" not in shown
    assert "second" not in shown
    assert outcome.why("bricks", "trained") == (
        "bricks was not trained. The step first failed. The table has no column 'label'.\n"
        f"All of it is at http://127.0.0.1:3210/runs/{result.run_id}, while `vad dev` runs."
    )


@dg.asset(
    check_specs=[
        dg.AssetCheckSpec("few", asset="checked"),
        dg.AssetCheckSpec("small", asset="checked"),
        dg.AssetCheckSpec("none", asset="checked", blocking=True),
    ]
)
def checked() -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    yield dg.AssetCheckResult(passed=False, check_name="few", description="Too few.")
    yield dg.AssetCheckResult(passed=False, check_name="small", severity=dg.AssetCheckSeverity.WARN)
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="none")])


def test_the_word_for_a_check_says_what_follows_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([checked], instance=instance, raise_on_error=False)
        capsys.readouterr()
        with Follower("train bricks") as follower:
            follower.started(result.run_id)
            follower.outcome(instance)
    shown = capsys.readouterr().err
    assert "not met, and goes on  checked: few: Too few." in shown
    assert "warning  checked: small" in shown
    assert "stopped  checked: none" in shown
    assert "error  " not in shown
