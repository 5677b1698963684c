"""Files become batches: grouped by shape, in order, and one bad file never in the way."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.detectors.images import ImageDataset, group_by_shape, read_ahead
from vad_lib.preprocessing import Preprocessing


@given(st.lists(st.sampled_from([(1, 1), (2, 1), (3, 2)]), max_size=40), st.integers(1, 5))
def test_every_image_is_in_one_batch_of_its_shape(shapes: list[tuple[int, int]], batch_size: int) -> None:
    batches = group_by_shape(range(len(shapes)), shapes, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(len({shapes[index] for index in batch}) == 1 for batch in batches)


@pytest.mark.spec("V4.01", "V4.03", "V4.04", "V14.12", "V7.05")
def test_images_of_two_aspects_come_in_batches_of_equal_shapes(tmp_path: Path) -> None:
    square, wide = write_tiles(tmp_path / "a", 3), write_tiles(tmp_path / "b", 2, width=128)
    rows = pd.concat([square, wide], ignore_index=True)
    images = ImageDataset.from_rows(rows, Preprocessing(32))
    batches = list(images.batches(8))
    assert [(batch.indices, tuple(batch.images.shape)) for batch in batches] == [
        ([0, 1, 2], (3, 3, 32, 32)),
        ([3, 4], (2, 3, 32, 64)),
    ]
    assert torch.equal(batches[1].images[0], images[3])


def test_an_order_is_kept_and_an_unreadable_file_is_left_out_with_its_reason(tmp_path: Path) -> None:
    rows = write_tiles(tmp_path, 5)
    Path(rows["file"][3]).write_bytes(b"")
    images = as_dataset(rows)
    assert [batch.indices for batch in images.batches(2, [4, 3, 2, 1, 0])] == [[4], [2, 1], [0]]
    assert images.unreadable == {3: "empty file"}


def test_a_file_that_changed_its_size_since_it_was_checked_is_still_read(tmp_path: Path) -> None:
    rows = write_tiles(tmp_path / "a", 2)
    other = write_tiles(tmp_path / "b", 1, width=128)
    Path(rows["file"][1]).write_bytes(Path(other["file"][0]).read_bytes())
    batches = list(ImageDataset.from_rows(rows, Preprocessing(32)).batches(4))
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(32, 32), (32, 64)]


def test_reading_images_draws_nothing_from_the_global_generator(tiles: pd.DataFrame) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(as_dataset(tiles).batches(4))
    assert torch.equal(torch.rand(2), expected)


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    def source() -> object:
        yield 1
        yield 2
        raise OSError("share is gone")

    items = read_ahead(source())  # type: ignore[arg-type]
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="share is gone"):
        next(items)
