"""The stream's assets: both Kafka topics, the predictions of each batch, and the tables written with them."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from churn_platform import logs
from churn_platform.database import stream_batches
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.orchestration.assets.batches import (
    DEAD_LETTERS,
    HIGH_RISK,
    PREDICTIONS,
    batch_metadata,
    conservation,
    load_rows,
    rows_metadata,
    side_tables,
)
from churn_platform.orchestration.assets.columns import (
    DEAD_LETTER_COLUMNS,
    event_fields,
    high_risk_columns,
    prediction_columns,
    published_fields,
)
from churn_platform.orchestration.partitions import batches
from churn_platform.orchestration.resources.kafka import KafkaResource
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.run_liveness import LANE_TAG
from churn_platform.orchestration.spark import PredictionsConfig, engine_of
from churn_platform.schema.customer_schema import CustomerSchema

GROUP = "predictions"
OWNERS = ["team:ml-platform"]
CONSERVATION = "conservation"
# Customers cause events every day. A day without a batch means that the stream or its source has stopped.
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24), warn_window=timedelta(hours=6))

EVENTS = "customer_events"
PUBLISHED = "churn_predictions_topic"

_EVENTS_DESCRIPTION = """\
The Kafka topic of customer events, where the stream starts (setting `EVENTS_TOPIC`).

An event is a row of the customers file without the outcome, as JSON. An invalid event becomes a row of
[dead_letter_events](/assets/dead_letter_events). `docs/reference/events.md` lists all rules.

**Observations** (tab Events) report the lag once a minute while there is one: `lag` is the number of offsets that have
not been scored. At each tick the [customer_events_sensor](/automation) compares the topic with the ledger, and launches
a run if there is a lag.

Next: [churn_predictions](/assets/churn_predictions), one partition for each batch of these events."""
_PUBLISHED_DESCRIPTION = """\
The Kafka topic that predictions are published to (setting `PREDICTIONS_TOPIC`), each exactly once.

Read it with `isolation.level=read_committed`: every commit of the stream is one Kafka transaction, published after its
rows are in PostgreSQL. A replay publishes nothing.

**Observations** report the lag: offsets whose predictions are in PostgreSQL, but not published yet."""
_DEAD_LETTERS_DESCRIPTION = """\
Events that could not be scored, with their offset, the reason and the original bytes.

They are written in the same transaction as the predictions of their batch. Each batch with dead letters reports here
how many it has and the most frequent reasons. `docs/reference/events.md` lists the rules for events.
`churn dlq` lists dead letters, corrects them and sends them again."""
_HIGH_RISK_DESCRIPTION = """\
Predictions with a risk score from `HIGH_RISK_THRESHOLD`, one row per event.

A customer with several such events has several rows. The view `v_top_risk_customers` has one row per customer, for the
latest event, and leaves out customers who are no longer at risk.

