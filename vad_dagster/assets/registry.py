"""Group registry: which version serves."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import dagster as dg

from vad_dagster.asset_metadata import evaluation_numbers, serving_metadata
from vad_dagster.asset_parts import ML_TEAM, step_tags
from vad_dagster.checks import readable_failure
from vad_dagster.configuration import PromotionConfig
from vad_dagster.notices import tell
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of, plan_of, refuse_where_never
from vad_dagster.registry import CHAMPION, TAKEN_BACK, LineRegistry, Version
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import ChampionRecord, ModelEvaluation
from vad_lib.errors import InputError
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.version_comparison import VersionComparison, compare_versions
from vad_lib.lines import Line
from vad_lib.plan import OperationArguments
from vad_lib.promotion import PromotionDecision, decide_promotion

TOLD = ("person_decides", "not_worse", "worse_on_live_images")
"""Decisions about a later version that people are told of: one that waits for a person, serves, or was refused by what
people said."""


@dg.asset(
    partitions_def=lines,
    group_name="registry",
    kinds={"mlflow"},
    owners=[ML_TEAM],
    code_version="1",
    tags=step_tags("train", "train"),
    description="The version that serves. The line's first one does so at once, unless its data are too few to trust "
    "it; a later one where the plan says promotion: automatic and the gate finds it not worse; any one where a "
    "person says so here, by promote_version, or by moving the alias 'champion' in MLflow. What a person chose stays "
    "until a person lifts that choice.",
)
def champion_model(
    context: dg.AssetExecutionContext,
    config: PromotionConfig,
    model_evaluation: ModelEvaluation,
    tracking: MLflowTracking,
) -> dg.MaterializeResult[ChampionRecord]:
    line = line_of(context)
    with readable_failure():
        plan = plan_of(line)
        registry = LineRegistry(tracking, line.name)
        before = registry.at(CHAMPION)
        if config.lift_choice:
            registry.lift_choice(by=_name_of(config))
        if config.promote_version:
            serving, decision = _as_a_person_says(line, registry, config)
        else:
            serving, decision = _as_the_rule_says(registry, model_evaluation, plan.operation)
        context.log.info(f"{line.name}: {decision.reason}")
    record = ChampionRecord(
        line=line.name,
        version=serving.number if serving else "",
        previous_version=before.number if before and serving and before.number != serving.number else "",
        decision=decision,
        by=serving.tags.get("promoted_by", f"rule: {decision.rule}") if serving else f"rule: {decision.rule}",
        evaluation=model_evaluation.evaluation if serving and serving.number == model_evaluation.version else None,
    )
    page = tracking.version_url(registry.name, serving.number) if serving else ""
    return dg.MaterializeResult(
        value=record,
        metadata={
            **(serving_metadata(serving, page) if serving else {"version": "none serves"}),
            "promoted": decision.promote,
            "by": record.by,
            "why": decision.reason,
            **(evaluation_numbers(record.evaluation) if record.evaluation else {}),
        },
    )


def _name_of(config: PromotionConfig) -> str:
    if not config.decided_by.strip():
        raise InputError("Write your name in decided_by: what a person decides carries who it was.")
    return config.decided_by.strip()


def _as_a_person_says(
    line: Line, registry: LineRegistry, config: PromotionConfig
) -> tuple[Version | None, PromotionDecision]:
    person = _name_of(config)
    decision = PromotionDecision(promote=True, rule="person", reason=f"Chosen by {person}.")
    if config.promote_version == "previous":
        return registry.roll_back(by=f"person: {person}"), decision
    if registry.at(CHAMPION) is not None:
        refuse_where_never(line)
    return registry.promote(registry.named(config.promote_version), by=f"person: {person}"), decision


def _as_the_rule_says(
    registry: LineRegistry, made: ModelEvaluation, operation: OperationArguments
) -> tuple[Version | None, PromotionDecision]:
    """Let the evaluated version serve where the rule allows it, and write the decision on that version."""
    newest, serving = registry.version(made.version), registry.at(CHAMPION)
    if serving is not None and serving.number == newest.number:
        decision = PromotionDecision(promote=False, rule="serves_already", reason="It serves already.")
    else:
        # The version that serves now may be another one than when the model was evaluated.
        moved = serving is not None and serving.number != made.champion.version
        others = "Another version was promoted since the evaluation: materialize model_evaluation." if moved else ""
        compared = _compare(registry.line, serving, newest) if serving is not None else None
        live = compared.live.in_words() if compared else ""
        decision = decide_promotion(
            made.evaluation,
            made.champion.evaluation,
            promotion=operation.promotion,
            line=registry.line,
            unmeasured=made.champion.problem or others,
            chosen_by=registry.chosen_by() if serving is not None else "",
            doubts=made.doubts,
            taken_back=newest.tags.get(TAKEN_BACK, ""),
            beside=f"{made.champion.beside} {live}".strip(),
            judged=compared.judged if compared else None,
            least_judged=operation.gate_least_judged,
        )
    if decision.rule != "serves_already":
        registry.note_gate(newest, decision.state)
    if serving is not None and decision.rule in TOLD:
        subject = f"{newest.label} {decision.rule}"
        tell(
            registry.line,
            "gate",
            f"{newest.label}: {decision.reason}",
            subject=subject,
            page=f"/lines/{registry.line}/versions",
        )
    if decision.promote:
        return registry.promote(newest, by=f"rule: {decision.rule}", why=decision.reason), decision
    if decision.rule != "serves_already":
        registry.note_decision(newest, decision.reason)
    return serving, decision


def _compare(line: str, serving: Version, newest: Version) -> VersionComparison:
    return compare_versions(InspectionDatabase.from_environment(), line, serving.label, newest.label)
