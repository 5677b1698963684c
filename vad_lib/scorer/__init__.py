"""The resident scorer (the *fast lane*): an answer within a second of landing.

It is an addition: without it, and when it dies, everything is inspected by the bulk lane. Both take files up in the
same ledger under the same key, and both score through ``vad_lib.inspection``.
"""

from vad_lib.scorer.fast_lane import FastLane
from vad_lib.scorer.limits import LaneLimits
from vad_lib.scorer.models import Source, WatchedLine
from vad_lib.scorer.signals import Channels
from vad_lib.scorer.taking_up import hand_over_abandoned

__all__ = ["Channels", "FastLane", "LaneLimits", "Source", "WatchedLine", "hand_over_abandoned"]