The retention team sets the threshold. The model's own threshold, which decides `prediction`, is another. The rows
are written in the same transaction as the predictions of their batch. Each batch reports here how many rows it has, for
how many customers, and those with the highest risk. Set `alert_sent` and `alert_sent_at` as you like: a replay updates
scores, never these two."""


def prediction_assets(schema: CustomerSchema) -> list[dg.AssetSpec | dg.AssetsDefinition]:
    """Return both topics, the predictions and the tables that are written with them.

    Args:
        schema: of the customers.
    """
    customer_events = dg.AssetSpec(
        EVENTS,
        group_name=GROUP,
        kinds={"kafka"},
        owners=["team:core-banking"],
        metadata=event_fields(schema),
        description=_EVENTS_DESCRIPTION,
    )

    churn_predictions_topic = dg.AssetSpec(
        PUBLISHED,
        deps=[PREDICTIONS],
        group_name=GROUP,
        kinds={"kafka"},
        owners=OWNERS,
        metadata=published_fields(schema),
        description=_PUBLISHED_DESCRIPTION,
    )

    dead_letter_events = dg.AssetSpec(
        DEAD_LETTERS,
        deps=[PREDICTIONS],
        group_name=GROUP,
        kinds={"postgres", "table"},
        owners=OWNERS,
        metadata={**DEAD_LETTER_COLUMNS, "dagster/table_name": DEAD_LETTERS},
        description=_DEAD_LETTERS_DESCRIPTION,
    )

    high_risk_customers = dg.AssetSpec(
        HIGH_RISK,
        deps=[PREDICTIONS],
        group_name=GROUP,
        kinds={"postgres", "table"},
        owners=["team:retention"],
        metadata={**high_risk_columns(schema), "dagster/table_name": HIGH_RISK},
        description=_HIGH_RISK_DESCRIPTION,
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
                description="Expected: events = predictions + dead letters + duplicates + erased. Every event read "
                "became a prediction, a dead letter or a known duplicate, or is of an erased customer. None is lost "
                "and none counts twice.",
            )
        ],
        metadata={**prediction_columns(schema), "dagster/table_name": PREDICTIONS, "partition_expr": "batch"},
    )
    def churn_predictions(
        context: dg.AssetExecutionContext, config: PredictionsConfig, postgres: PostgresResource, kafka: KafkaResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetCheckEvaluation]:
        """One row per scored event. A partition is a **batch**: a recorded set of Kafka offset ranges.

        The [customer_events_sensor](/automation) keeps a run ready. The run streams into one batch for `BATCH_SECONDS`,
        five minutes by default, and then hands over to the next run. Each row names its source (`kafka_partition`,
        `kafka_offset`) and the model version that scored it.

        **To see a batch**, open the tab Partitions and choose one: its offsets, counts, latency, model and first rows.
        **To replay it**, press *Materialize* and choose it. The same offsets are read again and scored by the current
        [champion_model](/assets/champion_model), and the batch's rows are replaced in one transaction. Nothing is
        published again, and alerts stay as they are. Several chosen batches are one run. The newest partition may still
        be empty.

        With the run configuration `engine: spark`, or the tag `churn/engine: spark`, Spark scores a
        replay. Of a batch that is not closed, it scores the backlog.
        """
        from churn_platform.stream import runs

        stream = kafka.stream()
        engine = engine_of(context, config, stream)
        keys = context.partition_keys
        lane = {"lane": context.run.tags[LANE_TAG]} if LANE_TAG in context.run.tags else {}
        with logs.with_fields(batch=",".join(keys), run=context.run.run_id, **lane):
            outcome = runs.materialize(
                stream,
                keys,
                run_id=context.run.run_id,
                log=context.log.info,
                confirm=postgres.confirm_run,
                engine=engine,
            )
        tags = {"churn/topic": stream.events_topic}
        if not outcome.materialized:
            context.instance.add_run_tags(context.run.run_id, {**tags, "churn/mode": "idle"})
            yield from _nothing_to_count(context, postgres, outcome.note)
            return
        with postgres.connect("churn metadata") as connection:
            found = [each for key in keys if (each := stream_batches.find_batch(connection, key)) is not None]
            for batch in found:
                rows = load_rows(connection, prediction_table(schema), batch.batch)
                ranges = stream_batches.ranges_of(connection, batch.batch)
                metadata = batch_metadata(batch, ranges, {**outcome.metadata}, rows_metadata(batch.batch, rows))
                context.add_asset_metadata(metadata, partition_key=batch.batch)
                for materialization in side_tables(batch, rows):
                    context.log_event(materialization)
        tags |= {
            LANE_TAG: ",".join(str(number) for number in sorted({batch.lane for batch in found})),
            "churn/mode": str(outcome.metadata["mode"]),
            "churn/model_version": str(found[-1].model_version),
        }
        context.instance.add_run_tags(context.run.run_id, tags)
        passed, description, counted = conservation(found)
        yield dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(check_name=CONSERVATION, passed=passed, description=description, metadata=counted)
            ],
        )

    return [customer_events, churn_predictions_topic, dead_letter_events, high_risk_customers, churn_predictions]


def _nothing_to_count(
    context: dg.AssetExecutionContext, postgres: PostgresResource, note: str
) -> Iterator[dg.AssetCheckResult | dg.AssetCheckEvaluation]:
    """Keep the check's result for the latest batch, after a run that read no events.

    Dagster requires a result from every run. It considers this run older than the batch that was materialized while the
    run waited, and would show the check as not evaluated. So the result of that batch is reported again.
    """
    yield dg.AssetCheckResult(check_name=CONSERVATION, passed=True, description=f"No events: {note}.")
    latest = context.instance.fetch_materializations(dg.AssetKey(PREDICTIONS), limit=1).records
    if not latest or latest[0].partition_key is None:
        return
    with postgres.connect("churn metadata") as connection:
        batch = stream_batches.find_batch(connection, latest[0].partition_key)
    if batch is not None:
        passed, description, counted = conservation([batch])
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(PREDICTIONS),
            check_name=CONSERVATION,
            passed=passed,
            description=f"No new events: {note}. Batch {batch.batch}: {description}",
            metadata=counted,
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
                storage_id=latest[0].storage_id, run_id=latest[0].run_id, timestamp=latest[0].timestamp
            ),
        )
