"""A batch of landed files and what becomes of each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from brightness_model import THORN, BrightnessModel, write_image
from inspection_plant import Plant

from vad_lib.errors import InputError
from vad_lib.inspection import rescore_predictions
from vad_lib.landing import RunState
from vad_lib.tables import DroppedRows, Predictions


def _reasons(plant: Plant) -> dict[str, str]:
    refused = plant.db.landings(plant.line.name).query("state == 'refused'")
    return dict(zip(refused["path"], refused["rule"], strict=True))


@pytest.mark.spec("V5.03")
def test_every_readable_image_has_a_prediction_and_every_other_file_a_reason(plant: Plant) -> None:
    write_image(plant.inbox / "dark.png", 20)
    write_image(plant.inbox / "deep" / 'o\'brien "größe".png', 200)
    (plant.inbox / "empty.png").write_bytes(b"")
    (plant.inbox / "text.png").write_text("not a picture")
    (plant.inbox / "note.txt").write_text("a note")
    whole = write_image(plant.inbox / "cut.png", 60, size=64).read_bytes()
    (plant.inbox / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = plant.inspect(plant.land_batch(), run_id="r1")
    Predictions.validate(result.predictions)
    DroppedRows.validate(result.refused)
    assert dict(zip(result.predictions["image_path"], result.predictions["predicted"], strict=True)) == {
        "dark.png": "OK",
        'deep/o\'brien "größe".png': "NG",
    }
    assert set(result.refused["image_path"]) == {"empty.png", "text.png", "note.txt", "cut.png"}
    assert _reasons(plant) == {
        "empty.png": "unreadable_image",
        "text.png": "unreadable_image",
        "cut.png": "unreadable_image",
        "note.txt": "not_an_image",
    }
    assert (result.scored, result.reused, result.left) == (2, 0, 0)
    recorded = plant.db.predictions("bottles")
    assert (
        plant.db.predictions("bottles", newest=2)["prediction_id"].tolist() == recorded["prediction_id"].tolist()[-2:]
    )
    assert recorded["threshold"].tolist() == [100.0, 100.0]
    assert set(recorded["run_id"]) == {"r1"}
    kept = plant.db.kept_aside("bottles")
    assert len(kept) == 4
    for row in kept.itertuples():
        assert os.path.samefile(row.kept_file, plant.inbox / row.path)


@pytest.mark.spec("D1")
def test_the_decision_is_made_on_p_with_the_threshold_that_was_given(plant: Plant) -> None:
    write_image(plant.inbox / "at.png", 100)
    batch = plant.land_batch()
    at = plant.inspect(batch).predictions.iloc[0]
    assert (at["p"], at["predicted"], at["certainty"]) == (0.5, "NG", 0.0)
    assert plant.inspect(batch, inference_threshold=0.51).predictions["predicted"].tolist() == ["OK"]
    # What was recorded is what was decided first.
    assert plant.db.predictions("bottles")["predicted"].tolist() == ["NG"]


def test_the_same_content_at_another_path_is_refused_by_the_name_of_the_first(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 20)
    shutil.copy(plant.inbox / "a.png", plant.inbox / "b.png")
    model = BrightnessModel()
    result = plant.inspect(plant.land_batch(), model)
    assert result.predictions["image_path"].tolist() == ["a.png"]
    assert result.refused["reason"].tolist() == ["the same content as a.png, which was taken up first"]
    shutil.copy(plant.inbox / "a.png", plant.inbox / "later.png")
    (request,) = plant.tick(RunState("succeeded")).requests
    later = plant.inspect(request.batch_id, model)
    assert later.refused["rule"].tolist() == ["duplicate"]
    assert model.images == 1
    assert plant.db.count_predictions("bottles") == 1


def test_a_file_written_anew_with_the_same_content_is_the_same_image(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 20)
    plant.inspect(plant.land_batch())
    os.utime(plant.inbox / "a.png", (1, 1))
    (request,) = plant.tick(RunState("succeeded")).requests
    model = BrightnessModel()
    again = plant.inspect(request.batch_id, model)
    assert (len(again.predictions), again.reused, model.images) == (1, 1, 0)
    # Another version of the model has not seen it yet.
    os.utime(plant.inbox / "a.png", (2, 2))
    (request,) = plant.tick(RunState("succeeded")).requests
    assert plant.inspect(request.batch_id, model, model_version="2").scored == 1


def test_a_second_attempt_gives_the_whole_result_and_scores_nothing_twice(plant: Plant) -> None:
    for i in range(10):
        write_image(plant.inbox / f"{i}.png", 30 + i, nonce=i)
    batch = plant.land_batch()
    model = BrightnessModel()
    first = plant.inspect(batch, model)
    second = plant.inspect(batch, model)
    assert model.images == 10
    assert (second.scored, second.reused) == (0, 10)
    assert second.predictions.equals(first.predictions)


def test_a_model_promoted_between_two_attempts_leaves_one_result_an_image(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 30)
    batch = plant.land_batch()
    plant.inspect(batch)
    assert plant.inspect(batch, model_version="2").versions == {"1": 1}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_size_of_chunks_changes_no_result(plant: Plant, batch_size: int) -> None:
    for i in range(7):
        write_image(plant.inbox / f"{i}.png", 90 + 3 * i)
    result = plant.inspect(plant.land_batch(), batch_size=batch_size)
    assert result.predictions["predicted"].tolist() == ["OK"] * 4 + ["NG"] * 3


def test_one_image_on_which_the_detector_fails_costs_the_others_nothing(plant: Plant) -> None:
    for i in range(5):
        write_image(plant.inbox / f"{i}.png", 50 + i)
    write_image(plant.inbox / "thorn.png", THORN)
    result = plant.inspect(plant.land_batch())
    assert len(result.predictions) == 5
    assert result.refused["reason"].tolist() == ["the detector failed on it: matrix is singular"]


def test_a_broken_detector_blames_no_image(plant: Plant) -> None:
    for i in range(5):
        write_image(plant.inbox / f"{i}.png", 50 + i)
    batch = plant.land_batch()
    for _ in range(4):
        with pytest.raises(RuntimeError, match="no memory on the accelerator"):
            plant.inspect(batch, BrightnessModel(broken=True))
    landed = plant.db.landings("bottles")
    assert landed["state"].tolist() == ["pending"] * 5
    assert landed[["begun", "begun_alone"]].to_numpy().sum() == 0
    assert len(plant.inspect(batch).predictions) == 5


def test_a_single_image_on_which_the_detector_always_fails_is_given_up(plant: Plant) -> None:
    write_image(plant.inbox / "thorn.png", THORN)
    batch = plant.land_batch()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="singular"):
            plant.inspect(batch)
    (reason,) = plant.inspect(batch).refused["reason"]
    assert (
        reason
        == "3 inspections ended while they had only this file in hand: the detector failed on it: matrix is singular"
    )


def test_a_landing_folder_that_went_away_blames_no_image(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 50)
    batch = plant.land_batch()
    plant.inbox.rename(plant.inbox.with_name("away"))
    with pytest.raises(InputError, match="cannot be read"):
        plant.inspect(batch)
    plant.inbox.with_name("away").rename(plant.inbox)
    assert len(plant.inspect(batch).predictions) == 1


def test_a_file_that_vanished_is_told_and_taken_up_again_when_it_is_back(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 50)
    batch = plant.land_batch()
    (plant.inbox / "a.png").rename(plant.line.folder / "a.png")
    assert plant.inspect(batch).refused["rule"].tolist() == ["vanished"]
    assert plant.tick(RunState("succeeded")).requests == ()
    (plant.line.folder / "a.png").rename(plant.inbox / "a.png")
    (request,) = plant.tick(RunState("succeeded")).requests
    assert len(plant.inspect(request.batch_id).predictions) == 1
    assert plant.db.landing_counts("bottles") == {"pending": 0, "done": 1, "refused": 0}


def test_a_file_written_to_after_it_landed_is_predicted_once_as_what_it_became(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 50)
    batch = plant.land_batch()
    write_image(plant.inbox / "a.png", 150, size=20)
    assert plant.inspect(batch).refused["rule"].tolist() == ["changed"]
    (request,) = plant.tick(RunState("succeeded")).requests
    assert plant.inspect(request.batch_id).predictions["predicted"].tolist() == ["NG"]
    assert plant.db.count_predictions("bottles") == 1
    assert plant.db.kept_aside("bottles").empty


def test_a_link_out_of_the_folder_is_refused_and_never_followed(plant: Plant) -> None:
    secret = write_image(plant.line.folder / "secret.png", 50)
    (plant.inbox / "link.png").symlink_to(secret)
    write_image(plant.inbox / "a.png", 60)
    result = plant.inspect(plant.land_batch())
    assert result.refused["rule"].tolist() == ["leaves_folder"]
    (kept,) = plant.db.kept_aside("bottles").itertuples()
    assert kept.kept_file is None
    assert "leaves the folder" in kept.kept_note


def test_a_link_swapped_in_after_the_look_does_not_lead_out(plant: Plant) -> None:
    write_image(plant.inbox / "a.png", 60)
    batch = plant.land_batch()
    facts = (plant.inbox / "a.png").stat()
    secret = plant.line.folder / "secret.png"
    (plant.inbox / "a.png").rename(secret)
    (plant.inbox / "a.png").symlink_to(secret)
    assert (plant.inbox / "a.png").stat().st_mtime_ns == facts.st_mtime_ns
    result = plant.inspect(batch)
    assert result.predictions.empty
    assert result.refused["rule"].tolist() == ["leaves_folder"]


def test_kept_files_are_copied_where_they_cannot_be_linked(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (plant.inbox / "text.png").write_text("not a picture")
    plant.inspect(plant.land_batch())
    (kept,) = plant.db.kept_aside("bottles").itertuples()
    assert Path(kept.kept_file).read_text() == "not a picture"


def test_an_unwritable_place_for_kept_files_never_fails_a_batch(plant: Plant) -> None:
    plant.line.kept_aside.write_text("a file stands in the way")
    (plant.inbox / "text.png").write_text("not a picture")
    result = plant.inspect(plant.land_batch())
    assert len(result.refused) == 1
    (kept,) = plant.db.kept_aside("bottles").itertuples()
    assert kept.kept_note.startswith("not kept")


@pytest.mark.spec("V5.06")
def test_maps_are_written_where_asked_and_survive_a_second_attempt(plant: Plant, tmp_path: Path) -> None:
    write_image(plant.inbox / "a.png", 60)
    batch = plant.land_batch()
    plant.inspect(batch, maps_folder=tmp_path / "maps")
    again = plant.inspect(batch, maps_folder=tmp_path / "maps")
    loaded = again.load_map(0)
    assert loaded.dtype == np.float32
    assert loaded.mean() == pytest.approx(60, abs=1)
    assert plant.inspect(batch).map_files == {}


def test_a_batch_of_another_line_is_refused_with_advice(plant: Plant) -> None:
    with pytest.raises(InputError, match=r"no batch 'x'.*vad inspect"):
        plant.inspect("x")


def test_progress_counts_every_file_and_stopping_blames_nobody(plant: Plant) -> None:
    for i in range(6):
        write_image(plant.inbox / f"{i}.png", 50 + i)
    batch = plant.land_batch()

    def stop(update: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant.inspect(batch, progress=stop, batch_size=2)
    landed = plant.db.landings("bottles")
    assert landed["state"].value_counts().to_dict() == {"pending": 4, "done": 2}
    assert landed["begun"].sum() == 0
    updates: list[int] = []
    plant.inspect(batch, progress=lambda update: updates.append(update.done), batch_size=2)
    assert updates[-1] == 4


def test_old_predictions_are_decided_anew_from_their_raw_scores_without_a_model(plant: Plant) -> None:
    """Design: a threshold may change without a refit."""
    for i in range(5):
        write_image(plant.inbox / f"{i}.png", 80 + 10 * i)
    plant.inspect(plant.land_batch())
    model = BrightnessModel()
    stricter = model.threshold.model_copy(update={"value": 85.0})
    table = rescore_predictions(
        plant.db, "bottles", model_version="1", threshold=stricter, calibration=model.calibration
    )
    assert table["predicted"].tolist() == ["OK", "NG", "NG", "NG", "NG"]
    assert table["predicted_before"].tolist() == ["OK", "OK", "NG", "NG", "NG"]
    assert table["changed"].sum() == 1
    assert rescore_predictions(
        plant.db, "bottles", model_version="9", threshold=stricter, calibration=model.calibration
    ).empty
