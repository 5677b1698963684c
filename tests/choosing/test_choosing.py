"""Detectors compared on a line's own images: who judges what, what is said, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.thresholds.test_learning import labelled_scores
from tests.training.conftest import prepare
from vad_lib.choosing import cross_validation, figures
from vad_lib.choosing.comparing import compare_on_line, models_to_compare
from vad_lib.choosing.cross_validation import CrossValidated
from vad_lib.choosing.figures import figures_of
from vad_lib.choosing.folds import dataset_of_part, images_to_judge, make_folds
from vad_lib.choosing.report import Choice, choice_page
from vad_lib.errors import InputError, PlanError
from vad_lib.plan.arguments import TrainArguments
from vad_lib.progress import ProgressUpdate
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import LearningRule

TRAIN = TrainArguments.model_validate(
    {"model_name": "patchcore", "img_size": (64, 64), "model_parameters": {"patchcore_backbone": "resnet18"}}
)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        patch.setattr(figures, "RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ValidatedDataset:
    return prepare(tmp_path_factory.mktemp("line"), normal=24, anomalous=9)


def scored(name: str, normal: np.ndarray, anomalous: np.ndarray, *, ms: float = 10, parts: int = 3) -> CrossValidated:
    """A detector that gave these scores to images without a file."""
    scores = np.concatenate([normal, anomalous]).astype(float)
    flags = np.arange(len(scores)) >= len(normal)
    rows = pd.DataFrame(
        {
            "row": np.arange(len(scores)),
            "file": [f"/{number}.png" for number in range(len(scores))],
            "label": np.where(flags, "crack", "good"),
            "is_anomalous": flags,
            "raw_score": scores,
            "part": np.arange(len(scores)) % parts,
        }
    )
    return CrossValidated(name, TRAIN, rows=cross_validation._judged(rows, LearningRule()), ms_per_image=ms)


def choice_of(*ran: CrossValidated) -> Choice:
    return Choice.of("bricks", ran, {one.name: figures_of(one) for one in ran if not one.reason})


def test_each_image_is_judged_by_a_model_that_did_not_see_it(dataset: ValidatedDataset) -> None:
    rows = images_to_judge(dataset)
    rows["part"] = make_folds(rows, dataset.image_facts, 4, seed=1)
    normal = rows[~rows["is_anomalous"].astype(bool)]
    sizes = normal["part"].value_counts()
    assert sizes.max() - sizes.min() <= 1
    assert rows[rows["is_anomalous"].astype(bool)]["part"].value_counts().tolist() == [3, 2, 2, 2]
    for part in range(4):
        judged = set(rows.loc[rows["part"] == part, "sha256"])
        for watches in (False, True):
            made = dataset_of_part(dataset, rows, part, watches=watches)
            assert not judged & set(made.train_rows["sha256"])
            assert not made.train_rows["is_anomalous"].any()
            if watches:
                assert not judged & set(made.valid_rows["sha256"])
                assert not set(made.train_rows["sha256"]) & set(made.valid_rows["sha256"])


def test_the_parts_follow_contents_and_images_that_look_the_same_stay_together(
    tmp_path: Path, dataset: ValidatedDataset
) -> None:
    rows = images_to_judge(dataset)
    turned = rows.iloc[::-1].reset_index(drop=True)
    parts = dict(zip(rows["sha256"], make_folds(rows, dataset.image_facts, 3, seed=0), strict=True))
    assert parts == dict(zip(turned["sha256"], make_folds(turned, dataset.image_facts, 3, seed=0), strict=True))

    files = rows["file"].head(2).tolist()
    twins = []
    for number, file in enumerate(files):
        twin = tmp_path / f"{number}.jpg"
        Image.open(file).convert("RGB").save(twin, quality=95)
        twins.append(twin)
    of_twins = rows.head(2).assign(
        file=[str(twin) for twin in twins], sha256=["a" * 64, "b" * 64], row=rows["row"].max() + np.array([1, 2])
    )
    both = pd.concat([rows, of_twins], ignore_index=True)
    facts = dataset.image_facts
    of_copies = facts[facts["row"].isin(rows["row"].head(2))].assign(row=of_twins["row"].tolist())
    found = make_folds(both, pd.concat([facts, of_copies]), 3, seed=0)
    assert list(found[:2]) == list(found[-2:])


@given(st.integers(0, 2), st.floats(-1e3, 1e3))
def test_no_part_has_a_say_in_the_threshold_that_judges_it(part: int, score: float) -> None:
    rng = np.random.default_rng(3)
    before = scored("a", rng.normal(size=30), rng.normal(2, size=12)).rows
    moved = before.assign(raw_score=before["raw_score"].mask((before["part"] == part) & (before.index % 2 == 0), score))
    after = cross_validation._judged(moved, LearningRule())
    same = (before["part"] == part) & (before.index % 2 == 1)
    assert (before.loc[same, "predicted"] == after.loc[same, "predicted"]).all()


def test_a_comparison_that_was_stopped_goes_on_where_it_was(dataset: ValidatedDataset, tmp_path: Path) -> None:
    def scorings(stop_at: int = 0) -> int:
        """Compare, and return how many parts were scored; stop when so many are."""
        ended = 0

        def count(update: ProgressUpdate) -> None:
            nonlocal ended
            ended += "Scoring" in update.task and update.done == update.total
            if stop_at and ended == stop_at:
                raise KeyboardInterrupt

        found = compare_on_line("tiles", dataset, TRAIN, ["patchcore"], tmp_path, parts=3, progress=count)
        compared.append(found)
        return ended

    compared: list[tuple[Choice, str]] = []
    with pytest.raises(KeyboardInterrupt):
        scorings(stop_at=2)
    assert scorings() == 2  # the second part was not whole when it was stopped
    assert scorings() == 0
    (choice, page), (again, _) = compared
    assert choice.ran[0].rows.equals(again.ran[0].rows)
    assert sorted(choice.ran[0].rows["row"]) == sorted(images_to_judge(dataset)["row"])
    assert choice.figures["patchcore"].auroc.n == "24 + 9"
    assert "24 normal images and 9 with defects" in page


def test_a_detector_that_cannot_be_used_here_is_told_with_its_reason(dataset: ValidatedDataset, tmp_path: Path) -> None:
    wrong = TRAIN.model_copy(update={"precision": "bfloat16"})
    choice, page = compare_on_line("tiles", dataset, wrong, ["anomalib"], tmp_path, parts=3)
    assert choice.ran == []
    assert "anomalib" in choice.not_run()["detector"].tolist()
    assert "No detector ran" in page
    with pytest.raises(PlanError, match="it can be"):
        models_to_compare(TRAIN, ["patchcor"])


def test_without_defects_some_are_drawn_and_named_as_such(dataset: ValidatedDataset, tmp_path: Path) -> None:
    only_normal = replace(dataset, rows=dataset.rows[~dataset.rows["is_anomalous"].astype(bool)])
    choice, page = compare_on_line("tiles", only_normal, TRAIN, ["patchcore"], tmp_path, parts=3)
    assert choice.is_drawn
    assert "how well real ones are found is not known" in choice.in_words()
    assert "on which a defect was drawn, as there is no real one" in page
    few = replace(dataset, rows=dataset.rows.head(8))
    with pytest.raises(InputError, match="needs 20 at least"):
        compare_on_line("tiles", few, TRAIN, ["patchcore"], tmp_path)


def test_the_fastest_is_recommended_of_those_that_cannot_be_told_from_the_best() -> None:
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(size=60), rng.normal(1.5, size=40)
    good = scored("good", normal, anomalous, ms=100)
    alike = scored("alike", normal + rng.normal(0, 0.05, 60), anomalous + rng.normal(0, 0.05, 40), ms=10)
    bad = scored("bad", rng.normal(size=60), rng.normal(0.1, size=40), ms=1)
    choice = choice_of(good, alike, bad)
    recommended = choice.recommended()
    assert recommended is not None
    assert recommended.name == "alike"
    assert {one.is_shown for one in choice.differences if "bad" in (one.first, one.second)} == {True}
    (close,) = [one for one in choice.differences if "bad" not in (one.first, one.second)]
    assert "No difference can be shown with 60 normal and 40 defective images" in close.in_words()


def test_labels_that_the_scores_contradict_are_shown_to_people() -> None:
    rng = np.random.default_rng(1)
    normal, anomalous = rng.normal(size=60), rng.normal(6, size=20)
    normal[7], anomalous[3] = 9.0, -1.0
    found = choice_of(scored("one", normal, anomalous), scored("two", normal + 0.01, anomalous)).suspicious()
    assert dict(zip(found["row"], found["detectors"], strict=True)) == {7: 2, 63: 2}
    assert found.set_index("row").loc[63, "why"] == "called defective, and like the normal images"


def test_parts_that_do_not_score_on_one_scale_are_told() -> None:
    rng = np.random.default_rng(2)
    even = scored("even", rng.normal(size=60), rng.normal(3, size=20))
    shifted = replace(even, rows=even.rows.assign(raw_score=even.rows["raw_score"] + 5.0 * even.rows["part"]))
    assert figures_of(even).warning == ""
    assert "do not score on one scale" in figures_of(shifted).warning


def test_a_kind_that_the_threshold_has_not_seen_is_judged_without_it() -> None:
    rows = scored("one", np.arange(30.0), np.concatenate([np.full(9, 100.0), np.full(9, 40.0)])).rows
    rows["label"] = ["good"] * 30 + ["large"] * 9 + ["small"] * 9
    judged = cross_validation._judged(rows, LearningRule())
    found = figures_of(replace(scored("one", np.zeros(3), np.ones(3)), rows=judged)).unseen_recall
    assert (found["large"].value, found["small"].value) == (1.0, 0.0)  # midway to 100 is above 40
    assert (judged.loc[judged["label"] == "small", "predicted"] == "NG").all()


def test_the_page_holds_figures_curves_and_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one = scored("one", rng.normal(size=30), rng.normal(1, size=20))
    files = []
    for number in range(50):
        files.append(str(tmp_path / f"{number}<b>.png"))
        Image.new("L", (20, 20), number).save(files[-1])
    one = replace(one, rows=one.rows.assign(file=files))
    two = replace(scored("two", rng.normal(size=30), rng.normal(1, size=20)), name="two")
    two = replace(two, rows=two.rows.assign(file=files))
    page = choice_page(choice_of(one, two), ["A <fact>."])
    assert "A &lt;fact&gt;." in page
    assert "<b>.png" not in page
    assert page.count("data:image/jpeg") >= 1
    assert "ROC curves" in page


@given(labelled_scores())
def test_average_precision_is_scikit_learn_s(rows: tuple[np.ndarray, np.ndarray]) -> None:
    scores, flags = rows
    assert figures.average_precision(flags, scores) == pytest.approx(average_precision_score(flags, scores))


@pytest.mark.slow
def test_the_intervals_hold_the_true_figures_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 300)
    rng = np.random.default_rng(5)
    many = figures_of(scored("truth", rng.normal(size=40_000), rng.normal(1.5, size=20_000)))
    names = ("auroc", "average_precision", "recall_at_1")
    kept = dict.fromkeys(names, 0)
    repeats = 150
    for _ in range(repeats):
        # as many of each class as the truth has, in proportion: average precision depends on that
        found = figures_of(scored("some", rng.normal(size=160), rng.normal(1.5, size=80)))
        for name in names:
            one = getattr(found, name)
            kept[name] += one.low <= getattr(many, name).value <= one.high
    assert {name: count / repeats >= 0.88 for name, count in kept.items()} == dict.fromkeys(names, True), kept
