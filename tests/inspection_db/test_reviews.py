"""What people should look at next: sources take turns, nothing comes to two people, and what is judged stays away."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase, utc_now
from vad_lib.inspection_db.audit import Actor, newest_changes
from vad_lib.inspection_db.labels import label_history, labels_that_hold, record_label, withdraw_label
from vad_lib.inspection_db.monitoring import AUDIT
from vad_lib.inspection_db.reviews import (
    DISAGREEMENT,
    NEAR,
    NEW,
    RANDOM,
    REST,
    SOMEBODY_UNSURE,
    count_judged_today,
    count_waiting,
    hold,
    kinds_said,
    next_to_review,
)
from vad_lib.inspection_db.schema import DONE, descriptions, predictions, reviews, shadow_predictions

KIM, LEE = Actor("Kim"), Actor("Lee")


def content(number: int, *, sampled: bool = False) -> str:
    """Return a sha256, of the random sample or not."""
    digest = sha256(str(number).encode()).hexdigest()
    return ("00" if sampled else "ff") + digest[2:]


def add(db: InspectionDatabase, scores: Sequence[float], *, line: str = "bottles", sampled: bool = False) -> list[int]:
    """Write predictions with these values of p, and return their numbers in the same order."""
    first = db.count_predictions("bottles") + db.count_predictions("caps")
    rows = [
        {
            "line": line, "sha256": content(first + place, sampled=sampled), "model_version": "1", "path": f"/{place}",
            "raw_score": p, "p": p, "certainty": 0.5, "predicted": "NG" if p >= 0.5 else "OK", "threshold": 0.5,
            "threshold_version": "1", "inference_threshold": 0.5, "source": "online", "created_at": utc_now(),
        }
        for place, p in enumerate(scores)
    ]  # fmt: skip
    with db.writing() as connection:
        connection.execute(insert(predictions), rows)
    table = db.predictions(line)
    numbers: Mapping[str, int] = dict(zip(table["sha256"], map(int, table["prediction_id"]), strict=True))
    return [numbers[str(row["sha256"])] for row in rows]


def describe(db: InspectionDatabase, number: int, *, agrees: bool) -> None:
    row = {
        "line": "bottles", "prediction_id": number, "state": DONE, "attempts": 1, "asked_by": "Kim", "language": "en",
        "agrees": agrees, "raw_reply": "…", "created_at": utc_now(), "finished_at": utc_now(),
    }  # fmt: skip
    with db.writing() as connection:
        connection.execute(insert(descriptions), [row])


def given_to(db: InspectionDatabase, person: str, count: int = 100, **more: object) -> dict[int, str]:
    """Return prediction -> why it comes, in order."""
    found = next_to_review(db, "bottles", person, count=count, **more)  # type: ignore[arg-type]
    return {one.prediction_id: one.source for one in found.given}


@pytest.fixture
def db(inspection_url: str) -> InspectionDatabase:
    return InspectionDatabase(inspection_url)


def test_each_source_has_its_turn_and_the_next_call_goes_on_with_the_next_source(db: InspectionDatabase) -> None:
    quiet = add(db, [0.02, 0.03, 0.04])
    near = add(db, [0.52, 0.47, 0.41])
    new = add(db, [0.98, 0.9])
    sampled = add(db, [0.01, 0.02], sampled=True)
    for number in quiet[:2]:
        describe(db, number, agrees=False)
    describe(db, quiet[2], agrees=True)
    expected = {
        quiet[1]: DISAGREEMENT, near[0]: NEAR, new[0]: NEW, sampled[1]: RANDOM,
        quiet[0]: DISAGREEMENT, near[1]: NEAR, new[1]: NEW, sampled[0]: RANDOM, near[2]: NEAR,
    }  # fmt: skip
    # after what is worth a look comes the rest
    assert list(given_to(db, "Kim").items()) == [*expected.items(), (quiet[2], REST)]
    assert count_waiting(db, "bottles", "Kim") == len(expected)
    alone = [next(iter(given_to(db, "Kim", 1, turn=turn).values())) for turn in range(5)]
    assert alone == [DISAGREEMENT, NEAR, NEW, RANDOM, DISAGREEMENT]
    assert given_to(db, "Kim", have=list(expected)) == {quiet[2]: REST}


def test_an_image_on_which_two_versions_differ_is_a_disagreement(db: InspectionDatabase) -> None:
    differ, same = add(db, [0.02, 0.03])
    shadow = {
        "line": "bottles", "model_version": "2", "sampled": True, "raw_score": 1.0, "p": 0.9, "threshold": 1.0,
        "seconds": 0.1, "created_at": utc_now(),
    }  # fmt: skip
    rows = [
        shadow | {"sha256": content(place), "prediction_id": number, "predicted": predicted}
        for place, (number, predicted) in enumerate(((differ, "NG"), (same, "OK")))
    ]
    with db.writing() as connection:
        connection.execute(insert(shadow_predictions), rows)
    found, rest = next_to_review(db, "bottles", "Kim").given
    assert (found.prediction_id, found.source, found.other) == (differ, DISAGREEMENT, "2")
    assert (rest.prediction_id, rest.source) == (same, REST)


def test_a_score_is_new_while_no_judged_image_has_one_like_it(db: InspectionDatabase) -> None:
    highest, alike, between = add(db, [0.99, 0.97, 0.75])
    (first,) = next_to_review(db, "bottles", "Kim", count=1, turn=2).given
    assert (first.prediction_id, first.source, first.nearest) == (highest, NEW, None)
    record_label(db, highest, "NG", by=KIM)
    second, rest = next_to_review(db, "bottles", "Kim", count=5, turn=2).given
    assert (second.prediction_id, second.source, second.nearest) == (between, NEW, 0.99)
    assert (rest.prediction_id, rest.source) == (alike, REST)


def test_what_is_judged_does_not_come_again_and_what_is_withdrawn_does(db: InspectionDatabase) -> None:
    (number,) = add(db, [0.5])
    said = record_label(db, number, "OK", by=KIM)
    assert given_to(db, "Kim") == given_to(db, "Lee") == {}
    assert count_judged_today(db, "bottles") == 1
    with pytest.raises(InputError, match="Kim's"):
        withdraw_label(db, number, by=LEE, only_own=True)
    withdrawn = withdraw_label(db, number, by=KIM, only_own=True)
    assert withdrawn > said
    assert count_judged_today(db, "bottles") == 0
    assert given_to(db, "Lee") == {number: NEAR}


def test_the_newest_prediction_of_an_image_stands_for_it(db: InspectionDatabase) -> None:
    old, other = add(db, [0.5, 0.52])
    with db.writing() as connection:
        connection.execute(
            update(predictions).where(predictions.c.prediction_id == other).values(sha256=content(0), model_version="2")
        )
    assert given_to(db, "Kim") == {other: NEAR}
    record_label(db, old, "OK", by=KIM)
    assert given_to(db, "Kim") == {}


def test_who_is_unsure_leaves_the_image_to_one_other_person_after_all_others(db: InspectionDatabase) -> None:
    unclear, clear = add(db, [0.5, 0.45])
    record_label(db, unclear, "unsure", by=KIM)
    assert given_to(db, "Kim") == {clear: NEAR}
    hold(db, "bottles", "Kim", clear)
    assert given_to(db, "Lee") == {unclear: SOMEBODY_UNSURE}
    found = next_to_review(db, "bottles", "Lee", count=1).given
    assert [one.person for one in found] == ["Kim"]
    record_label(db, unclear, "unsure", by=LEE)
    assert given_to(db, "Park") == {}, "two could not tell"


def test_two_people_get_different_images_until_a_lease_ends(db: InspectionDatabase) -> None:
    add(db, [0.5, 0.49, 0.48])
    kims, lees = given_to(db, "Kim", 2), given_to(db, "Lee", 2)
    assert (len(kims), len(lees)) == (2, 1)
    assert not set(kims) & set(lees)
    assert given_to(db, "Kim", 2) == kims, "a page that is loaded again gets its images again"
    with db.writing() as connection:
        connection.execute(update(reviews).where(reviews.c.person == "Kim").values(leased_until=utc_now()))
    assert set(given_to(db, "Park", 3)) == set(kims)
    lost = next_to_review(db, "bottles", "Kim", count=3, have=list(kims))
    assert (lost.given, sorted(lost.lost)) == ([], sorted(kims)), "who sleeps over the lease is told"


def test_lines_do_not_mix(db: InspectionDatabase) -> None:
    (here,) = add(db, [0.5])
    (there,) = add(db, [0.5], line="caps")
    record_label(db, here, "NG", by=KIM, kind="crack")
    assert given_to(db, "Kim") == {}
    assert [one.prediction_id for one in next_to_review(db, "caps", "Kim").given] == [there]
    assert (kinds_said(db, "bottles"), kinds_said(db, "caps")) == (["crack"], [])


def test_many_people_at_once_judge_every_image_once(db: InspectionDatabase) -> None:
    chosen = random.Random(1)
    numbers = add(db, [0.5 + chosen.uniform(-0.1, 0.1) for _ in range(40)])
    given_out: list[int] = []
    faults: list[BaseException] = []

    def judge(person: str) -> None:
        try:
            for _ in range(len(numbers)):
                found = next_to_review(db, "bottles", person, count=3).given
                if not found:
                    return
                for one in found:
                    given_out.append(one.prediction_id)
                    record_label(db, one.prediction_id, "OK", by=Actor(person))
        except BaseException as error:
            faults.append(error)

    people = [threading.Thread(target=judge, args=(f"person {number}",)) for number in range(6)]
    for one in people:
        one.start()
    for one in people:
        one.join(60)
    assert not faults
    assert Counter(given_out) == Counter(numbers)
    assert len(labels_that_hold(db, "bottles")) == len(numbers)


@given(st.lists(st.tuples(st.sampled_from(["Kim", "Lee", "Park"]), st.sampled_from(["OK", "unsure", "back", "look"]))))
@settings(max_examples=25)
def test_nobody_ever_gets_what_another_holds_or_has_judged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    db = InspectionDatabase(f"sqlite:///{tmp_path_factory.mktemp('law')}/inspection.db")
    with db.kept_open():
        add(db, [0.5, 0.52, 0.9, 0.45])
        add(db, [0.1, 0.12], sampled=True)
        held: dict[int, str] = {}
        judged: dict[int, list[str]] = {}
        last: dict[str, int] = {}
        for person, step in steps:
            if step == "back" and person in last and judged[last[person]]:
                withdraw_label(db, last[person], by=Actor(person), only_own=True)
                judged[last[person]].clear()
                del last[person]
                continue
            for one in next_to_review(db, "bottles", person, count=2).given:
                assert held.setdefault(one.prediction_id, person) == person
                assert not judged.get(one.prediction_id) or one.source == SOMEBODY_UNSURE
                assert one.is_blind == (one.sha256 < AUDIT)
                if step in ("OK", "unsure") and one.source != SOMEBODY_UNSURE:
                    record_label(db, one.prediction_id, step, by=Actor(person))  # type: ignore[arg-type]
                    judged.setdefault(one.prediction_id, []).append(person)
                    last[person] = one.prediction_id


def test_what_is_sent_twice_is_written_once(db: InspectionDatabase) -> None:
    (number,) = add(db, [0.5])
    said = [record_label(db, number, "NG", by=KIM, key="first") for _ in range(2)]
    back = [withdraw_label(db, number, by=KIM, key="second") for _ in range(2)]
    assert (said[0], back[0]) == (said[1], back[1])
    assert list(label_history(db, "bottles")["label"]) == ["NG", "withdrawn"]
    assert len(newest_changes(db)) == 2


def test_what_two_connections_send_at_once_is_written_once(db: InspectionDatabase) -> None:
    (number,) = add(db, [0.5])
    begin, written = threading.Barrier(4), set()

    def send() -> None:
        begin.wait(20)
        written.add(record_label(db, number, "OK", by=KIM, key="the same"))

    senders = [threading.Thread(target=send) for _ in range(4)]
    for one in senders:
        one.start()
    for one in senders:
        one.join(30)
    assert len(written) == 1
    assert len(label_history(db, "bottles")) == 1
