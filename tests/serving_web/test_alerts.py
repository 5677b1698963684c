"""The alert rules, in the real promtool, and beside what a real service exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
import yaml

from tests.serving_web.conftest import Web

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")
LABELLED_ONLY = {"vad_drift_alarm", "vad_label_agreement", "vad_message_failures"}
"""Exported with the first alarm, label or rule of a line."""


@pytest.mark.skipif(not PROMTOOL, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize("words", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_the_rules_are_right_and_alert_when_they_should(words: tuple[str, ...]) -> None:
    told = subprocess.run([str(PROMTOOL), *words], cwd=RULES, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_rules_name_only_what_the_service_exports(web: Web) -> None:
    text = requests.get(f"{web()}/metrics", timeout=20).text
    exported = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | LABELLED_ONLY
    rules = yaml.safe_load((RULES / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"vad_[a-z_]+", rule["expr"])}
    assert {name.removesuffix("_bucket") for name in named} <= exported
