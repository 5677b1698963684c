"""What every detector must do: one way through the whole system, for each that is registered and for a toy.

The toy is ``toy_detector.py``, which is also the recipe in docs/architecture.md.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import torch

from tests.dagster import gravel_line
from tests.detectors import toy_detector
from tests.detectors.tiny_prompts import write_tiny_prompts
from tests.encoders.tiny_clip import config_with
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.comparison.random_clip import write_random_clip
from vad_lib.compiled import load_for_scoring
from vad_lib.detectors import registry
from vad_lib.detectors.base import Detector
from vad_lib.detectors.registry import find_detector, load_detector
from vad_lib.errors import InputError, ModelFormatError, PlanError, VadError
from vad_lib.export import ExportRefused, export_model
from vad_lib.extending import extend_model
from vad_lib.forecast import forecast_training, require_fit
from vad_lib.images.decoding import decode_image
from vad_lib.lines import Home, Line
from vad_lib.models import InspectionModel
from vad_lib.plan import dump_plan, explain, parse_plan, read_plan
from vad_lib.readiness import ValidatedDataset
from vad_lib.training import fit_detector, score_rows

ROOT = Path(__file__).resolve().parents[2]
TOY = registry.DETECTORS.pop("toy")  # there only while this module's tests run: others look at the product's own
KINDS = registry.detector_names()
SMALL = {
    "patchcore_backbone": "resnet18",
    "patchcore_layers": "[layer1, layer2]",
    "fastflow_flow_steps": "1",
    "anomalib_layers": "[layer1, layer2]",
    "anomalyclip_encoder": "tiny_clip",
    "anomalyclip_levels": "[1, 2]",
    "anomalyclip_image_side": "48",
    "clip_similarity_second_encoder": "resnet10t",
    "clip_classifier_anomalies_per_image": "2",
    "anomalygpt_encoder": "resnet18",
    "anomalygpt_layers": "[layer1, layer2]",
    "winclip_encoder": "tiny_clip",
    **{f"{kind}_encoder": "resnet18" for kind in KINDS if kind.startswith("clip_")},
    **{f"{kind}_layers": "[layer1, layer2]" for kind in KINDS if kind.startswith("clip_")},
}
"""Arguments that make a detector small enough for a test; what is not named keeps its default."""
ALIKE = ("clip_classifier", "clip_isolation_forest", "clip_lof", "clip_mahalanobis")
"""Detectors that differ from clip_knn (with maps) and clip_similarity (without) in the head alone, which has tests."""


@dataclass(frozen=True)
class Trained:
    """A line that was trained by the real job."""

    kind: str
    line: Line
    result: dg.ExecuteInProcessResult
    instance: dg.DagsterInstance

    @property
    def dataset(self) -> ValidatedDataset:
        return ValidatedDataset.load(self.line.store / "validated_dataset")

    @property
    def images(self) -> list[Path]:
        return sorted((self.line.folder / "inference").iterdir())

    def champion_folder(self) -> Path:
        of_line = LineRegistry(MLflowTracking(), self.line.name)
        return of_line.folder(of_line.champion())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home of its own, and a table of detectors that has the toy too."""
    folder = tmp_path_factory.mktemp("contract")
    with gravel_line.own_home(folder) as home, pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.DETECTORS, "toy", TOY)
        write_random_clip(folder / "weights" / "tiny_clip", config_with(vision_cfg={"layers": 2}))
        write_tiny_prompts(folder / "weights")
        yield home


def plan_of(kind: str) -> str:
    """Return the plan of a line with this detector."""
    own = {name: value for name, value in SMALL.items() if name.startswith(f"{kind}_")}
    text = gravel_line.PLAN.replace("model_name: patchcore", f"model_name: {kind}\n            max_epochs: 1")
    parameters = f"model_parameters: {{{', '.join(f'{name}: {value}' for name, value in own.items())}}}"
    return re.sub(r"model_parameters:\n(\s+patchcore_\w+: .*\n)+", parameters + "\n", text)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow if kind in ALIKE else ()) for kind in (*KINDS, "toy")],
)
def trained(request: pytest.FixtureRequest, home: Home) -> Iterator[Trained]:
    """A line trained by the job train_line, from the table of images to the champion."""
    kind = request.param
    line = gravel_line.make_line(home, kind, plan_of(kind), normal=16, scratched=6)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("line", [kind])
        result = gravel_line.run(instance, "train_line", line=kind)
        assert result.success, gravel_line.failure(result)
        yield Trained(kind, line, result, instance)


