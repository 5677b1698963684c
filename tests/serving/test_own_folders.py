"""What a watch takes for landed, by hints and by scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from brightness_model import write_image
from scorer_plant import PlantSource, Starter, until
from vad_lib.scorer.watching import FolderWatch

from vad_lib.inspection_db import InspectionDatabase


@pytest.mark.parametrize("linked", [False, True])
def test_neither_a_hint_nor_a_scan_finds_what_the_line_writes_itself(
    linked: bool, source: PlantSource, db: InspectionDatabase, tmp_path: Path
) -> None:
    line = source.lines["bottles"].line
    landing_folder = line.folder
    if linked:
        landing_folder = tmp_path / "by another name"
        landing_folder.symlink_to(line.folder)
    watch = FolderWatch("bottles", landing_folder, 0.0, skip_folders=line.own_folders)
    own = line.own_folders
    names = ["inbox/landed.png", "kept_aside_by_hand/landed.png"]
    names += [f"{folder.relative_to(line.folder)}/deep/own.png" for folder in own]
    for nonce, name in enumerate(names):
        write_image(line.folder / name, 50, nonce)
        watch.hint(str(landing_folder / name))
    landed = {"inbox/landed.png", "kept_aside_by_hand/landed.png"}
    assert watch.take_hints() == 2
    assert {key.path for key in watch.waiting} == landed
    watch.scan(db, 1)
    assert {key.path for key in watch.waiting} == landed


def test_a_duplicate_that_is_kept_aside_in_the_landing_folder_does_not_land_again(
    start: Starter, source: PlantSource, db: InspectionDatabase
) -> None:
    line = source.lines["bottles"].line
    source.change("bottles", folder=line.folder)
    lane = start()
    write_image(line.folder / "first.png", 50)
    until(lambda: db.count_predictions("bottles") == 1)
    shutil.copy(line.folder / "first.png", line.folder / "again.png")
    until(lambda: line.kept_aside.is_dir() and list(line.kept_aside.iterdir()))
    # Noticed after the link.
    write_image(line.folder / "last.png", 60)
    until(lambda: db.count_predictions("bottles") == 2 and lane.queue.images == 0)
    assert set(db.landings("bottles")["path"]) == {"first.png", "again.png", "last.png"}
