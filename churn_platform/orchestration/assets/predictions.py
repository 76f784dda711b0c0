"""The stream's assets: both Kafka topics, the predictions that each batch makes, and the tables written beside them."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from churn_platform.database import ledger
from churn_platform.orchestration.assets.batches import (
    DEAD_LETTERS,
    HIGH_RISK,
    PREDICTIONS,
    batch_metadata,
    collect,
    conservation,
    rows_metadata,
    side_tables,
)
from churn_platform.orchestration.assets.columns import (
    DEAD_LETTER_COLUMNS,
    EVENT_FIELDS,
    HIGH_RISK_COLUMNS,
    PREDICTION_COLUMNS,
    PUBLISHED_FIELDS,
)
from churn_platform.orchestration.partitions import batches
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.stream.config import LANE

GROUP = "predictions"
OWNERS = ["team:ml-platform"]
CONSERVATION = "conservation"
# A bank's customers do something every day: a day without a batch means that the stream, or what feeds it, has stopped.
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24), warn_window=timedelta(hours=6))

customer_events = dg.AssetSpec(
    "customer_events",
    group_name=GROUP,
    kinds={"kafka"},
    owners=["team:core-banking"],
    metadata=EVENT_FIELDS,
    description="""The Kafka topic that customer events are read from (setting `EVENTS_TOPIC`): where the stream begins.

An event is a row of the customers file, less its outcome, as JSON. What is wrong becomes a row of
[dead_letter_events](/assets/dead_letter_events); `docs/reference/events.md` has every rule.

**Observations** (tab Events) are made once a minute while there is a lag: `lag` is how many offsets wait. At each tick
the [customer_events_sensor](/automation) compares the topic with the ledger, and launches a run when something waits.

Next: [churn_predictions](/assets/churn_predictions), one partition for each batch of these events.""",
)

churn_predictions_topic = dg.AssetSpec(
    "churn_predictions_topic",
    deps=[PREDICTIONS],
    group_name=GROUP,
    kinds={"kafka"},
    owners=OWNERS,
    metadata=PUBLISHED_FIELDS,
    description="""The Kafka topic that predictions are published to (setting `PREDICTIONS_TOPIC`), each exactly once.

Read it with `isolation.level=read_committed`: every commit of the stream is one Kafka transaction, published after its
rows are in PostgreSQL. A replay publishes nothing.

**Observations** show the lag: offsets whose predictions are rows already, and not yet published.""",
)

dead_letter_events = dg.AssetSpec(
    DEAD_LETTERS,
    deps=[PREDICTIONS],
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=OWNERS,
    metadata={**DEAD_LETTER_COLUMNS, "dagster/table_name": DEAD_LETTERS},
    description="""Events that could not be scored: where they were read, why not, and the bytes as they came.

Written in the same transaction as the predictions of their batch, which reports here how many there were and the
commonest reasons. `docs/reference/events.md` defines valid events; `churn dlq` lists, corrects and resends others.""",
)

high_risk_customers = dg.AssetSpec(
    HIGH_RISK,
    deps=[PREDICTIONS],
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=["team:retention"],
    metadata={**HIGH_RISK_COLUMNS, "dagster/table_name": HIGH_RISK},
    description="""Predictions whose risk score reached 0.7, one row per event: whom the retention team calls.

A customer with several such events has several rows. The view `v_top_risk_customers` has one per customer, by the
latest event, and leaves out whoever is no longer at risk.

