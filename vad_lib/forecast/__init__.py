"""What a training will take, said before it begins, and compared with the truth afterwards.

``forecast_training`` probes for a few seconds: some of the line's own images are decoded and taken through the real
network, a small piece of the memory bank is chosen, FastFlow makes a few real steps. ``laws`` scales these up; how
much memory and how many rows a bank takes is the arithmetic of ``detectors.patchcore.bank_plan``, which the fit follows
too. This package imports torch only inside functions.
"""

from vad_lib.forecast.comparing import Comparison, Truth, compare
from vad_lib.forecast.machine import PeakMemory, Room, room_of_machine
from vad_lib.forecast.records import Forecast, require_fit
from vad_lib.forecast.training import forecast_training

__all__ = [
    "Comparison",
    "Forecast",
    "PeakMemory",
    "Room",
    "Truth",
    "compare",
    "forecast_training",
    "require_fit",
    "room_of_machine",
]
