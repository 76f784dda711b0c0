"""The asset that compares the shadow with the champion."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import dagster as dg

from churn_platform.orchestration.assets.charts import Chart
from churn_platform.orchestration.assets.monitoring.common import MONITORING, SESSION
from churn_platform.orchestration.assets.ui_metadata import Metadata, chart_metadata, rows_table, significant
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.settings import settings

SHADOW_COMPARISON: Final = "shadow_comparison"
SIMILAR: Final = "similar_scores"
NOT_WORSE: Final = "not_worse"


def shadow_comparison_assets() -> list[dg.AssetsDefinition]:
    """Return the comparison of the shadow."""
    return [
        dg.asset(
            **MONITORING,
            kinds={"postgres"},
            deps=["churn_predictions", "customer_outcomes", "champion_model"],
            check_specs=[
                dg.AssetCheckSpec(
                    SIMILAR,
                    asset=SHADOW_COMPARISON,
                    description="Expected: the PSI of the shadow's scores against the champion's is below "
                    "DRIFT_FAR. Otherwise other customers would be called.",
                ),
                dg.AssetCheckSpec(
                    NOT_WORSE,
                    asset=SHADOW_COMPARISON,
                    description="Expected: the ROC AUC of the shadow is not below that of the champion with 95 % "
                    "confidence, where outcomes are known.",
                ),
            ],
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=30)),
        )(shadow_comparison)
    ]


def shadow_comparison(postgres: PostgresResource) -> Iterator[dg.MaterializeResult[None]]:
    """The latest shadow compared with the champion, on the events of the stream that both have scored.

    `churn model shadow` starts a shadow, which the resident worker lets score. Distributions are compared at once,
    performance as soon as outcomes are known. The dashboard's page about the model and `churn model compare` show the
    same figures. `docs/how-to/try-a-challenger.md` explains them.
    """
    from churn_platform.challengers.reading import compare_shadow, shadow_record
    from churn_platform.database import challengers

    with postgres.connect(SESSION) as connection:
        connection.autocommit = True
        version = challengers.latest_shadow(connection)
        threshold = settings().retention.high_risk_threshold
        found = None if version is None else compare_shadow(connection, version, threshold=threshold)
        if version is None or found is None:
            yield _nothing("No shadow has scored an event. 'churn model shadow VERSION' starts one.")
            return
        record = shadow_record(connection, version, required_days=settings().challengers.shadow_days)
    compared = found.as_dict()
    yield dg.MaterializeResult(
        metadata={
            "model_version": version,
            "is_active": str(record.is_active),
            "days": round(record.days, 3),
            "events": found.events,
            "customers": found.customers,
            "promotion": record.objection or "SHADOW_DAYS allows it.",
            **_metadata(compared),
        },
        check_results=[_similar(compared), _not_worse(compared)],
    )


def _nothing(text: str) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={"events": 0, "conclusion": text},
        check_results=[
            dg.AssetCheckResult(check_name=name, passed=True, description=text) for name in (SIMILAR, NOT_WORSE)
        ],
    )


def _metadata(found: Mapping[str, Any]) -> Metadata:
    from churn_platform.challengers.report import figures, sentences

    rows = [{"figure": name, "challenger": mine, "champion": other} for name, mine, other in figures(found)]
    return {
        "conclusion": " ".join(sentences(found)),
        **significant({"psi": found["psi"], "ks": found["ks"]}),
        **rows_table("figures", rows),
        **rows_table("customers_at_high_risk", [found["agreement"]]),
        "scores_of_challenger": chart_metadata(Chart(found["challenger"]["counts"], ["0", "1"]), "Scores, challenger"),
        "scores_of_champion": chart_metadata(Chart(found["champion"]["counts"], ["0", "1"]), "Scores, champion"),
    }


def _similar(found: Mapping[str, Any]) -> dg.AssetCheckResult:
    bound, least = settings().monitoring.drift_far, settings().monitoring.drift_least_predictions
    if found["events"] < least:
        text = f"Not evaluated: {found['events']:,} events were scored, at least {least:,} are needed."
        return dg.AssetCheckResult(check_name=SIMILAR, passed=True, description=text)
    return dg.AssetCheckResult(
        check_name=SIMILAR,
        passed=found["psi"] < bound,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Found: PSI {found['psi']:.3f} over {found['events']:,} events. Expected: below {bound:g}.",
    )


def _not_worse(found: Mapping[str, Any]) -> dg.AssetCheckResult:
    labelled = found["labelled"]
    if labelled is None or labelled["roc_auc"] is None:
        text = "Not evaluated: too few outcomes are known."
        return dg.AssetCheckResult(check_name=NOT_WORSE, passed=True, description=text)
    difference = labelled["roc_auc"]["difference"]
    return dg.AssetCheckResult(
        check_name=NOT_WORSE,
        passed=difference["high"] >= 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Found: the shadow's ROC AUC minus the champion's is {difference['value']:+.4f} (95 % interval "
        f"{difference['low']:+.4f} to {difference['high']:+.4f}) over {labelled['events']:,} outcomes. Expected: an "
        f"interval that includes 0 or is above it.",
    )