The threshold of 0.7 is the retention team's; the model's own, which decides `prediction`, is lower. Written in the same
transaction as the predictions of their batch, which reports here how many there were, of how many customers, and the
riskiest. `alert_sent` and `alert_sent_at` are yours to set: a replay updates scores, never those.""",
)


@dg.asset(
    partitions_def=batches,
    deps=[customer_events, dg.AssetDep("champion_model")],
    group_name=GROUP,
    kinds={"kafka", "xgboost", "postgres"},
    owners=OWNERS,
    io_manager_key="postgres_io_manager",
    output_required=False,
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=FRESH,
    check_specs=[
        dg.AssetCheckSpec(
            CONSERVATION,
            asset=PREDICTIONS,
            blocking=True,
            description="Expected: events = predictions + dead letters + duplicates. Every event read became a "
            "prediction, a dead letter or a known duplicate: none is lost, none counts twice.",
        )
    ],
    metadata={**PREDICTION_COLUMNS, "dagster/table_name": PREDICTIONS, "partition_expr": "batch"},
)
def churn_predictions(
    context: dg.AssetExecutionContext, postgres: PostgresResource, kafka: KafkaResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetCheckEvaluation]:
    """One row per scored event. A partition is a **batch**: a recorded set of Kafka offset ranges.

    The [customer_events_sensor](/automation) launches a run when events wait; it streams into one batch for a minute
    and hands over. Each row says where it came from (`kafka_partition`, `kafka_offset`) and which model scored it.

    **To see a batch**, open the tab Partitions and choose one: its offsets, counts, latency, model and first rows.
    **To replay it**, press *Materialize* and choose it: the same offsets are read again, scored by today's
    [champion_model](/assets/champion_model), and its rows are replaced in one transaction. Nothing is published anew,
    and alerts stay as they are. Several batches are one run. The newest partition may be one that waits for its events.
    """
    from churn_platform.stream import runs

    config = kafka.stream()
    keys = context.partition_keys
    outcome = runs.materialize(
        config, keys, run_id=context.run.run_id, log=context.log.info, confirm=postgres.confirm_run
    )
    tags = {"churn/topic": config.events_topic, "churn/lane": LANE}
    if not outcome.materialized:
        context.instance.add_run_tags(context.run.run_id, {**tags, "churn/mode": "idle"})
        yield from _nothing_to_count(context, postgres, outcome.note)
        return
    with postgres.connect("churn metadata") as connection:
        found = [each for key in keys if (each := ledger.find_batch(connection, key)) is not None]
        for batch in found:
            rows = collect(connection, batch.batch)
            ranges = ledger.ranges_of(connection, batch.batch)
            shown = batch_metadata(batch, ranges, {**outcome.metadata}, rows_metadata(batch.batch, rows))
            context.add_asset_metadata(shown, partition_key=batch.batch)
            for beside in side_tables(batch, rows):
                context.log_event(beside)
    tags |= {"churn/mode": str(outcome.metadata["mode"]), "churn/model_version": str(found[-1].model_version)}
    context.instance.add_run_tags(context.run.run_id, tags)
    passed, words, counted = conservation(found)
    yield dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(check_name=CONSERVATION, passed=passed, description=words, metadata=counted)
        ],
    )


def _nothing_to_count(
    context: dg.AssetExecutionContext, postgres: PostgresResource, note: str
) -> Iterator[dg.AssetCheckResult | dg.AssetCheckEvaluation]:
    """A run without an event leaves the check as it stands for the latest batch.

    Dagster wants a result of every run, but takes this one for older than the batch that was materialized while the
    run waited, and would call the check not evaluated: so what holds of that batch is said of it, too.
    """
    yield dg.AssetCheckResult(check_name=CONSERVATION, passed=True, description=f"Nothing to count: {note}.")
    latest = context.instance.fetch_materializations(dg.AssetKey(PREDICTIONS), limit=1).records
    if not latest or latest[0].partition_key is None:
        return
    with postgres.connect("churn metadata") as connection:
        batch = ledger.find_batch(connection, latest[0].partition_key)
    if batch is not None:
        passed, words, counted = conservation([batch])
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(PREDICTIONS),
            check_name=CONSERVATION,
            passed=passed,
            description=f"Nothing new to count: {note}. Of batch {batch.batch}: {words}",
            metadata=counted,
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
                storage_id=latest[0].storage_id, run_id=latest[0].run_id, timestamp=latest[0].timestamp
            ),
        )
