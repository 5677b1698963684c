"""What a forecast says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vad_lib.errors import TooLargeError
from vad_lib.progress import format_seconds

MIB, GIB = 2**20, 2**30
LEAST_FACTOR, MOST_FACTOR = 0.7, 1.5
"""A forecast of time is given as a range: other work on the machine makes it longer, rarely shorter."""


class Part(BaseModel):
    """One part of the work."""

    model_config = ConfigDict(frozen=True)

    name: str
    seconds: float = Field(ge=0)
    least_seconds: float = Field(ge=0, description="Where it may end early, such as FastFlow; else a share of it.")


class Forecast(BaseModel):
    """What a training is expected to take: time, memory, disk, the bank, and the speed of what comes out."""

    model_config = ConfigDict(frozen=True)

    model_name: str
    images: int = Field(ge=0, description="Normal images that are learnt from.")
    validation_images: int = Field(ge=0)
    parts: tuple[Part, ...] = Field(description="Of the fit.")
    validation_seconds: float = Field(ge=0, description="Scoring of the validation images after the fit.")
    ms_per_image: float = Field(ge=0, description="To decode and score one image, one after the other.")
    peak_memory_bytes: int = Field(ge=0, description="Resident memory of the whole process at its peak.")
    memory_limit_bytes: int = Field(ge=0, description="What the process may grow to on this machine now.")
    disk_bytes: int = Field(ge=0, description="What results take on disk.")
    disk_free_bytes: int = Field(ge=0)
    bank_method: Literal["exact", "streaming", ""] = Field(default="", description="Of PatchCore.")
    bank_rows: int = Field(default=0, ge=0)
    bank_bytes: int = Field(default=0, ge=0)
    probe_seconds: float = Field(default=0.0, ge=0, description="What the forecast itself took.")
    problems: tuple[str, ...] = Field(default=(), description="Why it cannot be done; empty where it can.")
    advice: tuple[str, ...] = Field(default=(), description="What would fit, where it cannot be done.")
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
        bank = {"forecast_bank_rows": self.bank_rows, "forecast_bank_mib": self.bank_bytes / MIB}
        return {
            "forecast_seconds": self.seconds,
            "forecast_peak_memory_mib": self.peak_memory_bytes / MIB,
            "forecast_ms_per_image": self.ms_per_image,
            **(bank if self.bank_rows else {}),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return what a person wants to know, as (what, value)."""
        least, most = self.range_seconds
        bank = (
            f"{self.bank_rows:,} rows, {size_text(self.bank_bytes)}, chosen by the {self.bank_method} selection"
            if self.bank_rows
            else ""
        )
        told = [
            ("detector", self.model_name),
            ("normal images to learn from", f"{self.images:,}"),
            ("time to fit", f"{duration_text(self.seconds)} ({duration_text(least)} to {duration_text(most)})"),
            *((f"  {part.name}", duration_text(part.seconds)) for part in self.parts),
            ("time to score the validation images", f"{duration_text(self.validation_seconds)}"),
            ("memory at the peak", f"{size_text(self.peak_memory_bytes)} of {size_text(self.memory_limit_bytes)}"),
            ("memory bank", bank),
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


def size_text(size: float) -> str:
    """Write a number of bytes as people say it.

    >>> size_text(3 * 2**30), size_text(5 * 2**20)
    ('3.0 GiB', '5.0 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def duration_text(seconds: float) -> str:
    """As ``format_seconds``, with one decimal below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 10 else format_seconds(seconds)
