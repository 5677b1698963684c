"""The command line as a user meets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vad_dagster.cli import app, plans
from vad_lib.detectors.anomalyclip.learnt_file import read_learnt
from vad_lib.encoders.fallback import NAME as FALLBACK
from vad_lib.lines import Home
from vad_lib.plan import read_plan
from vad_lib.synthetic import make_demo_line

Vad = Callable[..., Result]


@pytest.fixture
def vad(vad_home: Path) -> Iterator[Vad]:
    """Run ``vad`` with these words in an empty home."""
    before = dict(os.environ)
    os.environ.pop("DAGSTER_HOME", None)
    runner = CliRunner(env={"COLUMNS": "200"})
    yield lambda *words: runner.invoke(app, [str(word) for word in words])
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    return make_demo_line(folder, train_normal=6, valid_normal=2, valid_of_each_kind=1, side=64).train_folder


@pytest.fixture
def plan(images: Path, tmp_path: Path) -> Path:
    file = tmp_path / "plans" / "experimental_plan.yaml"
    file.parent.mkdir()
    file.write_text(
        f"""external_path:
    - load_train_data_path: {images}
user_parameters:
    - train_pipeline:
        - step: train
          args:
            - model_name: patchcore
          ui_args:
            - model_name
"""
    )
    return file


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    script = (
        "import sys, vad_dagster.cli; print([m for m in "
        "('torch', 'mlflow', 'dagster', 'pandas', 'anomalib', 'cv2', 'sqlalchemy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "line",
        "line add",
        "line list",
        "line remove",
        "train",
        "inspect",
        "plan explain",
        "weights",
        "dev",
        "demo",
        "model",
        "model extend",
    ],
)
def test_help_explains_every_command(vad: Vad, words: str) -> None:
    answer = vad(*words.split(), "--help")
    assert answer.exit_code == 0
    assert "Usage" in answer.output


def test_a_line_is_added_from_a_plan_that_keeps_its_base_folder(vad: Vad, plan: Path) -> None:
    answer = vad("line", "add", "bricks", "--plan", plan)
    assert answer.exit_code == 0, answer.output
    line = Home.from_environment().line("bricks")
    assert line.plan_file.read_bytes() == plan.read_bytes()
    assert line.base_folder == plan.parent
    assert line.inbox.is_dir()


def test_a_line_is_a_partition_as_soon_as_it_was_added(vad: Vad, plan: Path) -> None:
    from vad_dagster.cli.server import open_instance
    from vad_dagster.partitions import LINES_PARTITION

    vad("line", "add", "bricks", "--plan", plan)
    with open_instance() as instance:
        assert instance.get_dynamic_partitions(LINES_PARTITION) == ["bricks"]


def test_a_line_is_not_overwritten_unless_asked(vad: Vad, plan: Path) -> None:
    vad("line", "add", "bricks", "--plan", plan)
    before = Home.from_environment().line("bricks").plan_file.read_text()
    plan.write_text(before.replace("patchcore", "fastflow"))
    refused = vad("line", "add", "bricks", "--plan", plan)
    assert refused.exit_code == 1
    assert "--replace" in refused.output
    assert Home.from_environment().line("bricks").plan_file.read_text() == before
    assert vad("line", "add", "bricks", "--plan", plan, "--replace").exit_code == 0
    assert "fastflow" in Home.from_environment().line("bricks").plan_file.read_text()


def test_a_wrong_plan_changes_nothing_and_is_told_without_a_trace(vad: Vad, plan: Path) -> None:
    plan.write_text(plan.read_text().replace("model_name: patchcore", "model_nam: patchcore"))
    answer = vad("line", "add", "bricks", "--plan", plan)
    assert answer.exit_code == 1
    assert "model_name" in answer.output
    assert "Traceback" not in answer.output
    assert not Home.from_environment().line("bricks").folder.exists()


def test_a_plan_whose_images_are_missing_is_refused(vad: Vad, plan: Path) -> None:
    plan.write_text("external_path:\n    - load_train_data_path: ./nowhere/\n")
    answer = vad("line", "add", "bricks", "--plan", plan)
    assert answer.exit_code == 1
    assert "nowhere" in answer.output


def test_the_published_sample_becomes_a_line_unchanged(vad: Vad, shared_data: Path) -> None:
    answer = vad("line", "add", "digits", "--plan", shared_data / "vad_sample" / "experimental_plan.yaml")
    assert answer.exit_code == 0, answer.output
    assert "digits" in vad("line", "list").output


@pytest.mark.parametrize("name", ["../escape", "a b", "", "-x"])
def test_a_name_that_cannot_be_a_folder_is_refused(vad: Vad, plan: Path, name: str) -> None:
    answer = vad("line", "add", "--plan", plan, "--", name)
    assert answer.exit_code == 1
    assert "cannot be the name" in answer.output


def test_a_folder_of_images_becomes_a_line_with_table_and_plan(vad: Vad, images: Path, tmp_path: Path) -> None:
    folder = _copy_without_table(images, tmp_path / "own")
    answer = vad("line", "add", "own", "--images", folder)
    assert answer.exit_code == 0, answer.output
    plan = read_plan(Home.from_environment().line("own").plan_file)
    assert plan.train_data_folder() == folder
    assert (plan.readiness.ok_class, plan.train.model_name) == ("good", "patchcore")
    assert len((folder / "ground_truth.csv").read_text().splitlines()) == 1 + 8 + 5


@pytest.mark.parametrize("model", ["anomalyclip", "winclip"])
def test_a_detector_that_needs_no_images_becomes_a_line_without_any(vad: Vad, model: str) -> None:
    answer = vad("line", "add", "own", "--model", model)
    assert answer.exit_code == 0, answer.output
    assert "the first version waits for `vad model promote own`" in " ".join(answer.output.split())
    line = Home.from_environment().line("own")
    plan = read_plan(line.plan_file, line.base_folder)
    assert (plan.train.model_name, plan.train.percentile, plan.find_train_data()) == (model, 0.99, None)
    assert line.inbox.is_dir()
    assert "sample_data" not in vad("line", "list").output
    refused = vad("line", "add", "other", "--model", "patchcore")
    assert refused.exit_code == 1
    assert "patchcore learns from images" in refused.output
    assert "such as anomalyclip" in refused.output
    assert not Home.from_environment().line("other").folder.exists()


def test_folders_train_and_test_become_training_and_validation(vad: Vad, images: Path, tmp_path: Path) -> None:
    _copy_without_table(images, tmp_path / "set" / "train")
    (tmp_path / "set" / "train" / "box").rename(tmp_path / "set" / "box")
    (tmp_path / "set" / "test").mkdir()
    (tmp_path / "set" / "box").rename(tmp_path / "set" / "test" / "box")
    assert vad("line", "add", "own", "--images", tmp_path / "set").exit_code == 0
    plan = read_plan(Home.from_environment().line("own").plan_file)
    assert plan.train_data_folder() == tmp_path / "set"
    assert plan.readiness.train_validate_column == "train_val_split"
    table = (tmp_path / "set" / "ground_truth.csv").read_text()
    assert "./test/box/brick_box_000.png,box,valid" in table


def test_list_shows_lines_and_what_is_wrong_with_a_plan(vad: Vad, plan: Path) -> None:
    assert "no line yet" in vad("line", "list").output
    vad("line", "add", "bricks", "--plan", plan)
    vad("line", "add", "other", "--plan", plan)
    Home.from_environment().line("other").plan_file.write_text("user_parameters: 3\n")
    output = vad("line", "list").output
    assert "13" in output, "the images of the training folder are counted"
    assert "other:" in output


def test_a_removed_line_is_moved_aside_and_no_partition_any_more(vad: Vad, plan: Path) -> None:
    from vad_dagster.cli.server import open_instance
    from vad_dagster.partitions import LINES_PARTITION

    vad("line", "add", "bricks", "--plan", plan)
    assert vad("line", "remove", "bricks", "--yes").exit_code == 0
    home = Home.from_environment()
    assert home.lines() == []
    assert [folder.name[:7] for folder in (home.root / "removed").iterdir()] == ["bricks-"]
    with open_instance() as instance:
        assert instance.get_dynamic_partitions(LINES_PARTITION) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "nothing"], "no line 'nothing'"),
        (["inspect", "nothing"], "no line 'nothing'"),
        (["plan", "explain", "nothing"], "no line 'nothing'"),
        (["line", "add", "x"], "either --plan FILE or --images FOLDER"),
        (["weights", "add", "/nowhere.pth", "--name", "resnet18"], "nowhere.pth"),
    ],
)
def test_mistakes_are_told_in_one_message(vad: Vad, words: list[str], told: str) -> None:
    answer = vad(*words)
    assert answer.exit_code == 1
    assert told in answer.output
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("setting", "told"), [("model_name", "ARGUMENT=VALUE"), ("model_nam=fastflow", "model_name"), ("x=[", "cannot be")]
)
def test_a_wrong_setting_is_refused_before_anything_runs(vad: Vad, plan: Path, setting: str, told: str) -> None:
    vad("line", "add", "bricks", "--plan", plan)
    answer = vad("train", "bricks", "--set", setting)
    assert answer.exit_code == 1
    assert told in answer.output


@pytest.mark.spec("V13.07")
def test_explain_prints_every_argument_with_its_value_and_where_it_came_from(vad: Vad, plan: Path) -> None:
    vad("line", "add", "bricks", "--plan", plan)
    output = vad("plan", "explain", "bricks").output
    for name in ("validation_split_rate", "fastflow_flow_steps", "inference_threshold", "retrain_interval_hours"):
        assert name in output
    changed = vad("plan", "explain", "bricks", "--changed", "--step", "train").output
    assert "patchcore" in changed
    assert "operator may change" in " ".join(changed.split())
    assert "percentile" not in changed


def test_explain_shows_values_whole_in_a_narrow_terminal(vad: Vad, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = (
        "/srv/cameras of hall 2/station 4/bottles/with a very long path [left]/that fits into no line of a terminal"
    )
    text = plan.read_text(encoding="utf-8")
    plan.write_text(f"{text}\noperation:\n    watch_folder: '{folder}'\n", encoding="utf-8")
    vad("line", "add", "bricks", "--plan", plan)
    monkeypatch.setattr(plans.console, "_width", 80)  # the property would stay set
    lines = vad("plan", "explain", "bricks", "--step", "operation").output.splitlines()
    assert f"watch_folder: {folder}" in lines
    assert all(len(line) <= 80 for line in lines if line.startswith("    "))


def _copy_without_table(images: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(images, target, ignore=shutil.ignore_patterns("*.csv"))
    return target


@pytest.mark.parametrize(
    ("job", "given", "told"),
    [
        ("train", "model_nmae=patchcore", "Did you mean model_name?"),
        ("train", "model_name=pathcore", "Did you mean patchcore?"),
        ("train", "batch_size=8", "An operator may not change it"),
        ("train", "experiment_seed=many", "a whole number"),
        ("inspect", "", "vad train bricks"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_anything_starts(
    vad: Vad, plan: Path, monkeypatch: pytest.MonkeyPatch, job: str, given: str, told: str
) -> None:
    plan.write_text(plan.read_text().replace("- model_name\n", "- model_name\n            - experiment_seed\n"))
    vad("line", "add", "bricks", "--plan", plan)
    monkeypatch.setattr("vad_dagster.cli.line_run.run_job", lambda *_: pytest.fail("a run was started"))
    answer = vad(job, "bricks", *(["--set", given] if given else []))
    assert answer.exit_code == 1, answer.output
    assert told in answer.output
    if job == "train":
        assert vad("train", "bricks", "--dry-run", "--set", given).output == answer.output


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("accelerator: gpu", "this machine has no GPU"),
        ("model_parameters:\n                patchcore_layers: [layer2, layer9]", "layers of wide_resnet50_2 are act1"),
    ],
)
def test_a_plan_that_cannot_be_used_here_is_refused_before_anything_starts(
    vad: Vad, plan: Path, monkeypatch: pytest.MonkeyPatch, argument: str, told: str
) -> None:
    plan.write_text(
        plan.read_text().replace("- model_name: patchcore\n", f"- model_name: patchcore\n              {argument}\n")
    )
    vad("line", "add", "bricks", "--plan", plan)
    monkeypatch.setattr("vad_dagster.cli.line_run.run_job", lambda *_: pytest.fail("a run was started"))
    monkeypatch.setattr("vad_lib.machine.GPU_DEVICES", ())
    answer = vad("train", "bricks")
    assert answer.exit_code == 1, answer.output
    assert told in answer.output


@pytest.mark.spec("P3.03")
def test_prompts_are_learnt_from_a_folder_with_masks_and_never_from_images_of_the_line(
    vad: Vad, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path / "weights"))
    own = _copy_without_table(images, tmp_path / "own")
    assert vad("line", "add", "own", "--images", own).exit_code == 0
    other = tmp_path / "other"
    for kind, label in (("train/good", 0), ("test/hole", 9)):
        (other / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (64, 64), 40 * number + label).save(other / kind / f"{number}.png")
    learn = (
        "weights",
        "learn",
        "ours",
        other,
        "--detector",
        "anomalyclip",
        "--encoder",
        FALLBACK,
        "--kind",
        "vectors",
        "--level",
        2,
    )
    learn = (*learn, "--size", 64, "--epochs", 1, "--line", "own")
    refused = vad(*learn)
    assert refused.exit_code == 1
    assert "holds no masks" in refused.output
    (other / "ground_truth" / "hole").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (64, 64), 255).save(other / "ground_truth" / "hole" / f"{number}_mask.png")
    answer = vad(*learn)
    assert answer.exit_code == 0, answer.output
    assert "learnt from 6 images" in answer.output
    learnt = read_learnt("ours", Home.from_environment().weights_folder)
    assert (learnt.kind, len(learnt.images_sha256)) == ("vectors", 6)
    shutil.copy(next((own / "good").iterdir()), other / "train" / "good" / "0.png")
    assert "belong to the line that will be inspected" in vad(*learn).output
    assert "is no name" in vad("weights", "learn", "../ours", *learn[3:]).output
