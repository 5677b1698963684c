"""What is prepared before Dagster and MLflow start."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from vad_dagster.home import prepare_home, prepare_tracking, tracking_file, tracking_uri, webserver_command
from vad_lib.lines import Home


@pytest.fixture
def prepared(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    environment = prepare_home()
    monkeypatch.setenv("DAGSTER_HOME", environment["DAGSTER_HOME"])
    return environment


def test_children_get_the_home_and_no_telemetry(prepared: dict[str, str], vad_home: Path) -> None:
    assert prepared["DAGSTER_HOME"] == str(vad_home / "dagster")
    assert prepared["MLFLOW_TRACKING_URI"] == f"sqlite:///{vad_home / 'mlflow' / 'mlflow.db'}"
    assert prepared["DAGSTER_DISABLE_TELEMETRY"]
    assert prepared["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_file_of_the_tracking_database_is_told_and_none_for_a_server(
    vad_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_file() == vad_home / "mlflow" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/runs.db")
    assert tracking_file() == Path("/elsewhere/runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_file() is None


def test_settings_of_ones_own_stay_and_installed_ones_are_renewed(prepared: dict[str, str], vad_home: Path) -> None:
    file = vad_home / "dagster" / "dagster.yaml"
    current = file.read_text()
    file.write_text(current + "\n# older\n")
    prepare_home()
    assert file.read_text() == current
    file.write_text("telemetry:\n  enabled: false\n")
    prepare_home()
    assert file.read_text() == "telemetry:\n  enabled: false\n"


def test_the_instance_takes_all_settings(prepared: dict[str, str], recwarn: pytest.WarningsRecorder) -> None:
    with dg.DagsterInstance.get() as instance:
        assert instance.telemetry_enabled is False
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 6 * 3600
        assert instance.run_retries_enabled
        assert type(instance.run_launcher) is dg.DefaultRunLauncher
        assert type(instance.run_coordinator) is dg.QueuedRunCoordinator
        config = instance.get_concurrency_config()
        assert config.pool_config.default_pool_limit == 1
        assert {limit["key"] for limit in config.run_queue_config.tag_concurrency_limits} == {
            "vad/train_line",
            "vad/inspect_line",
        }
    assert not [warning for warning in recwarn if "dagster" in str(warning.filename)]


def test_the_database_of_mlflow_survives_processes_that_come_at_once(prepared: dict[str, str], vad_home: Path) -> None:
    code = "from vad_dagster.home import prepare_tracking; prepare_tracking()"
    running = [subprocess.Popen([sys.executable, "-c", code], env=prepared) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert (vad_home / "mlflow" / "mlflow.db").is_file()
    before = time.process_time()
    assert prepare_tracking() == tracking_uri(Home(vad_home))
    assert time.process_time() - before < 1


def test_a_server_by_url_is_left_as_it_is(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.invalid:5000")
    assert prepare_tracking() == "http://tracking.invalid:5000"
    assert not (vad_home / "mlflow").exists()


def test_servers_listen_on_this_machine_only(prepared: dict[str, str], vad_home: Path) -> None:
    command = webserver_command()
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_one_training_at_a_time_on_a_fresh_instance(prepared: dict[str, str]) -> None:
    """What a run asks before it starts a step of a pool, on an instance where nobody has set a limit by hand."""
    from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
    from dagster._core.test_utils import create_run_for_test

    with dg.DagsterInstance.get() as instance:
        first, second = (create_run_for_test(instance, job_name="train_line") for _ in range(2))
        with InstanceConcurrencyContext(instance, first) as one, InstanceConcurrencyContext(instance, second) as two:
            assert one.claim("training", "trained_model")
            assert not two.claim("training", "trained_model")
            assert two.has_pending_claims()
            one.free_step("trained_model")
            instance.event_log_storage.free_concurrency_slots_for_run(first.run_id)
            assert instance.event_log_storage.get_concurrency_info("training").slot_count == 1
