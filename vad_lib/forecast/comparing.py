"""A forecast beside what really happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from vad_lib.detectors.patchcore.bank_plan import FLOAT_BYTES
from vad_lib.forecast.records import MIB, Forecast

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector


class Truth(BaseModel):
    """What a training took."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(ge=0, description="Of the fit.")
    peak_memory_bytes: int = Field(ge=0, description="Resident memory of the process at its peak during the fit.")
    bank_rows: int = Field(default=0, ge=0)
    bank_bytes: int = Field(default=0, ge=0)

    @classmethod
    def of_fit(cls, detector: Detector, seconds: float, peak_memory_bytes: int) -> Truth:
        """Look at the fitted detector for the size of its bank: rows with their norms."""
        bank = getattr(detector, "bank_", None)
        rows, channels = bank.rows.shape if bank is not None else (0, 0)
        size = FLOAT_BYTES * rows * (channels + 1)
        return cls(seconds=seconds, peak_memory_bytes=peak_memory_bytes, bank_rows=rows, bank_bytes=size)

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name, as a tracker records them."""
        bank = {"actual_bank_rows": self.bank_rows, "actual_bank_mib": self.bank_bytes / MIB}
        return {
            "actual_seconds": self.seconds,
            "actual_peak_memory_mib": self.peak_memory_bytes / MIB,
            **(bank if self.bank_rows else {}),
        }


@dataclass(frozen=True)
class Comparison:
    """One number, as forecast and in truth; ``ratio`` is truth / forecast, None where the forecast is 0."""

    what: str
    forecast: float
    actual: float

    @property
    def ratio(self) -> float | None:
        return self.actual / self.forecast if self.forecast else None


def compare(forecast: Forecast, truth: Truth, ms_per_image: float | None = None) -> list[Comparison]:
    """Return the numbers side by side; ``ms_per_image`` is the truth of scoring, where it is known already."""
    found = [
        Comparison("seconds of the fit", forecast.seconds, truth.seconds),
        Comparison("peak memory in MiB", forecast.peak_memory_bytes / MIB, truth.peak_memory_bytes / MIB),
    ]
    if forecast.bank_rows or truth.bank_rows:
        found.append(Comparison("rows of the memory bank", forecast.bank_rows, truth.bank_rows))
        found.append(Comparison("memory bank in MiB", forecast.bank_bytes / MIB, truth.bank_bytes / MIB))
    if ms_per_image is not None:
        found.append(Comparison("ms per image", forecast.ms_per_image, ms_per_image))
    return found