def test_its_arguments_are_part_of_the_plan_are_explained_and_are_written(trained: Trained) -> None:
    plan = read_plan(trained.line.plan_file)
    arguments = find_detector(trained.kind).arguments.model_fields
    assert plan.train.model_name == trained.kind
    explained = explain(plan).set_index("argument")
    for name, field in arguments.items():
        assert name.startswith(f"{trained.kind}_")
        assert explained.loc[f"model_parameters.{name}", "meaning"] == field.description
    assert parse_plan(dump_plan(plan, comments=True)) == plan
    first = next(iter(arguments))
    wrong = trained.line.plan_file.read_text().replace("model_parameters: {", f"model_parameters: {{{first}s: 1, ")
    with pytest.raises(PlanError, match=rf"line \d+ .*{first}s\n.*No such argument\. Did you mean {first}\?"):
        parse_plan(wrong)


def test_a_saved_detector_scores_as_the_fitted_one_whatever_else_is_in_the_batch(
    trained: Trained, tmp_path: Path
) -> None:
    train = read_plan(trained.line.plan_file).train
    fitted = fit_detector(trained.dataset, train, work_folder=tmp_path)
    assert fitted.detector.name == trained.kind
    pixels = [fitted.preprocessing.prepare(decode_image(file).pixels) for file in trained.images[:3]]
    together = fitted.detector.score(torch.stack(pixels))
    for place, image in enumerate(pixels):
        alone = load_detector(tmp_path / "detector").score(image[None])
        assert alone.scores[0] == together.scores[place]
        assert (alone.maps is None) == (together.maps is None)
        if alone.maps is not None and together.maps is not None:
            assert alone.maps[0].shape == image.shape[1:]
            np.testing.assert_array_equal(alone.maps[0], together.maps[place])
    without = fitted.detector.score(torch.stack(pixels), with_maps=False)
    assert without.maps is None
    np.testing.assert_array_equal(without.scores, together.scores)
    scores = score_rows(fitted.detector, fitted.preprocessing, trained.dataset.valid_rows)
    assert scores["raw_score"].notna().all()


@pytest.mark.spec("M1.04")
def test_a_bfloat16_model_scores_the_same_after_loading_and_whatever_else_is_in_the_batch_or_its_plan_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    asked = f"model_name: {trained.kind}\n"
    written = trained.line.plan_file.read_text().replace(asked, f"{asked}            precision: bfloat16\n")
    own = find_detector(trained.kind).own(read_plan(trained.line.plan_file).train.model_parameters)
    if own.reason_against("bfloat16"):
        with pytest.raises(PlanError, match=r"line \d+ .*precision\n.*take precision: float32"):
            parse_plan(written)
        return
    train = parse_plan(written, base_folder=trained.line.folder).train
    fitted = fit_detector(trained.dataset, train, work_folder=tmp_path)
    pixels = torch.stack([fitted.preprocessing.prepare(decode_image(file).pixels) for file in trained.images[:2]])
    loaded = load_detector(tmp_path / "detector")
    together, alone = fitted.detector.score(pixels), loaded.score(pixels[1:])
    assert alone.scores[0] == together.scores[1]
    if alone.maps is not None and together.maps is not None:
        np.testing.assert_array_equal(alone.maps[0], together.maps[1])
    described = loaded.describe()
    single = {**described, "backbone": {**described["backbone"], "precision": "float32"}}
    other = registry.detector_from_description(single, loaded.state_dict()).score(pixels).scores
    assert (other != together.scores).any(), "the precision changes nothing: the detector is not computed in it"


def test_a_folder_whose_description_does_not_fit_is_refused_as_a_model(trained: Trained) -> None:
    model = InspectionModel.load(trained.champion_folder())
    description, tensors = model.detector.describe(), model.detector.state_dict()
    for wrong in ({}, {"arguments": {"nothing_of_the_kind": 1}}, {"backbone": None}, {"arguments": None}):
        with pytest.raises(ModelFormatError):
            registry.detector_from_description({**description, **wrong}, {} if not wrong else tensors)


