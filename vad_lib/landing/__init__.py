"""Files that land in a line's folder: which are complete, which are new, and which run inspects them.

``scanning`` looks at the folder, ``deciding`` is a pure function from what was seen to what is to be done, and
``ticking`` reads and writes the inspection database around it. A sensor needs only ``plan_landing_tick``.
"""

from vad_lib.landing.deciding import (
    BatchRequest,
    Limits,
    OpenBatch,
    RunState,
)
from vad_lib.landing.scanning import FileSeen, Scan, scan_folder
from vad_lib.landing.ticking import LandingTick, plan_landing_tick

__all__ = [
    "BatchRequest",
    "FileSeen",
    "LandingTick",
    "Limits",
    "OpenBatch",
    "RunState",
    "Scan",
    "plan_landing_tick",
    "scan_folder",
]
