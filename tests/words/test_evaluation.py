"""Questions with known answers: how they are made, how replies are read, and what the figures count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.readiness.make_images import crop, write_images
from vad_lib.errors import InputError, VadError
from vad_lib.ground_truth import read_input
from vad_lib.metrics import interval
from vad_lib.plan.arguments import InputArguments, ReadinessArguments, TrainArguments
from vad_lib.readiness import ValidatedDataset, prepare_training_data
from vad_lib.words.evaluation import (
    DETECTION,
    KIND,
    PLACE,
    Answered,
    Figure,
    Question,
    answer_table,
    ask_all,
    chosen_letter,
    figures,
    line_questions,
    mmad_questions,
    picture_of,
    side_by_side,
)
from vad_lib.words.places import PLACES

KINDS = ("dent", "hole", "scratch", "spot", "stain")
LETTERS = {"A": "Yes", "B": "No"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ValidatedDataset:
    """12 normal images and two of each of five kinds; the first of a kind has a mask at the top left."""
    folder = tmp_path_factory.mktemp("asked")
    rows = [(f"good/{number}.png", "good") for number in range(12)]
    rows += [(f"{kind}/{number}.png", kind) for kind in KINDS for number in range(2)]
    write_images(folder, [path for path, _ in rows])
    for kind in KINDS:
        mask = np.zeros((40, 40), np.uint8)
        mask[2:10, 3:12] = 255
        (folder / "masks" / kind).mkdir(parents=True)
        Image.fromarray(mask).save(folder / "masks" / kind / "0.png")
    pd.DataFrame(rows, columns=["image_path", "label"]).to_csv(folder / "train.csv", index=False)
    table = read_input(folder, InputArguments(), pipeline="train")
    return prepare_training_data(
        table, ReadinessArguments(ok_class="good", validation_split_rate=0.4), TrainArguments()
    )


def knows_everything(questions: Sequence[Question]):  # type: ignore[no-untyped-def]
    """Return somebody who is asked and always right."""
    right = {question.prompt + str(pixels(question.image)): question.right for question in questions}

    def ask(pictures: Sequence[Image.Image], text: str) -> str:
        return f"Answer: {right[text + str(hash(pictures[-1].tobytes()))]}"

    return ask


def pixels(file: Path) -> int:
    return hash(picture_of(file).tobytes())


def of(task: str, questions: Sequence[Question]) -> list[Question]:
    return [question for question in questions if question.task == task]


def test_a_line_is_asked_for_anomalies_kinds_and_places_with_the_answers_of_its_table(
    dataset: ValidatedDataset,
) -> None:
    questions = line_questions(dataset)
    labels = dict(zip(dataset.valid_rows["file"], dataset.valid_rows["label"], strict=True))
    detection, kind, place = (of(task, questions) for task in (DETECTION, KIND, PLACE))
    assert [str(question.image) for question in detection] == list(labels)
    for question in questions:
        label = labels[str(question.image)]
        wanted = {DETECTION: "No" if label == "good" else "Yes", KIND: label, PLACE: "top left"}[question.task]
        assert question.options[question.right] == wanted
        assert question.is_anomalous == (label != "good")
    assert len(kind) == 10
    assert all(len(question.options) == len(set(question.options.values())) == 4 for question in kind)
    assert len(place) == 5
    assert all(sorted(question.options.values()) == sorted(PLACES) for question in place)
    learnt = set(dataset.train_rows["file"])
    assert all(len(question.references) == 1 and str(question.references[0]) in learnt for question in questions)


def test_the_seed_decides_the_order_of_options_and_the_images_which_are_half_anomalous(
    dataset: ValidatedDataset,
) -> None:
    first, again, other = (line_questions(dataset, most_images=4, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert sum(question.is_anomalous for question in of(DETECTION, first)) == 2
    assert len(of(DETECTION, first)) == 4
    letters = {question.right for seed in range(8) for question in of(DETECTION, line_questions(dataset, seed=seed))}
    assert letters == {"A", "B"}
    (without, *_) = line_questions(dataset, shots=0)
    assert without.references == ()
    assert "The last picture" not in without.prompt


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" b. ", "B"),
        ("**B**", "B"),
        ("(B)", "B"),
        ("B. No", "B"),
        ("B: there is none", "B"),
        ("Answer: A", "A"),
        ("The answer is A because of a dark line.", "A"),
        ("the answer is b", "B"),
        ("At first the answer A seemed right. Final answer: B", "B"),
        ("I choose option B here", "B"),
        ("$\\boxed{A}$", "A"),
        ("<think>A. Yes? Hmm, (B)...</think>A", "A"),
        ("Yes, there is a scratch.", "A"),
        ("No", "B"),
        ("A scratch can be seen, so yes", "A"),
        ("Nothing can be said", None),
        ("Yes or no, who knows", None),
        ("(A) or (B)", None),
        ("I cannot help with that.", None),
        ("C", None),
        ("", None),
    ],
)
def test_a_reply_is_read_as_the_one_option_that_it_names(reply: str, letter: str | None) -> None:
    assert chosen_letter(reply, LETTERS) == letter


def test_a_place_within_a_longer_place_is_not_taken_for_it() -> None:
    options = dict(zip("ABC", ("top", "top left", "left"), strict=True))
    assert chosen_letter("It is at the top-left of the part", options) == "B"
    assert chosen_letter("It is at the top", options) == "A"
    assert chosen_letter("Top left, and further left", options) is None


def test_who_knows_everything_is_always_right_and_who_always_says_yes_is_as_good_as_chance(
    dataset: ValidatedDataset,
) -> None:
    questions = line_questions(dataset)
    perfect = figures(ask_all(knows_everything(questions), questions))
    shares = {name: figure.value for name, figure in perfect.items()}
    none_wanted = {f"{DETECTION}: overkill", f"{DETECTION}: miss", "replies without an option"}
    none_wanted.add("questions without a reply")
    assert {name for name, share in shares.items() if share == 0} == none_wanted
    assert all(share == 1 for name, share in shares.items() if name not in none_wanted)

    yes = figures(ask_all(lambda pictures, text: "Yes", of(DETECTION, questions)))
    normal = sum(not question.is_anomalous for question in of(DETECTION, questions))
    assert yes[f"{DETECTION}: balanced accuracy"].value == 0.5
    assert yes[f"{DETECTION}: overkill"] == Figure(1.0, normal, *interval(normal, normal))
    assert yes[f"{DETECTION}: recall"].value == 1
    assert yes[f"{DETECTION}: precision"].value == pytest.approx(10 / (10 + normal))
    assert "mean over the tasks" not in yes


def question(is_anomalous: bool) -> Question:
    return Question(Path("x.png"), DETECTION, "Is it?", LETTERS, "A" if is_anomalous else "B", is_anomalous)


def test_the_figures_of_detection_are_those_counted_by_hand_and_what_is_unread_is_wrong_and_nothing_else() -> None:
    """Of 6 anomalous ones 3 found, 1 missed, 2 unread; of 4 normal ones 2 rightly, 1 called anomalous, 1 unread."""
    replies = [(True, "A")] * 3 + [(True, "B")] + [(True, None)] * 2
    replies += [(False, "B")] * 2 + [(False, "A"), (False, None)]
    found = figures([Answered(question(bad), "", letter) for bad, letter in replies])
    by_hand = {
        "accuracy": (5 / 10, 10),
        "balanced accuracy": ((3 / 6 + 2 / 4) / 2, 10),
        "overkill": (1 / 4, 4),
        "miss": (1 / 6, 6),
        "recall": (3 / 6, 6),
        "precision": (3 / 4, 4),
        "F1": (2 * 3 / (2 * 3 + 1 + 3), 7),
    }
    for name, (value, n) in by_hand.items():
        figure = found[f"{DETECTION}: {name}"]
        assert figure.value == pytest.approx(value), name
        assert figure.n == n
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < value < figure.high
    assert found["replies without an option"] == Figure.share(3, 10)
    assert (found[f"{DETECTION}: recall"].low, found[f"{DETECTION}: recall"].high) == interval(3, 6)


def test_what_has_no_case_is_undefined_and_not_zero() -> None:
    found = figures([Answered(question(False), "No", "B")])
    assert found[f"{DETECTION}: recall"].value is None
    assert found[f"{DETECTION}: F1"].value is None
    assert found[f"{DETECTION}: balanced accuracy"].value is None
    assert found[f"{DETECTION}: precision"].value is None
    assert str(found[f"{DETECTION}: recall"]) == "–"
    assert found[f"{DETECTION}: overkill"].value == 0


def test_several_are_put_side_by_side_with_what_chance_gives(dataset: ValidatedDataset) -> None:
    questions = line_questions(dataset, most_images=6)
    answers = {
        "knows": ask_all(knows_everything(questions), questions),
        "mumbles": ask_all(lambda pictures, text: "hm", questions),
    }
    table = side_by_side(answers).set_index("figure")
    assert list(table) == ["by chance", "knows", "mumbles"]
    assert table.loc[f"{KIND}: accuracy", "by chance"] == "0.250"
    assert table.loc[f"{PLACE}: accuracy", "by chance"] == "0.111"
    assert str(table.loc[f"{DETECTION}: accuracy", "knows"]).startswith("1.000 (0.541 to 1.000), n 6")
    assert str(table.loc["replies without an option", "mumbles"]).startswith("1.000")
    rows = answer_table(answers)
    assert len(rows) == 2 * len(questions)
    assert set(rows.loc[rows["asked"] == "mumbles", "reply"]) == {"hm"}


def test_one_failure_is_counted_and_three_in_a_row_end_it(dataset: ValidatedDataset) -> None:
    questions = of(DETECTION, line_questions(dataset))[:5]
    asked = []

    def fails(*places: int):  # type: ignore[no-untyped-def]
        asked.clear()

        def ask(pictures: Sequence[Image.Image], text: str) -> str:
            asked.append(text)
            if len(asked) - 1 in places:
                raise VadError(f"nobody answered question {len(asked)}")
            return "A"

        return ask

    answers = ask_all(fails(0, 1, 3, 4), questions)
    assert [bool(one.failure) for one in answers] == [True, True, False, True, True]
    assert figures(answers)["questions without a reply"].value == 4 / 5
    with pytest.raises(VadError, match="question 4"):
        ask_all(fails(1, 2, 3), questions)
    assert len(asked) == 4


def test_pictures_come_normal_ones_first_and_not_larger_than_they_need_be(
    dataset: ValidatedDataset, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.png"
    Image.fromarray(np.tile(crop(1), (1, 60))).save(wide)
    seen: list[tuple[int, int]] = []
    asked = Question(wide, PLACE, "Where?", LETTERS, "A", True, (Path(dataset.train_rows["file"].iloc[0]),))

    def ask(pictures: Sequence[Image.Image], text: str) -> str:
        seen.extend(picture.size for picture in pictures)
        return "A"

    ask_all(ask, [asked])
    assert seen == [(40, 40), (1024, 17)]


MMAD = {
    "DS-MVTec/bottle/image/broken/000.png": {
        "image_path": "image/broken/000.png",
        "mask_path": "mask/broken/000_mask.png",
        "conversation": [
            {"Question": "Is there any defect in the object?", "Answer": "A", "Options": LETTERS, "type": DETECTION},
            {
                "Question": "What is the appearance of the defect?",
                "Answer": "C",
                "Options": {"A": "Bent", "B": "Burnt", "C": "Cracked", "D": "Wet"},
                "type": "Defect Description",
            },
            {
                "Question": "What is the structure of the object?",
                "Answer": "B",
                "Options": {"A": "Square", "B": "Round"},
                "type": "Object Structure",
            },
        ],
        "similar_templates": ["MVTec-AD/bottle/train/good/001.png", "MVTec-AD/bottle/train/good/002.png"],
        "random_templates": ["MVTec-AD/bottle/train/good/009.png"],
    },
    "DS-MVTec/bottle/image/good/003.png": {
        "conversation": [
            {"Question": "Is there any defect in the object?", "Answer": "B", "Options": LETTERS, "type": DETECTION}
        ],
        "similar_templates": ["MVTec-AD/bottle/train/good/001.png"],
    },
    "VisA/candle/test/bad/000.JPG": {
        "conversation": [{"Question": "?", "Answer": "A", "Options": LETTERS, "type": DETECTION}],
        "similar_templates": [],
    },
}
"""Five questions in the form of MMAD's file, made by hand."""


