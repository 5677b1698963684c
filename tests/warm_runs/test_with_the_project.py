"""The project's own training runs in a process forked from one that has preloaded everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository
from PIL import Image
from warm_bench import Bench, settings

from vad_dagster.home import MODULE, prepare_home, prepare_tracking
from vad_dagster.partitions import LINES_PARTITION
from vad_dagster.warm_runs.launcher import PROCESS_TAG
from vad_dagster.warm_runs.preload import DEFAULT_PRELOAD
from vad_lib.lines import Home
from vad_lib.plan import write_plan_for_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture
def whole(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A home whose server preloads all that the project uses."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
    for name, value in prepare_home().items():
        monkeypatch.setenv(name, value)
    prepare_tracking()
    folder = Path(os.environ["DAGSTER_HOME"])
    (folder / "dagster.yaml").write_text(settings(preload=list(DEFAULT_PRELOAD), start_seconds=300.0))
    with dg.DagsterInstance.get() as instance:
        bench = Bench(instance)
        yield bench
        bench.stop_server()


def _make_line(name: str) -> None:
    """Tiles of photographed gravel, some with a white bar."""
    from skimage.data import gravel

    picture, line = gravel(), Home.from_environment().line(name)
    table = ["image_path,label"]
    for number in range(24):
        row, column = divmod(number, 6)
        tile = picture[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64].copy()
        kind = "good" if number < 18 else "scratch"
        if kind == "scratch":
            tile[20:30, 8:56] = 255
        file = line.folder / "train" / kind / f"tile{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).convert("RGB").save(file)
        table.append(f"./{kind}/{file.name},{kind}")
    (line.folder / "train" / "train.csv").write_text("\n".join(table) + "\n")
    write_plan_for_folder(
        line.folder,
        line.plan_file,
        ok_class="good",
        model_name="patchcore",
        patchcore_backbone="resnet18",
        img_size=(64, 64),
    )


def test_a_training_works_in_a_forked_process_with_its_threads(whole: Bench) -> None:
    multiplied = whole.launch("multiply_job")
    assert whole.finished(multiplied).status == dg.DagsterRunStatus.SUCCESS
    assert "multiplied 9241600 600 cuda=False" in whole.messages(multiplied)
    status = whole.status()
    assert status["threads"] == 1
    assert status["missing"] == []

    _make_line("gravel")
    whole.instance.add_dynamic_partitions(LINES_PARTITION, ["gravel"])
    recon = ReconstructableRepository.for_module(MODULE, "defs", working_directory=os.getcwd())
    job = recon.get_reconstructable_job("train_line")
    run = whole.instance.create_run_for_job(
        job.get_definition(), tags={"dagster/partition": "gravel"}, job_code_origin=job.get_python_origin()
    )
    whole.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]
    trained = whole.finished(run.run_id, 300)
    assert trained.status == dg.DagsterRunStatus.SUCCESS, whole.messages(run.run_id)[-8:]
    assert PROCESS_TAG in trained.tags
    assert whole.status()["pid"] == status["pid"]
