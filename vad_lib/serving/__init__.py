"""The inference service: an answer within a second of an image's arrival.

It is the fast way, and not the only one: what no service takes is inspected by a run. Both work on the same queue and
score through ``vad_lib.inspection``.
"""

from vad_lib.serving.service import InferenceService, ServiceLimits
from vad_lib.serving.sinks import Sinks
from vad_lib.serving.warm_models import ShadowedBy, Source, WatchedLine

__all__ = ["InferenceService", "ServiceLimits", "ShadowedBy", "Sinks", "Source", "WatchedLine"]
