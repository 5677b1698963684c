"""Visual anomaly detection: plans, tables, readiness, detectors, thresholds, scoring and reports.

Everything that knows about images and models lives here. Nothing here imports dagster or mlflow;
heavy libraries (torch, anomalib) are imported inside the functions that use them.
"""

import os

__version__ = "0.2.0"

# Threads of torch wait for one another thousands of times a second. By default they spin while they wait, and where any
# other process wants the core that the last one needs, whole time slices pass: beside an inference service, a coreset
# was seen to take ten times as long. Asleep they cost a few microseconds each. It must stand here, before torch is
# loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
