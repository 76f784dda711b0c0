"""The sensor that shows in Dagster what the resident worker found about its assets. It does none of the work."""

import json
from typing import Final

import dagster as dg

from churn_platform.orchestration.resources.postgres import PostgresResource

TICK_SECONDS: Final = 29  # the daemon evaluates sensors every 5 s
SESSION: Final = "churn worker sensor"


@dg.sensor(
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports what the resident worker found about the tables that it keeps, as observations.",
)
def worker_sensor(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SensorResult | dg.SkipReason:
    """Report each observation of the worker once. The cursor has the number of the latest one of each asset."""
    import psycopg

    from churn_platform.database import worker_observations

    seen: dict[str, int] = json.loads(context.cursor or "{}")
    try:
        with postgres.connect(SESSION) as connection:
            found = worker_observations.observations(connection)
    except psycopg.OperationalError as error:
        return dg.SkipReason(f"PostgreSQL does not answer: {error}")
    new = [each for each in found if seen.get(each.asset) != each.number]
    if not new:
        return dg.SkipReason("The worker has found nothing new.")
    return dg.SensorResult(
        asset_events=[
            dg.AssetObservation(
                each.asset, metadata={**each.metadata, "observed_at": dg.MetadataValue.timestamp(each.observed_at)}
            )
            for each in new
        ],
        cursor=json.dumps({each.asset: each.number for each in found}),
    )
