"""What a forecast says."""

from __future__ import annotations

from pydantic import Field

from vad_lib.detectors.fit_forecast import FitForecast
from vad_lib.errors import TooLargeError
from vad_lib.machine import MIB, size_text
from vad_lib.progress import format_seconds

OBJECTIVE_SECONDS = 3.0
"""The latency objective: 95 of 100 images have their result so soon after they arrived."""
LEAST_FACTOR, MOST_FACTOR = 0.7, 1.5
"""A forecast of time is given as a range: other work on the machine makes it longer, rarely shorter."""


class Forecast(FitForecast):
    """What a training is expected to take: time, memory, disk, and the speed of what comes out."""

    model_name: str
    images: int = Field(ge=0, description="Normal images that are learnt from.")
    validation_images: int = Field(ge=0)
    validation_seconds: float = Field(ge=0, description="Scoring of the validation images after the fit.")
    memory_limit_bytes: int = Field(ge=0, description="What the process may grow to on this machine now.")
    disk_bytes: int = Field(ge=0, description="What results take on disk.")
    disk_free_bytes: int = Field(ge=0)
    probe_seconds: float = Field(default=0.0, ge=0, description="What the forecast itself took.")
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the fit."""
        return sum(part.seconds for part in self.parts)

    @property
    def range_seconds(self) -> tuple[float, float]:
        """The fit, at the least and at the most."""
        return sum(part.least_seconds for part in self.parts) * LEAST_FACTOR, self.seconds * MOST_FACTOR

    @property
    def fits(self) -> bool:
        return not self.problems

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name, as a tracker records them."""
        return {
            "forecast_seconds": self.seconds,
            "forecast_peak_memory_mib": self.peak_memory_bytes / MIB,
            "forecast_ms_per_image": self.ms_per_image,
            **{f"forecast_{size.name}": size.value for size in self.sizes},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return what a person wants to know, as (what, value)."""
        least, most = self.range_seconds
        told = [
            ("detector", self.model_name),
            ("normal images to learn from", f"{self.images:,}"),
            ("time to fit", f"{duration_text(self.seconds)} ({duration_text(least)} to {duration_text(most)})"),
            *((f"  {part.name}", duration_text(part.seconds)) for part in self.parts),
            ("time to score the validation images", f"{duration_text(self.validation_seconds)}"),
            ("memory at the peak", f"{size_text(self.peak_memory_bytes)} of {size_text(self.memory_limit_bytes)}"),
            *self.notes,
            ("disk", f"{size_text(self.disk_bytes)} of {size_text(self.disk_free_bytes)} that are free"),
            ("inspecting an image", f"{self.ms_per_image:.0f} ms"),
        ]
        return [(what, value) for what, value in told if value]


def require_fit(forecast: Forecast) -> None:
    """Refuse a training that cannot fit.

    Raises:
        TooLargeError: says what it lacks, and what would fit.
    """
    if forecast.fits:
        return
    advice = "\n".join(f"- {one}" for one in forecast.advice)
    would = f"\nWhat would fit, each by itself:\n{advice}" if advice else ""
    raise TooLargeError(" ".join(forecast.problems) + would)


def duration_text(seconds: float) -> str:
    """As ``format_seconds``, with one decimal below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else format_seconds(seconds)
