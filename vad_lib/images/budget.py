"""One budget of pixels for all large pictures that this process decodes, prepares or draws at the same time.

A picture of 64 megapixels comes in 480 KiB and takes a gigabyte while it is decoded. Several at once, of whichever
lines, would take all the memory; one after the other they take that of one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

UNCOUNTED_PIXELS = 4_000_000
"""Pictures up to this size, above the guide's limit of 1920 x 1920, are not counted: everyday work never waits."""

LONGEST_WAIT_SECONDS = 60.0
"""After so long a picture goes on all the same: the budget keeps memory low, and loses no image."""


class PixelBudget:
    """Lets large pictures pass as long as they are not too many pixels together, in the order in which they come.

    Nobody may ask for more while holding something: then each holder goes on to its end, and no one waits for ever.

    Args:
        pixels: at the same time. A picture that is larger passes alone.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self.held = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int, longest: float = LONGEST_WAIT_SECONDS) -> Iterator[None]:
        """Hold room for a picture of so many pixels; wait for it at most ``longest`` seconds."""
        if pixels <= UNCOUNTED_PIXELS:
            yield
            return
        wanted, ticket = min(pixels, self.pixels), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and self.held + wanted <= self.pixels, timeout=longest
                )
                self.held += wanted
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.held -= wanted
                self._changed.notify_all()


LARGE_PICTURES = PixelBudget(64_000_000)
"""Of this process: one of the largest pictures that are accepted, or several smaller ones."""