def test_a_training_is_forecast_and_fits_the_machine(trained: Trained) -> None:
    forecast = forecast_training(trained.dataset, read_plan(trained.line.plan_file).train)
    require_fit(forecast)
    assert forecast.seconds > 0
    assert forecast.ms_per_image > 0
    assert forecast.disk_bytes > 0
    page = gravel_line.metadata(trained.result, "trained_model")
    compared = {record.data["what"]: record.data for record in page["forecast and actual"].records}
    assert {size.label for size in forecast.sizes} <= set(compared)


@pytest.mark.spec("M1.02")
def test_the_job_leaves_report_tree_and_champion_and_its_numbers(trained: Trained) -> None:
    page = gravel_line.metadata(trained.result, "model_evaluation")
    assert 0 <= page["image_auroc"] <= 1
    assert trained.kind in (trained.line.train_artifacts / "report" / "report.html").read_text()
    version = LineRegistry(MLflowTracking(), trained.line.name).champion()
    assert version.tags["detector"] == trained.kind
    described = json.loads((trained.champion_folder() / "detector.json").read_text())
    assert described["detector"]["name"] == described["info"]["model_name"] == trained.kind


@pytest.mark.spec("M1.02")
def test_what_mlflow_serves_and_what_the_service_asks_give_the_same_scores(trained: Trained) -> None:
    import mlflow

    model = InspectionModel.load(trained.champion_folder())
    asked = model.predict_pixels([decode_image(file).pixels for file in trained.images], with_maps=True)
    MLflowTracking().connect()
    served = mlflow.pyfunc.load_model(f"models:/vad-{trained.line.name}@champion")
    answer = served.predict(pd.DataFrame({"image_path": [str(file) for file in trained.images]}))
    assert answer["raw_score"].tolist() == [one.raw_score for one in asked]
    assert answer["predicted"].tolist() == [one.predicted for one in asked]
    assert {one.predicted for one in asked} <= {"OK", "NG"}


def test_an_inspection_writes_a_heatmap_of_each_image_or_does_without_any(trained: Trained) -> None:
    plan = trained.line.plan_file
    was = plan.read_text()
    threshold = "inference_threshold: 0.5\n"
    plan.write_text(was.replace(threshold, f"{threshold}            save_anomaly_maps: true\n"))
    try:
        result = gravel_line.run(trained.instance, "inspect_line", line=trained.kind)
    finally:
        plan.write_text(was)
    assert result.success, gravel_line.failure(result)
    heatmaps = list(trained.line.inference_artifacts.glob("extra_output/inference/*/latest/images/*.png"))
    model = InspectionModel.load(trained.champion_folder())
    assert len(heatmaps) == (0 if model.heatmap_scale is None else len(trained.images))


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.spec("M1.02")
def test_it_is_exported_with_the_same_decisions_or_refused_in_a_sentence(
    trained: Trained, format: str, tmp_path: Path
) -> None:
    model = InspectionModel.load(trained.champion_folder())
    if type(model.detector).graph is Detector.graph:
        with pytest.raises(VadError, match=f"{trained.kind}.* cannot be exported"):
            export_model(model, trained.images, format, tmp_path / "out")  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
    else:
        try:
            parity = export_model(model, trained.images, format, tmp_path / "out")  # type: ignore[arg-type]
        except ExportRefused as refused:
            # Random weights and one epoch: what is rounding elsewhere can be more than the gate lets through here.
            parity = refused.parity
            assert list(tmp_path.iterdir()) == []
        assert parity.images == len(trained.images)
        assert parity.max_relative_difference < 1e-3


def test_a_compiled_backend_scores_alike_or_torch_does_and_the_reason_is_told(trained: Trained, tmp_path: Path) -> None:
    model = InspectionModel.load(trained.champion_folder())
    compiled, choice = load_for_scoring(
        trained.champion_folder(), images=trained.images, cache=tmp_path, setting="openvino"
    )
    assert (choice.backend == "openvino") == (compiled.detector.runner is not None)
    if choice.backend == "torch":
        assert "openvino cannot" in choice.reason
    for ours, theirs in zip(model.predict_files(trained.images), compiled.predict_files(trained.images), strict=True):
        assert theirs.raw_score == pytest.approx(ours.raw_score, rel=1e-4)
        assert theirs.predicted == ours.predicted


