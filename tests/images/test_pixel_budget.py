"""Large pictures that are decoded, prepared and drawn at once stay within one budget, and nobody waits for ever."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from vad_lib.heatmaps import HeatmapScale, draw_heatmap
from vad_lib.images import budget
from vad_lib.images.budget import PixelBudget
from vad_lib.images.decoding import decode_bytes
from vad_lib.preprocessing import Preprocessing

LARGE = 5_000_000


class Watched(PixelBudget):
    """Notes how much was held, by whom, and how many at once."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.most = 0
        self.asked: list[int] = []

    @contextmanager
    def hold(self, pixels, longest=30.0):
        with super().hold(pixels, longest):
            self.asked.append(pixels)
            self.most = max(self.most, self.held)
            time.sleep(0.01)
            yield


def test_decoding_preparing_and_drawing_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(2 * LARGE)
    for module in ("vad_lib.images.decoding", "vad_lib.preprocessing", "vad_lib.heatmaps"):
        monkeypatch.setattr(f"{module}.LARGE_PICTURES", watched)
    stream = io.BytesIO()
    Image.new("L", (2500, 2000), 9).save(stream, "PNG")
    scale = HeatmapScale(low=0.0, high=8.0, contour=3.5)

    def work(number: int) -> None:
        pixels = decode_bytes(stream.getvalue(), "a.png").pixels
        Preprocessing((32, 32)).prepare(pixels)
        draw_heatmap(pixels, np.zeros((8, 8), np.float32), scale)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert watched.asked == [LARGE] * 18
    assert 0 < watched.most <= 2 * LARGE
    assert watched.held == 0


def test_a_picture_larger_than_the_budget_passes_alone_and_room_comes_back_after_an_error() -> None:
    small = PixelBudget(LARGE)

    def fail() -> None:
        with small.hold(9 * LARGE):
            assert small.held == LARGE
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert small.held == 0


def test_everyday_pictures_do_not_wait_for_large_ones() -> None:
    small = PixelBudget(LARGE)
    started = time.monotonic()
    with small.hold(LARGE), small.hold(budget.UNCOUNTED_PIXELS, 30.0):
        assert time.monotonic() - started < 5


def test_a_large_picture_is_not_overtaken_by_smaller_ones_for_ever() -> None:
    shared, order = PixelBudget(3 * LARGE), []

    def take(name: str, pixels: int) -> None:
        with shared.hold(pixels, 30.0):
            order.append(name)

    with shared.hold(LARGE):
        first = threading.Thread(target=take, args=("large", 3 * LARGE))
        first.start()
        deadline = time.monotonic() + 30
        while len(shared._waiting) < 1 and first.is_alive():
            assert time.monotonic() < deadline, "the first one does not wait"
            time.sleep(0.01)
        second = threading.Thread(target=take, args=("smaller", LARGE))
        second.start()
        second.join(0.2)
        assert order == []
    for thread in (first, second):
        thread.join(30)
    assert order == ["large", "smaller"]


def test_a_wait_has_an_end() -> None:
    small = PixelBudget(LARGE)
    with small.hold(LARGE), small.hold(LARGE, 0.05):
        assert small.held == 2 * LARGE
    assert small.held == 0
