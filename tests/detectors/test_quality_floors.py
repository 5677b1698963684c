"""The image AUROC that the detectors reach on complete real sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detectors_against_anomalib import CASES, Case, files_of, run_ours


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.spec("V4.17", "V15.01", "V15.02", "V15.04")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_detector_reaches_its_floor(shared_data: Path, case: Case) -> None:
    train, test = files_of(shared_data / case.folder)
    result = run_ours(case, train, test, shared_data / "weights", case.ratio, case.quick_epochs)
    assert result.auroc >= case.floor
