"""Where the folders are that a plan names."""

from __future__ import annotations

from pathlib import Path

import pytest

from vad_dagster.cli.lines import add_line
from vad_lib.errors import InputError, PlanError
from vad_lib.lines import Home
from vad_lib.plan import ExperimentalPlan, parse_plan, read_plan
from vad_lib.plan.arguments import TrainArguments, model_parameters


def plan_with(base: Path, **paths: str) -> ExperimentalPlan:
    keys = "".join(f"- {key}: {value}\n" for key, value in paths.items())
    return parse_plan(f"external_path:\n{keys}", base_folder=base)


@pytest.mark.parametrize(
    ("written", "real"),
    [
        ("./data/train/", "project/data/train"),
        ("data/train", "project/data/train"),
        (".\\data\\train", "project/data/train"),
        ("./project/data/train", "project/data/train"),  # written from the folder above
        ("./solution/data/train", "project/data/train"),  # the project is the solution folder
        ("./solution/data/train", "project/solution/data/train"),
        ("../elsewhere", "elsewhere"),
    ],
)
@pytest.mark.spec("V13.01")
def test_a_relative_folder_is_found(tmp_path: Path, written: str, real: str) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / real).mkdir(parents=True, exist_ok=True)
    plan = plan_with(tmp_path / "project", load_train_data_path=written)
    assert plan.train_data_folder() == (tmp_path / real).resolve()


def test_an_absolute_folder_and_another_base_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    plan = plan_with(Path("nowhere"), load_train_data_path=str(tmp_path / "a"), load_inference_data_path="sub")
    assert plan.train_data_folder() == (tmp_path / "a").resolve()
    assert plan.inference_data_folder(tmp_path / "a") == (tmp_path / "a" / "sub").resolve()


@pytest.mark.spec("V13.03")
def test_the_default_inference_folder_is_test_and_else_inference(tmp_path: Path) -> None:
    plan = plan_with(tmp_path)
    (tmp_path / "sample_data" / "train").mkdir(parents=True)
    assert plan.train_data_folder().name == "train"
    with pytest.raises(InputError):
        plan.inference_data_folder()
    (tmp_path / "sample_data" / "inference").mkdir()
    assert plan.inference_data_folder().name == "inference"
    (tmp_path / "sample_data" / "test").mkdir()
    assert plan.inference_data_folder().name == "test"


@pytest.mark.spec("V13.03")
def test_a_given_folder_is_never_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "sample_data" / "inference").mkdir(parents=True)
    with pytest.raises(InputError):
        plan_with(tmp_path, load_inference_data_path="./sample_data/test").inference_data_folder()


def test_a_folder_that_is_nowhere_is_named_with_all_places_that_were_tried(tmp_path: Path) -> None:
    base = tmp_path / "project"
    with pytest.raises(InputError) as caught:
        plan_with(base, load_train_data_path="./solution/data").train_data_folder()
    for tried in (base / "solution" / "data", tmp_path / "solution" / "data", base / "data"):
        assert str(tried) in str(caught.value)
    assert "load_train_data_path" in str(caught.value)


@pytest.mark.spec("V13.02")
def test_a_file_in_place_of_a_folder_is_refused_even_without_a_telling_name(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("image_path,label\n")
    file = tmp_path / "experimental_plan.yaml"
    file.write_text("external_path:\n- load_train_data_path: table\n")
    with pytest.raises(PlanError, match=r"line 2  external_path > load_train_data_path\s+'table' is a file"):
        read_plan(file)
    file.write_text("external_path:\n- load_train_data_path: late\n")
    plan = read_plan(file)
    (tmp_path / "late").write_text("came later")
    with pytest.raises(PlanError, match="give the folder that holds it"):
        plan.train_data_folder()


def test_a_folder_whose_name_looks_like_a_table_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "export.csv").mkdir()
    assert plan_with(tmp_path, load_train_data_path="export.csv").train_data_folder().name == "export.csv"


@pytest.mark.spec("V12.07")
def test_empty_save_paths_mean_the_defaults(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, save_train_artifacts_path="", save_inference_artifacts_path="out/inference")
    assert plan.train_artifacts_folder(tmp_path / "train_artifacts") == tmp_path / "train_artifacts"
    assert plan.inference_artifacts_folder(tmp_path / "x") == tmp_path / "out" / "inference"
    assert plan.watch_folder(tmp_path / "inbox") == tmp_path / "inbox"


def test_a_path_that_no_system_has_is_a_fault(tmp_path: Path) -> None:
    for path in ("x" * 5000, '"a\\0b"'):
        with pytest.raises(PlanError, match="cannot be a path"):
            plan_with(tmp_path, load_train_data_path=path)


