"""Group registry: which version serves."""

# No `from __future__ import annotations` in modules of assets: Dagster reads the annotations of their parameters.

import dagster as dg

from vad_dagster.asset_metadata import evaluation_numbers
from vad_dagster.asset_parts import CODE_VERSION, ML_TEAM, links_markdown, step_tags
from vad_dagster.checks import readable_failure
from vad_dagster.configuration import PromotionConfig
from vad_dagster.partitions import lines
from vad_dagster.plans import line_of
from vad_dagster.registry import CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.values import ChampionRecord, ModelEvaluation
from vad_lib.errors import InputError
from vad_lib.promotion import PromotionDecision, decide_promotion


@dg.asset(
    partitions_def=lines,
    group_name="registry",
    kinds={"mlflow"},
    owners=[ML_TEAM],
    code_version=CODE_VERSION,
    tags=step_tags("train", "train"),
    description="The version that serves. The line's first one does so at once; a later one where the plan says "
    "automatic_promotion and it is not worse on the same rows; any one where a person says so here, by "
    "promote_version, or by moving the alias 'champion' in MLflow.",
)
def champion_model(
    context: dg.AssetExecutionContext,
    config: PromotionConfig,
    model_evaluation: ModelEvaluation,
    tracking: MLflowTracking,
) -> dg.MaterializeResult[ChampionRecord]:
    line = line_of(context)
    with readable_failure():
        registry = LineRegistry(tracking, line.name)
        before = registry.at(CHAMPION)
        if config.promote_version:
            if not config.decided_by.strip():
                raise InputError("Write your name in decided_by: a version that a person chose carries who it was.")
            by = f"person: {config.decided_by.strip()}"
            decision = PromotionDecision(promote=True, rule="person", reason=f"Chosen by {config.decided_by.strip()}.")
            if config.promote_version == "previous":
                serving = registry.roll_back(by=by)
            else:
                serving = registry.promote(registry.version(config.promote_version), by=by)
        else:
            # The version that serves now may be another one than when the model was evaluated.
            moved = before is not None and before.number != model_evaluation.champion_version
            decision = decide_promotion(
                model_evaluation.evaluation,
                model_evaluation.champion,
                automatic=model_evaluation.automatic_promotion,
                unmeasured=model_evaluation.champion_problem
                or (
                    "Another version was promoted since the evaluation: materialize model_evaluation." if moved else ""
                ),
            )
            newest = registry.version(model_evaluation.version)
            by = f"rule: {decision.rule}"
            if before is not None and before.number == newest.number:
                decision = PromotionDecision(promote=False, rule="serves_already", reason="It serves already.")
            serving = registry.promote(newest, by=by) if decision.promote else (before or newest)
            registry.tag(newest, {"promotion": decision.rule, "promotion_reason": decision.reason})
    record = ChampionRecord(
        line=line.name,
        version=serving.number,
        previous_version=before.number if before and before.number != serving.number else "",
        decision=decision,
        by=serving.tags.get("promoted_by", by),
        evaluation=model_evaluation.evaluation if serving.number == model_evaluation.version else None,
    )
    return dg.MaterializeResult(
        value=record,
        metadata={
            "serving version": int(serving.number),
            "version": serving.label,
            "promoted": decision.promote,
            "by": record.by,
            "why": decision.reason,
            **(evaluation_numbers(record.evaluation) if record.evaluation else {}),
            "links": links_markdown({"model version": tracking.version_url(registry.name, serving.number)}),
        },
    )
