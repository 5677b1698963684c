"""``python -m benchmarks``: the detectors beside plain anomalib. The other benchmarks are scripts of their own."""

from benchmarks.detectors_against_anomalib import main

raise SystemExit(main())