def test_a_name_that_is_too_long_for_the_system_is_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        plan_with(tmp_path, load_train_data_path="x" * 300).train_data_folder()


@pytest.mark.parametrize(
    "path", [r"D:\training\new\bottles", r"data\train", r"D:\New\Lines\Parts", r"\\camera\bottles"]
)
def test_a_windows_path_in_double_quotes_is_explained_by_its_backslashes(tmp_path: Path, path: str) -> None:
    for written in (f'load_train_data_path: "{path}"', f'save_train_artifacts_path: "{path}"'):
        with pytest.raises(PlanError, match=r"(?s)backslash.*single quotes, or\s+with /") as caught:
            parse_plan(f"external_path:\n    - {written}\n")
        assert "\t" not in str(caught.value)
        assert "\b" not in str(caught.value)
    with pytest.raises(PlanError, match=r"(?s)backslash.*single quotes"):
        parse_plan(f'operation:\n    watch_folder: "{path}"\n')


def test_a_windows_path_in_double_quotes_that_is_no_yaml_is_explained_too() -> None:
    for path in (r"C:\Users\camera", r"D:\my\data"):
        with pytest.raises(PlanError, match=r"(?s)line 2.*backslash.*single quotes"):
            parse_plan(f'external_path:\n    - load_train_data_path: "{path}"\n')


@pytest.mark.parametrize("place", ["/", "{home}", "{home}/..", "~", "{link}", "{home}/lines"])
@pytest.mark.parametrize("key", ["watch_folder", "landing_folder"])
def test_a_watch_folder_that_holds_the_home_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, place: str
) -> None:
    home, link = tmp_path / "user" / "home", tmp_path / "link"
    home.mkdir(parents=True)
    link.symlink_to(home.parent)
    monkeypatch.setenv("VAD_HOME", str(home))
    monkeypatch.setenv("HOME", str(home.parent))
    plan = parse_plan(f"operation: {{{key}: '{place.format(home=home, link=link)}'}}", base_folder=tmp_path)
    with pytest.raises(PlanError, match="holds VAD_HOME with all that the system writes"):
        plan.watch_folder(home / "lines" / "a" / "inbox")
    line = Home(home).line("a")
    plan_file = tmp_path / "experimental_plan.yaml"
    plan_file.write_text(f"external_path:\n- load_train_data_path: {tmp_path}\noperation: {{{key}: '/'}}\n")
    with pytest.raises(PlanError, match="holds VAD_HOME"):
        add_line(line, plan=plan_file)
    assert not line.folder.exists()
    fine = parse_plan(f"operation: {{{key}: '{home / 'lines' / 'a' / 'inbox'}'}}", base_folder=tmp_path)
    assert fine.watch_folder(home) == home / "lines" / "a" / "inbox"


def test_the_model_path_of_the_other_tool_is_noticed(tmp_path: Path) -> None:
    assert any("load_model_path" in notice for notice in plan_with(tmp_path, load_model_path="m").notices)
    assert not any("load_model_path" in notice for notice in plan_with(tmp_path, load_model_path="").notices)


def test_a_plan_names_no_training_data_only_where_its_detector_needs_none(tmp_path: Path) -> None:
    text = "user_parameters:\n- train_pipeline:\n  - step: train\n    args:\n    - model_name: {}\n"
    assert parse_plan(text.format("anomalyclip"), base_folder=tmp_path).find_train_data() is None
    with pytest.raises(InputError, match="sample_data/train"):
        parse_plan(text.format("patchcore"), base_folder=tmp_path).find_train_data()
    (tmp_path / "sample_data" / "train").mkdir(parents=True)
    assert parse_plan(text.format("anomalyclip"), base_folder=tmp_path).find_train_data() is not None
    named = f"external_path:\n- load_train_data_path: ./typo\n{text}"
    with pytest.raises(InputError, match="typo"):
        parse_plan(named.format("anomalyclip"), base_folder=tmp_path).find_train_data()


@pytest.mark.parametrize(
    ("model_name", "shots", "needs"),
    [("patchcore", 4, True), ("winclip", 4, True), ("winclip", 0, False), ("anomalyclip", 4, False)],
)
def test_which_detectors_need_images(model_name: str, shots: int, needs: bool) -> None:
    train = TrainArguments(model_name=model_name, model_parameters=model_parameters(winclip_shots=shots))
    assert train.needs_images is needs
    assert train.threshold_without_images() == (None if needs else 0.5)
