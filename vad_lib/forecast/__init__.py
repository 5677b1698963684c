"""What a training will take, said before it begins, and compared with what it took afterwards.

``forecast_training`` asks the detector, which tries the real work for a few seconds on some of the line's own images
(``Detector.forecast``), and adds what does not depend on the detector: validation, disk, time limit. This package
imports torch only inside functions.
"""

from vad_lib.forecast.comparing import Actual, Comparison, compare
from vad_lib.forecast.records import Forecast, require_fit
from vad_lib.forecast.training import forecast_training
from vad_lib.machine import PeakMemory, Room, room_of_machine

__all__ = [
    "Actual",
    "Comparison",
    "Forecast",
    "PeakMemory",
    "Room",
    "compare",
    "forecast_training",
    "require_fit",
    "room_of_machine",
]