def write_mmad(folder: Path, content: object) -> Path:
    """Write a copy that lacks the images of one set and one template."""
    names = [name for name in MMAD if name.startswith("DS-MVTec")]
    write_images(folder, [*names, "MVTec-AD/bottle/train/good/001.png"])
    (folder / "mmad.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def mmad(tmp_path: Path) -> Path:
    return write_mmad(tmp_path, MMAD)


def test_a_copy_of_mmad_gives_its_questions_and_images_that_are_not_there_are_passed_over(mmad: Path) -> None:
    questions = mmad_questions(mmad)
    assert [one.task for one in questions] == [DETECTION, "Defect Description", "Object Analysis", DETECTION]
    assert [one.right for one in questions] == ["A", "C", "B", "B"]
    assert [one.is_anomalous for one in questions] == [True, True, True, False]
    assert questions[1].options == {"A": "Bent", "B": "Burnt", "C": "Cracked", "D": "Wet"}
    assert all(one.references == (mmad / "MVTec-AD/bottle/train/good/001.png",) for one in questions)
    assert "C. Cracked\n" in questions[1].prompt
    assert len(mmad_questions(mmad, most_images=1)) in (1, 3)
    assert not mmad_questions(mmad, shots=0)[0].references
    found = figures(ask_all(knows_everything(questions), questions))
    assert found["mean over the tasks"].value == 1
    assert found["Object Analysis: accuracy"].n == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "another form than MMAD's"),
        ("{", "cannot be read as JSON"),
        ('{"a.png": {}}', "another form than MMAD's"),
        ('{"a.png": {"conversation": [{"Options": {"A": "x"}, "Answer": "B"}]}}', "none of the options"),
        ('{"b.png": {}}', "None of the 1 images"),
        ('{"../a.png": {}}', "outside its folder"),
    ],
)
def test_what_is_no_copy_of_mmad_is_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=r"mmad\.json cannot be read"):
        mmad_questions(tmp_path)
    write_images(tmp_path, ["a.png"])
    (tmp_path / "mmad.json").write_text(content)
    with pytest.raises(InputError, match=words):
        mmad_questions(tmp_path)
