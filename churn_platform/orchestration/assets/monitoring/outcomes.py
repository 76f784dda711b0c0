"""Assets of outcomes: the Kafka topic, and the table that its messages are ingested into."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from churn_platform.database import stored_outcomes
from churn_platform.orchestration.assets.columns import outcome_columns, outcome_fields
from churn_platform.orchestration.assets.monitoring.common import DAY, MONITORING, SESSION
from churn_platform.orchestration.assets.ui_metadata import next_asset
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings

REASONS_SHOWN: Final = 3

_TOPIC_DESCRIPTION: Final = """\
The Kafka topic that reports which customers left and which stayed (setting `OUTCOMES_TOPIC`).

A message is JSON: `true_churn_label` with either an `event_id`, for one prediction, or a `{id}`, for all earlier
predictions of that customer. Next: [customer_outcomes](/assets/customer_outcomes), where each message counts once."""


def outcome_assets(schema: CustomerSchema) -> list[dg.AssetSpec | dg.AssetsDefinition]:
    """Return the topic of outcomes and the table that they are ingested into.

    Args:
        schema: of the customers.
    """
    customer_outcomes_topic = dg.AssetSpec(
        "customer_outcomes_topic",
        group_name=MONITORING["group_name"],
        kinds={"kafka"},
        owners=["team:core-banking"],
        metadata=outcome_fields(schema),
        description=_TOPIC_DESCRIPTION.format(id=schema.id),
    )

    @dg.asset(
        **MONITORING,
        deps=[customer_outcomes_topic],
        kinds={"kafka", "postgres", "table"},
        check_specs=[
            dg.AssetCheckSpec(
                "rejected",
                asset="customer_outcomes",
                description="Expected: no outcome rejected in the last 24 hours. The table refused_outcomes has "
                "them all.",
            )
        ],
        metadata={**outcome_columns(schema), "dagster/table_name": "customer_outcomes"},
    )
    def customer_outcomes(postgres: PostgresResource, kafka: KafkaResource) -> Iterator[dg.MaterializeResult[None]]:
        """Which customers left and which stayed, ingested from the outcomes topic exactly once.

        The [monitoring_sensor](/automation) launches a run when the topic has new outcomes. A message that is not a
        valid outcome, or whose time is impossible, is kept in `refused_outcomes` with the reason. Each run continues
        where the last one ended. The same transaction closes the cases that the outcomes decide: as lost if the
        customer left, as kept if the customer stayed after a call. `churn outcomes reset` and `churn outcomes skip`
        pass over messages that cannot be read.
        """
        from churn_platform.monitoring import outcomes

        with retry_transient_errors(), postgres.connect(SESSION) as connection:
            kafka.claim()
            result = outcomes.ingest(connection, kafka.admin(), kafka.stream(), settings().topics.outcomes)
            reasons = stored_outcomes.refused_since(connection, datetime.now(UTC) - DAY)
        yield dg.MaterializeResult(
            check_results=[_rejected_result(reasons)],
            metadata={
                "outcomes": result.left + result.stayed,
                "left": result.left,
                "stayed": result.stayed,
                "rejected": result.rejected,
                "kept_cases": result.kept_cases,
                "lost_cases": result.lost_cases,
                **next_asset("live_performance"),
            },
        )

    return [customer_outcomes_topic, customer_outcomes]


def _rejected_result(reasons: Mapping[str, int]) -> dg.AssetCheckResult:
    """Return the result of the check `rejected`, given the number of rejected outcomes by reason."""
    most_frequent = "; ".join(f"{count:,} times: {reason}" for reason, count in list(reasons.items())[:REASONS_SHOWN])
    return dg.AssetCheckResult(
        check_name="rejected",
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Found {sum(reasons.values()):,} outcomes rejected in the last 24 hours. {most_frequent}".rstrip(),
        metadata={"rejected": sum(reasons.values())},
    )
