"""Files of a watch folder and what becomes of each."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from brightness_model import THORN, BrightnessModel, write_image
from inspection_rig import Rig
from sqlalchemy import text

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.inspection import Served, inspect_rows, reader, rescore_predictions
from vad_lib.inspection.worker import LONGEST_RETRY_SECONDS, RETRY_SECONDS
from vad_lib.tables import DroppedRows, Predictions


def offer_everything(rig: Rig) -> None:
    """Do as if the pauses before another attempt were over."""
    with rig.db.writing() as connection:
        connection.execute(text("UPDATE incoming_files SET leased_until = NULL WHERE leased_by IS NULL"))


@pytest.mark.spec("V5.03", "Q1.11")
def test_every_readable_image_has_a_prediction_and_every_other_file_a_reason(rig: Rig) -> None:
    write_image(rig.inbox / "dark.png", 20)
    write_image(rig.inbox / "deep" / 'o\'brien "größe".png', 200)
    (rig.inbox / "empty.png").write_bytes(b"")
    (rig.inbox / "text.png").write_text("not a picture")
    (rig.inbox / "note.txt").write_text("a note")
    whole = write_image(rig.inbox / "cut.png", 60, size=64).read_bytes()
    (rig.inbox / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = rig.inspect()
    Predictions.validate(result.predictions)
    DroppedRows.validate(result.refused)
    assert dict(zip(result.predictions["image_path"], result.predictions["predicted"], strict=True)) == {
        "dark.png": "OK",
        'deep/o\'brien "größe".png': "NG",
    }
    assert set(result.refused["image_path"]) == {"empty.png", "text.png", "cut.png"}
    assert rig.states() == {
        "dark.png": "done",
        'deep/o\'brien "größe".png': "done",
        "empty.png": "unreadable_image",
        "text.png": "unreadable_image",
        "cut.png": "unreadable_image",
        "note.txt": "not_an_image",
    }
    assert (result.scored, result.reused, result.left) == (2, 0, 0)
    recorded = rig.db.predictions("bottles")
    assert rig.db.predictions("bottles", newest=2)["prediction_id"].tolist() == recorded["prediction_id"].tolist()[-2:]
    assert recorded["threshold"].tolist() == [100.0, 100.0]
    assert set(recorded["run_id"]) == {"run 1"}
    refused = rig.db.refused("bottles")
    assert len(refused) == 4
    for row in refused.itertuples():
        if row.path != "empty.png":  # there is nothing to keep
            assert Path(row.quarantine_file).read_bytes() == (rig.inbox / row.path).read_bytes()


@pytest.mark.spec("D1")
def test_the_decision_is_made_on_p_with_the_threshold_that_was_given(rig: Rig) -> None:
    write_image(rig.inbox / "at.png", 100)
    rig.inspect()
    at = rig.result().predictions.iloc[0]
    assert (at["p"], at["predicted"], at["certainty"]) == (0.5, "NG", 0.0)
    assert rig.result(inference_threshold=0.51).predictions["predicted"].tolist() == ["OK"]
    # What was recorded is what was decided first.
    assert rig.db.predictions("bottles")["predicted"].tolist() == ["NG"]


@pytest.mark.spec("Q1.09")
def test_the_same_content_at_another_path_is_refused_by_the_name_of_the_first(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 20)
    rig.register()
    shutil.copy(rig.inbox / "a.png", rig.inbox / "b.png")
    model = BrightnessModel()
    result = rig.inspect(model)
    assert result.predictions["image_path"].tolist() == ["a.png"]
    assert result.refused["reason"].tolist() == ["the same content as a.png, which was registered first"]
    shutil.copy(rig.inbox / "a.png", rig.inbox / "later.png")
    assert rig.inspect(model).refused["rule"].tolist() == ["duplicate"]
    assert rig.file("later.png").duplicate_of == "a.png"
    assert model.images == 1
    assert rig.db.count_predictions("bottles") == 1


def test_doing_it_again_scores_nothing_twice(rig: Rig) -> None:
    for i in range(10):
        write_image(rig.inbox / f"{i}.png", 30 + i, nonce=i)
    model = BrightnessModel()
    assert rig.inspect(model).scored == 10
    assert rig.register() == 0
    assert rig.work(model) == 0
    assert model.images == 10


def test_a_version_promoted_between_two_chunks_leaves_one_result_an_image(rig: Rig) -> None:
    for i in range(4):
        write_image(rig.inbox / f"{i}.png", 30, nonce=i)
    rig.register()
    assert rig.work(most=2, chunk=2) == 2
    assert rig.work(version="2") == 2
    assert rig.db.predictions("bottles")["model_version"].tolist() == ["1", "1", "2", "2"]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_size_of_chunks_changes_no_result(rig: Rig, chunk: int) -> None:
    for i in range(7):
        write_image(rig.inbox / f"{i}.png", 90 + 3 * i)
    assert rig.inspect(chunk=chunk).predictions["predicted"].tolist() == ["OK"] * 4 + ["NG"] * 3


def test_a_run_takes_at_most_as_many_files_as_it_was_told_and_leaves_the_rest_waiting(rig: Rig) -> None:
    for i in range(7):
        write_image(rig.inbox / f"{i}.png", 90, nonce=i)
    rig.register()
    assert rig.work(most=5, chunk=3) == 5
    assert rig.result().left == 2
    assert rig.db.file_counts("bottles") == {"pending": 2, "done": 5, "refused": 0}


def test_one_image_on_which_the_detector_fails_costs_the_others_nothing(rig: Rig) -> None:
    for i in range(5):
        write_image(rig.inbox / f"{i}.png", 50 + i)
    write_image(rig.inbox / "thorn.png", THORN)
    result = rig.inspect()
    assert len(result.predictions) == 5
    assert result.refused["reason"].tolist() == ["the detector failed on it: matrix is singular"]


def test_an_image_on_which_the_detector_fails_is_refused_also_where_it_comes_alone(rig: Rig) -> None:
    write_image(rig.inbox / "thorn.png", THORN)
    result = rig.inspect()
    assert result.refused["reason"].tolist() == ["the detector failed on it: matrix is singular"]
    assert rig.file("thorn.png").rule == "detector_failed"


@pytest.mark.spec("Q1.10")
def test_a_detector_that_fails_on_everything_blames_no_image(rig: Rig) -> None:
    for i in range(5):
        write_image(rig.inbox / f"{i}.png", 50 + i)
    rig.register()
    for _ in range(6):
        with pytest.raises(RuntimeError, match="no memory on the accelerator"):
            rig.work(BrightnessModel(broken=True))
        assert rig.file("0.png").reason == "no memory on the accelerator"
        offer_everything(rig)
    files = rig.db.incoming_files("bottles")
    assert files["state"].tolist() == ["pending"] * 5
    assert files["deliveries"].sum() == 0
    assert rig.work() == 5


def test_what_failed_is_not_tried_again_at_once(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.register()
    with pytest.raises(RuntimeError):
        rig.work(BrightnessModel(broken=True))
    assert rig.work() == 0
    assert rig.result().left == 1
    offer_everything(rig)
    assert rig.work() == 1


def test_a_score_that_is_no_number_is_a_failure_of_the_detector(rig: Rig) -> None:
    class Confused(BrightnessModel):
        def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
            answers = super().predict_pixels(images, with_maps=with_maps)
            return [each._replace(raw_score=float("nan")) if round(each.raw_score) == 77 else each for each in answers]

    write_image(rig.inbox / "a.png", 50)
    write_image(rig.inbox / "odd.png", 77)
    result = rig.inspect(Confused())
    assert result.predictions["image_path"].tolist() == ["a.png"]
    assert result.refused["reason"].tolist() == ["the detector failed on it: its score is nan"]


@pytest.mark.spec("Q1.10")
def test_a_watch_folder_that_went_away_blames_no_image(rig: Rig) -> None:
    for i in range(3):
        write_image(rig.inbox / f"{i}.png", 50, nonce=i)
    rig.register()
    for _ in range(6):
        rig.inbox.rename(rig.inbox.with_name("away"))
        with pytest.raises(InputError, match="cannot be read"):
            rig.work()
        rig.inbox.with_name("away").rename(rig.inbox)
        offer_everything(rig)
    assert rig.db.incoming_files("bottles")["deliveries"].sum() == 0
    assert rig.work() == 3


@pytest.mark.spec("Q1.10")
def test_a_share_that_answers_with_errors_blames_no_image(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_image(rig.inbox / f"{i}.png", 50, nonce=i)
    rig.register()

    def fail(file: Path, *_: object, **__: object) -> object:
        error = UnreadableImageError(file, "cannot be read (Stale file handle)")
        raise error from OSError(errno.ESTALE, "Stale file handle")

    for _ in range(6):
        with monkeypatch.context() as away:
            away.setattr(reader, "read_with_facts", fail)
            assert rig.work() == 0
        offer_everything(rig)
    files = rig.db.incoming_files("bottles")
    assert files["reason"].tolist() == ["cannot be read (Stale file handle)"] * 3
    assert files["deliveries"].sum() == 0
    assert rig.work() == 3


def test_one_file_that_never_can_be_read_is_tried_less_and_less_often_and_then_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(rig.inbox / "a.png", 50)
    write_image(rig.inbox / "b.png", 60)
    read = reader.read_with_facts

    def fail_on_a(file: Path, *more: Any, **others: Any) -> Any:
        if file.name == "a.png":
            raise UnreadableImageError(file, "cannot be read (Input/output error)") from OSError(errno.EIO, "I/O")
        return read(file, *more, **others)

    monkeypatch.setattr(reader, "read_with_facts", fail_on_a)
    rig.inspect()
    assert rig.states() == {"a.png": "pending", "b.png": "done"}
    pauses = []
    for _ in range(4):
        with rig.db.reading() as connection:
            now = rig.db.clock(connection)
        pauses.append((rig.file("a.png").leased_until - now).total_seconds())
        offer_everything(rig)
        rig.work()
    assert rig.states()["a.png"] == "poison_image"
    assert "cannot be read (Input/output error)" in rig.file("a.png").reason
    expected = [min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2**n) for n in range(4)]
    assert pauses == pytest.approx(expected, abs=5)


def test_a_file_that_vanished_is_registered_again_when_it_is_back(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.register()
    (rig.inbox / "a.png").rename(rig.line.folder / "a.png")
    rig.work()
    assert rig.states() == {"a.png": "vanished"}
    assert rig.register() == 0
    (rig.line.folder / "a.png").rename(rig.inbox / "a.png")
    assert len(rig.inspect().predictions) == 1
    assert rig.db.file_counts("bottles") == {"pending": 0, "done": 1, "refused": 0}


def test_a_file_written_to_after_it_was_registered_is_predicted_once_as_what_it_became(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 50)
    rig.register()
    write_image(rig.inbox / "a.png", 150, size=20)
    rig.work()
    assert rig.states() == {"a.png": "changed"}
    assert rig.inspect().predictions["predicted"].tolist() == ["NG"]
    assert rig.db.count_predictions("bottles") == 1
    assert rig.db.refused("bottles").empty


def test_a_link_out_of_the_folder_is_refused_and_never_followed(rig: Rig) -> None:
    secret = write_image(rig.line.folder / "secret.png", 50)
    (rig.inbox / "link.png").symlink_to(secret)
    write_image(rig.inbox / "a.png", 60)
    rig.inspect()
    assert rig.states() == {"link.png": "leaves_folder", "a.png": "done"}
    (kept,) = rig.db.refused("bottles").itertuples()
    assert kept.quarantine_file is None
    assert "leaves the folder" in kept.quarantine_note


@pytest.mark.spec("I1.04")
def test_a_link_swapped_in_after_the_scan_does_not_lead_out(rig: Rig) -> None:
    write_image(rig.inbox / "a.png", 60)
    rig.register()
    secret = rig.line.folder / "secret.png"
    (rig.inbox / "a.png").rename(secret)
    (rig.inbox / "a.png").symlink_to(secret)
    rig.work()
    assert rig.states() == {"a.png": "leaves_folder"}
    assert rig.db.count_predictions("bottles") == 0
    assert not rig.line.quarantine.exists()


@pytest.mark.spec("Q1.11")
def test_an_unwritable_quarantine_never_stops_an_inspection(rig: Rig) -> None:
    rig.line.quarantine.write_text("a file stands in the way")
    (rig.inbox / "text.png").write_text("not a picture")
    (rig.inbox / "note.txt").write_text("a note")
    rig.inspect()
    refused = rig.db.refused("bottles")
    assert len(refused) == 2
    assert refused["quarantine_note"].str.startswith("not copied").all()


@pytest.mark.spec("V5.06")
def test_maps_are_written_where_asked_and_survive_a_second_look(rig: Rig, tmp_path: Path) -> None:
    write_image(rig.inbox / "a.png", 60)
    result = rig.inspect(maps_folder=tmp_path / "maps")
    loaded = result.load_map(0)
    assert loaded.dtype == np.float32
    assert loaded.mean() == pytest.approx(60, abs=1)
    assert rig.result(maps_folder=tmp_path / "maps").load_map(0).shape == loaded.shape
    assert rig.result().map_files == {}


def test_progress_counts_every_file_and_stopping_blames_nobody(rig: Rig) -> None:
    for i in range(6):
        write_image(rig.inbox / f"{i}.png", 50 + i)
    rig.register()

    def stop(update: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.work(progress=stop, chunk=2)
    files = rig.db.incoming_files("bottles")
    assert files["state"].value_counts().to_dict() == {"pending": 4, "done": 2}
    assert files["leased_by"].isna().all()
    updates: list[int] = []
    rig.work(progress=lambda update: updates.append(update.done), chunk=2)
    assert updates[-1] == 4


def test_a_worker_that_is_interrupted_in_the_middle_leaves_no_lease_and_no_blame(rig: Rig) -> None:
    class Interrupted(BrightnessModel):
        def predict_pixels(self, images: Any, *, with_maps: bool = False) -> Any:
            raise KeyboardInterrupt

    write_image(rig.inbox / "a.png", 50)
    rig.register()
    with pytest.raises(KeyboardInterrupt):
        rig.work(Interrupted())
    row = rig.file("a.png")
    assert (row.state, row.leased_by, row.deliveries) == ("pending", None, 0)


def test_old_predictions_are_decided_anew_from_their_raw_scores_without_a_model(rig: Rig) -> None:
    """Design: a threshold may change without a refit."""
    for i in range(5):
        write_image(rig.inbox / f"{i}.png", 80 + 10 * i)
    rig.inspect()
    model = BrightnessModel()
    stricter = model.threshold.model_copy(update={"value": 85.0})
    table = rescore_predictions(
        rig.db, "bottles", model_version="1", threshold=stricter, calibration=model.calibration
    ).sort_values("raw_score")
    assert table["predicted"].tolist() == ["OK", "NG", "NG", "NG", "NG"]
    assert table["predicted_before"].tolist() == ["OK", "OK", "NG", "NG", "NG"]
    assert table["changed"].sum() == 1
    assert rescore_predictions(
        rig.db, "bottles", model_version="9", threshold=stricter, calibration=model.calibration
    ).empty


def test_large_images_of_one_chunk_are_decoded_a_few_at_a_time_and_all_are_decided(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(BrightnessModel):
        most = 0

        def predict_pixels(self, images, **more):  # type: ignore[no-untyped-def]
            self.most = max(self.most, len(images))
            return super().predict_pixels(images, **more)

    monkeypatch.setattr(reader, "MOST_PIXELS", 2 * 64 * 64)
    for number in range(11):
        write_image(rig.inbox / f"{number}.png", 20, nonce=number, size=64)
    model = Counting()
    result = rig.inspect(model, chunk=16)
    assert result.scored == 11
    assert set(rig.states().values()) == {"done"}
    assert model.most == reader.MAX_READERS
    assert set(rig.db.incoming_files("bottles")["deliveries"]) == {0}


def test_rows_of_a_table_are_decoded_a_few_large_ones_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_PIXELS", 64 * 64)
    files = [write_image(rig.inbox / f"{number}.png", 20, nonce=number, size=64) for number in range(9)]
    rows = pd.DataFrame({"row": range(9), "image_path": [file.name for file in files], "file": list(map(str, files))})
    model = BrightnessModel()
    assert inspect_rows(rig.db, "bottles", Served(model, "1"), rows, batch_size=9).scored == 9
    assert model.calls == 3
