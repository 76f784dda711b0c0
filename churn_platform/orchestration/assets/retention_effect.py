"""The asset that says whether calls help."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from churn_platform.orchestration.assets.columns import effect_columns
from churn_platform.orchestration.assets.ui_metadata import Metadata, rows_table, significant
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.retention.effect import Effect, Interval
from churn_platform.settings import settings

RETENTION_EFFECT: Final = "retention_effect"
COMPARABLE: Final = "comparable"
SESSION: Final = "churn retention effect"


def effect_assets() -> list[dg.AssetsDefinition]:
    """Return the effect of calls."""
    return [
        dg.asset(
            group_name="retention",
            owners=["team:retention"],
            kinds={"postgres", "table"},
            deps=["retention_cases", "call_list", "customer_outcomes"],
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=3)),
            check_specs=[
                dg.AssetCheckSpec(
                    COMPARABLE,
                    asset=RETENTION_EFFECT,
                    description="Expected: nothing makes the comparison invalid or weak. No control was called, "
                    "outcomes are known of both arms alike, and of enough customers.",
                )
            ],
            metadata={**effect_columns(), "dagster/table_name": RETENTION_EFFECT},
        )(retention_effect)
    ]


def retention_effect(postgres: PostgresResource) -> Iterator[dg.MaterializeResult[None]]:
    """Whether calls help: customers who were assigned to calls, compared with the control group.

    A customer enters on first reaching a day's [call_list](/assets/call_list), and customers of the control group enter
    alike. They are compared as they were assigned, called or not. A customer counts once `OUTCOME_DAYS` have passed and
    it is known whether the customer left within them; entries whose time is not over and those without a known outcome
    are counted apart. Rows are in total, by month of the entry and by segment, as known on each day.

    The interval of the difference is Newcombe's. As long as it includes 0, `cases_needed` says how many more outcomes
    would decide. `docs/explanation/effect.md` explains the method.
    """
    from churn_platform.monitoring import retention_effect as comparison

    with retry_transient_errors(), postgres.connect(SESSION) as connection:
        connection.autocommit = True
        effect = comparison.compute(
            connection,
            outcome_days=settings().retention.outcome_days,
            customer_value=settings().training.kept_customer_value,
            now=datetime.now(UTC),
        )
    yield dg.MaterializeResult(
        metadata={
            "conclusion": effect.conclusion,
            **_arms(effect),
            **_interval("reduction", effect.reduction),
            **_interval("customers_saved", effect.customers_saved),
            **_interval("money_saved", effect.money_saved),
            **({} if effect.cases_needed is None else {"cases_needed": effect.cases_needed}),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=COMPARABLE,
                passed=not effect.warnings,
                severity=dg.AssetCheckSeverity.WARN,
                description=" ".join(effect.warnings) or effect.conclusion,
            )
        ],
    )


def _arms(effect: Effect) -> Metadata:
    counted = (("contact", effect.contact), ("control", effect.control))
    return rows_table(
        "arms",
        (
            {
                "arm": arm,
                "entered": result.entered,
                "open": result.open,
                "unknown": result.unknown,
                "stayed": result.stayed,
                "left": result.left,
                "contacted": result.contacted,
            }
            for arm, result in counted
        ),
    )


def _interval(name: str, interval: Interval | None) -> Metadata:
    """Return an estimate and its interval as metadata; nothing if there is none."""
    if interval is None:
        return {}
    return {**significant({name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high})}