def test_it_learns_further_images_without_a_fit_or_says_what_to_do_instead(trained: Trained) -> None:
    model = InspectionModel.load(trained.champion_folder())
    if type(model.detector).extend is Detector.extend:
        with pytest.raises(InputError, match=rf"A {trained.kind} model cannot learn .* train again"):
            extend_model(model, trained.images[:2], trained.dataset)
    else:
        extension = extend_model(model, trained.images[:2], trained.dataset)
        assert extension.model.detector.name == trained.kind
        assert extension.rows_added >= 0


@pytest.mark.spec("M1.03")
def test_the_recipe_in_the_documentation_is_the_code_of_the_toy() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    code = Path(toy_detector.__file__).read_text(encoding="utf-8")
    assert code in blocks, "the python block of docs/architecture.md is not tests/detectors/toy_detector.py"


@pytest.mark.spec("M1.01")
def test_no_module_of_the_product_knows_a_detector_by_name_outside_the_detectors_own_folder() -> None:
    # The name in quotes, in a module's name, or as a word of its own with a capital, as in a class or a sentence. A
    # detector may be called by an ordinary word, which stands in other names and sentences too.
    forms = (f"['\"]{name}['\"]|detectors\\.{name}\\b|\\b{name.capitalize()}(Detector|Arguments)?\\b" for name in KINDS)
    names = re.compile("|".join(forms))
    found = []
    for package in ("vad_lib", "vad_dagster"):
        for file in sorted((ROOT / package).rglob("*.py")):
            place = file.relative_to(ROOT)
            # the prompt learner is the other half of one detector's paper, and works with its image decoder
            if (
                place.parts[:2] == ("vad_lib", "detectors")
                or "prompter" in place.parts
                or file.name == "words_training.py"
            ):
                continue
            found += [
                f"{place}:{number}: {line}"
                for number, line in enumerate(file.read_text().splitlines(), 1)
                # a module of the library, or the library beside others whose versions are told
                if names.search(line) and "anomalib.models.image" not in line and '"timm"' not in line
            ]
    assert found == []


@pytest.mark.spec("M1.01")
def test_a_folder_is_found_by_itself_and_a_package_by_its_entry_point_and_a_broken_one_stops_nobody(
    tmp_path: Path,
) -> None:
    code = Path(toy_detector.__file__).read_text(encoding="utf-8")
    (tmp_path / "folders" / "toy").mkdir(parents=True)
    (tmp_path / "folders" / "toy" / "__init__.py").write_text(code)
    (tmp_path / "theirs.py").write_text(code.replace("toy", "theirs"))
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = f"[{registry.ENTRY_POINTS}]\ntheirs = theirs\nbroken = not_there_at_all\n"
    (tmp_path / "theirs-1.0.dist-info" / "entry_points.txt").write_text(points)
    asked = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import vad_lib.detectors as d; "
        f"d.__path__.append({str(tmp_path / 'folders')!r}); from vad_lib.plan import TrainArguments, model_parameters; "
        "train = TrainArguments(model_name='theirs', model_parameters=model_parameters(toy_power=3, theirs_power=4)); "
        "from vad_lib.training import create_detector; print(create_detector(train).power, d.registry.detector_names())"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"4.0 {tuple(sorted([*KINDS, 'theirs', 'toy']))}"
    assert "not_there_at_all" in done.stderr


def test_a_name_that_is_taken_and_an_argument_of_another_name_are_refused() -> None:
    class Foreign(registry.DetectorArguments):
        other_power: float = 1.0

    with pytest.raises(ValueError, match="already"):
        registry.register(KINDS[0], "somewhere:Else")
    with pytest.raises(ValueError, match=r"must begin with mine_, not other_power"):
        registry.register("mine", "somewhere:Else", Foreign)
    assert "mine" not in registry.registered()


@pytest.mark.spec("P2.09")
def test_each_detector_has_a_page_that_says_what_it_does_and_what_it_reached() -> None:
    for kind in KINDS:
        folder = Path(importlib.import_module(str(find_detector(kind).place).partition(":")[0]).__file__ or "").parent
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert kind in text
        assert "AUROC" in text
