"""A forecast beside what really happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from vad_lib.detectors.fit_forecast import Size
from vad_lib.forecast.records import Forecast
from vad_lib.machine import MIB

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector


class Actual(BaseModel):
    """What a training took."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(ge=0, description="Of the fit.")
    peak_memory_bytes: int = Field(ge=0, description="Resident memory of the process at its peak during the fit.")
    sizes: tuple[Size, ...] = Field(default=(), description="Of what was learnt.")

    @classmethod
    def of_fit(cls, detector: Detector, seconds: float, peak_memory_bytes: int) -> Actual:
        """Return what a fit took; the fitted detector says the sizes of what it has learnt."""
        return cls(seconds=seconds, peak_memory_bytes=peak_memory_bytes, sizes=detector.sizes())

    def numbers(self) -> dict[str, float]:
        """Return the numbers by name, as a tracker records them."""
        return {
            "actual_seconds": self.seconds,
            "actual_peak_memory_mib": self.peak_memory_bytes / MIB,
            **{f"actual_{size.name}": size.value for size in self.sizes},
        }


@dataclass(frozen=True)
class Comparison:
    """One number, as forecast and as it came; ``ratio`` is actual / forecast, None where the forecast is 0."""

    what: str
    forecast: float
    actual: float

    @property
    def ratio(self) -> float | None:
        return self.actual / self.forecast if self.forecast else None


def compare(forecast: Forecast, actual: Actual, ms_per_image: float | None = None) -> list[Comparison]:
    """Return the numbers side by side; ``ms_per_image`` is what scoring took, where it is known already."""
    found = [
        Comparison("seconds of the fit", forecast.seconds, actual.seconds),
        Comparison("peak memory in MiB", forecast.peak_memory_bytes / MIB, actual.peak_memory_bytes / MIB),
    ]
    expected = {size.name: size.value for size in forecast.sizes}
    found += [Comparison(size.label, expected.get(size.name, 0.0), size.value) for size in actual.sizes]
    if ms_per_image is not None:
        found.append(Comparison("ms per image", forecast.ms_per_image, ms_per_image))
    return found
