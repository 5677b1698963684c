"""Plans explained, and first plans written."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from plan_texts import plan_text

from vad_lib.errors import InputError, PlanError
from vad_lib.plan import arguments_markdown, explain, parse_plan, read_plan, write_plan_for_folder
from vad_lib.plan.stages import STAGES


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images of “paint”"
    for name in ("train/good", "train/scratch", "test/good"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "grey").save(folder / name / "0.png")
    return folder


def test_explain_says_where_each_value_came_from() -> None:
    table = explain(parse_plan(plan_text("{img_size: 320, model_parameters: {patchcore_layers: [layer1]}}")))
    rows = {(step, argument): row for (step, argument), row in table.set_index(["step", "argument"]).iterrows()}

    size = rows["train", "img_size"]
    assert (size["value"], size["source"], size["default"]) == ("[256, 256]", "plan", "[256, 256]")
    assert "asked for 320" in size["where"]
    assert "line " in size["where"]
    layers = rows["train", "model_parameters.patchcore_layers"]
    assert (layers["value"], layers["source"]) == ("[layer1]", "plan")
    assert rows["train", "batch_size"]["source"] == "default"
    assert rows["external_path", "load_train_data_path"]["default"] == "computed: ./sample_data/train/"


@pytest.mark.spec("V14.38", "V14.39")
def test_computed_defaults_and_what_to_look_at_are_marked() -> None:
    table = explain(parse_plan("{}")).set_index(["step", "argument"])
    assert table.loc[("readiness", "ok_class"), "default"] == "computed: the most frequent label of the training data"
    assert set(table[table["user_setting"]].loc["train"].index) == {"model_name"}
    assert "file_type" in table[table["user_setting"]].loc["input"].index
    assert not table.loc[("train", "batch_size"), "user_setting"]


def test_the_guides_ui_arguments_are_those_that_may_be_listed() -> None:
    markdown = arguments_markdown()
    yes = [line.split("|")[2].strip() for line in markdown.splitlines() if line.split("|")[5].strip() == "yes"]
    assert yes == ["`ok_class`", "`model_name`"]
    for stage in STAGES:
        for name, field in stage.model.model_fields.items():
            if name != "model_parameters":
                assert f"`{name}`" in markdown
                assert (field.description or "").replace("|", "\\|") in markdown


def test_the_first_plan_of_a_folder_is_commented_and_valid(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "line" / "experimental_plan.yaml"
    plan = write_plan_for_folder(
        image_folder, file, model_name="patchcore", img_size=(64, 96), patchcore_backbone="resnet18", max_batch_images=9
    )
    assert plan == read_plan(file)
    assert plan.train_data_folder() == image_folder / "train"
    assert plan.inference_data_folder() == image_folder / "test"
    assert plan.readiness.ok_class == "good"
    assert plan.train.img_size == (64, 96)
    assert plan.train.model_parameters.patchcore_backbone == "resnet18"
    assert plan.operation.max_batch_images == 9
    assert plan.ui_args == {"model_name", "ok_class"}
    assert plan.notices == ()
    text = file.read_text(encoding="utf-8")
    assert "# batch_size: 4" in text
    assert list(file.parent.iterdir()) == [file]


def test_uncommenting_an_argument_of_a_written_plan_puts_it_in_force(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    write_plan_for_folder(image_folder, file)
    text = file.read_text(encoding="utf-8").replace("# batch_size: 4", "batch_size: 7")
    text = text.replace("# settle_seconds: 2.0", "settle_seconds: 0.5").replace("# encoding: utf-8", "encoding: cp949")
    plan = parse_plan(text)
    assert plan.train.batch_size == 7
    assert plan.operation.settle_seconds == 0.5
    assert (plan.input.encoding, plan.inference_input.encoding) == ("cp949", "cp949")


def test_a_flat_folder_gives_a_plan_whose_paths_are_relative_to_it(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "0.png")
    plan = write_plan_for_folder(tmp_path, tmp_path / "experimental_plan.yaml", ok_class="No")
    assert plan.paths.train_data == "./."
    assert plan.train_data_folder() == tmp_path.resolve()
    assert plan.readiness.ok_class == "No"


def test_where_a_table_says_what_is_normal_no_folder_name_does(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "train" / "train.csv").write_text("image_path,label\ngood/0.png,fine\n")
    assert write_plan_for_folder(image_folder, tmp_path / "plan.yaml").readiness.ok_class == ""


def test_a_plan_is_never_overwritten_and_wrong_choices_write_nothing(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    with pytest.raises(PlanError, match="2 faults"):
        write_plan_for_folder(image_folder, file, model_nam="patchcore", percentile=80)
    with pytest.raises(InputError, match="is no folder"):
        write_plan_for_folder(tmp_path / "none", file)
    assert not file.exists()
    file.write_text("mine")
    with pytest.raises(PlanError, match="is there already"):
        write_plan_for_folder(image_folder, file)
    assert file.read_text() == "mine"
