"""The stream's assets: both Kafka topics, the predictions that each batch makes, and the tables written beside them."""

from collections.abc import Iterator

import dagster as dg

from churn_platform.assets.columns import HIGH_RISK_COLUMNS, PREDICTION_COLUMNS
from churn_platform.partitions import batches
from churn_platform.resources.kafka import KafkaResource
from churn_platform.resources.postgres import PostgresResource
from churn_platform.storage import ledger

GROUP = "predictions"
OWNERS = ["team:ml-platform"]
CONSERVATION = "conservation"
BATCH_METADATA = "events = predictions + dead letters + duplicates"

customer_events = dg.AssetSpec(
    "customer_events",
    group_name=GROUP,
    kinds={"kafka"},
    owners=["team:core-banking"],
    description="Topic of customer events (EVENTS_TOPIC). Its observations show the lag: the offsets that wait.",
)

churn_predictions_topic = dg.AssetSpec(
    "churn_predictions_topic",
    deps=["churn_predictions"],
    group_name=GROUP,
    kinds={"kafka"},
    owners=OWNERS,
    description="Topic of predictions (PREDICTIONS_TOPIC), each published exactly once: read it with read_committed. "
    "Its observations show the lag: the offsets whose predictions wait to be published.",
)

dead_letter_events = dg.AssetSpec(
    "dead_letter_events",
    deps=["churn_predictions"],
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=OWNERS,
    description="Events that could not be scored, with topic, partition, offset, reason and the bytes as they came. "
    "Written in the same transaction as the predictions of their batch.",
)

high_risk_customers = dg.AssetSpec(
    "high_risk_customers",
    deps=["churn_predictions"],
    group_name=GROUP,
    kinds={"postgres", "table"},
    owners=["team:retention"],
    metadata={"dagster/column_schema": HIGH_RISK_COLUMNS, "dagster/table_name": "high_risk_customers"},
    description="Customers whose risk score reached 0.7, one row per event, for the retention team. "
    "Written in the same transaction as the predictions; a replay updates scores and never alert_sent.",
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
    check_specs=[
        dg.AssetCheckSpec(
            CONSERVATION,
            asset="churn_predictions",
            blocking=True,
            description="Every event read became a prediction, a dead letter or a known duplicate: "
            "none is lost, none counts twice.",
        )
    ],
    metadata={
        "dagster/column_schema": PREDICTION_COLUMNS,
        "dagster/table_name": "churn_predictions",
        "partition_expr": "batch",
    },
)
def churn_predictions(
    context: dg.AssetExecutionContext, postgres: PostgresResource, kafka: KafkaResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Churn predictions of one batch: a recorded set of Kafka offset ranges, scored by the champion.

    A planned batch is streamed into, an open one is resumed, a closed one is replayed: read again from exactly its
    ranges and scored with today's champion, in one transaction.
    """
    from churn_platform.streaming import runs

    keys = context.partition_keys
    config = kafka.stream()

    def report_orphans(orphans: list[ledger.Batch]) -> None:
        for orphan in orphans:
            context.log_event(orphan_materialization(orphan))

    outcome = runs.materialize(config, keys, run_id=context.run.run_id, log=context.log.info, on_orphans=report_orphans)
    if not outcome.materialized:
        yield dg.AssetCheckResult(
            check_name=CONSERVATION, passed=True, description=f"Nothing to count: {outcome.note}."
        )
        return
    with postgres.connect("churn metadata") as connection:
        found = {key: (ledger.find_batch(connection, key), ledger.ranges_of(connection, key)) for key in keys}
    counted = [batch for batch, _ in found.values() if batch is not None]
    for key, (batch, ranges) in found.items():
        if batch is not None and len(keys) > 1:
            context.add_asset_metadata(batch_metadata(batch, ranges), partition_key=key)
    single = batch_metadata(counted[0], found[keys[0]][1]) if len(keys) == 1 else {}
    yield dg.MaterializeResult(
        metadata={**single, **outcome.metadata},
        check_results=[
            dg.AssetCheckResult(
                check_name=CONSERVATION,
                passed=all(b.events == b.predictions + b.dead_letters + b.duplicates for b in counted),
                description=BATCH_METADATA,
                metadata=_counts(
                    sum(b.events for b in counted),
                    sum(b.predictions for b in counted),
                    sum(b.dead_letters for b in counted),
                    sum(b.duplicates for b in counted),
                ),
            )
        ],
    )


def _counts(events: int, predictions: int, dead_letters: int, duplicates: int) -> dict[str, int]:
    return {
        "events": events,
        "predictions": predictions,
        "dead_letters": dead_letters,
        "duplicates": duplicates,
    }


def batch_metadata(batch: ledger.Batch, ranges: list[ledger.OffsetRange]) -> dict[str, dg.MetadataValue | int | str]:
    """What the ledger says of a batch, as metadata of its materialization."""
    metadata: dict[str, dg.MetadataValue | int | str] = {
        **_counts(batch.events, batch.predictions, batch.dead_letters, batch.duplicates),
        "dagster/partition_row_count": batch.predictions,
        "commits": batch.commits,
        "replays": batch.replays,
        "model_version": batch.model_version if batch.model_version is not None else "none",
        "offset_ranges": dg.MetadataValue.table(
            records=[
                dg.TableRecord(
                    {
                        "kafka_partition": each.kafka_partition,
                        "start_offset": each.start_offset,
                        "end_offset": each.end_offset,
                        "topic_id": each.topic_id,
                    }
                )
                for each in ranges
            ],
            schema=dg.TableSchema(
                [
                    dg.TableColumn("kafka_partition", "int"),
                    dg.TableColumn("start_offset", "int", description="Inclusive"),
                    dg.TableColumn("end_offset", "int", description="Exclusive"),
                    dg.TableColumn("topic_id", "string"),
                ]
            ),
        ),
    }
    if batch.opened is not None:
        metadata["opened"] = dg.MetadataValue.timestamp(batch.opened)
    if batch.last_commit is not None:
        metadata["last_commit"] = dg.MetadataValue.timestamp(batch.last_commit)
    return metadata


def orphan_materialization(batch: ledger.Batch) -> dg.AssetMaterialization:
    """The materialization of a batch whose own run died after it had committed events."""
    return dg.AssetMaterialization(
        "churn_predictions",
        partition=batch.batch,
        metadata={
            **_counts(batch.events, batch.predictions, batch.dead_letters, batch.duplicates),
            "note": f"Committed by run {batch.run_id}, which died; closed and reported by its successor.",
        },
    )
