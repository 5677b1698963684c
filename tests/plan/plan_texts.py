"""Builders of plan texts for the tests."""

from __future__ import annotations


def plan_text(
    train: str = "", readiness: str = "", inference: str = "", input_: str = "", sections: str = "", ui: str = ""
) -> str:
    """Write a plan whose steps have the given flow text as args, such as ``train="{batch_size: 4}"``."""
    ui_line = f"          ui_args: {ui}\n" if ui else ""
    return (
        f"{sections}\n"
        "user_parameters:\n"
        "    - train_pipeline:\n"
        f"        - step: input\n          args: {input_}\n"
        f"        - step: readiness\n          args: {readiness}\n"
        f"        - step: train\n          args: {train}\n{ui_line}"
        "    - inference_pipeline:\n"
        "        - step: input\n          args:\n"
        "        - step: readiness\n          args:\n"
        f"        - step: inference\n          args: {inference}\n"
        "        - step: output\n          args:\n            - none:\n"
    )
