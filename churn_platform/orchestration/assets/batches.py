"""Metadata of a batch for the UI: its offset ranges, the results of its events, the model that scored them."""

from collections.abc import Iterator, Mapping

import dagster as dg
import psycopg

from churn_platform.database import stream_batches
from churn_platform.database.batch_rows import RISK_BINS, BatchRows, Row, rows_of_batch
from churn_platform.database.prediction_columns import PredictionTable
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.ui_metadata import Metadata, chart_metadata, next_asset, rows_table
from churn_platform.orchestration.resources.mlflow import version_url
from churn_platform.settings import settings

PREDICTIONS = "churn_predictions"
DEAD_LETTERS = "dead_letter_events"
HIGH_RISK = "high_risk_customers"
REASONS_SHOWN = 3

RANGES = dg.TableSchema(
    [
        dg.TableColumn("kafka_partition", "int"),
        dg.TableColumn("start_offset", "int", "The first offset of the batch."),
        dg.TableColumn("end_offset", "int", "The offset after the last one, where the next batch starts."),
        dg.TableColumn("offsets", "int", "The difference. It includes transaction markers, which are not events."),
        dg.TableColumn("topic_id", "string", "Kafka's id: a topic that is created again has a new one."),
    ]
)


def counts(batches: list[stream_batches.Batch]) -> dict[str, int]:
    """Return the total numbers of events of the batches, and what became of them."""
    return {
        "events": sum(each.events for each in batches),
        "predictions": sum(each.predictions for each in batches),
        "dead_letters": sum(each.dead_letters for each in batches),
        "duplicates": sum(each.duplicates for each in batches),
        "erased": sum(each.erased for each in batches),
    }


def batch_metadata(batch: stream_batches.Batch, ranges: list[stream_batches.OffsetRange], *more: Metadata) -> Metadata:
    """Return a batch's metadata from the ledger: counts, offsets and the model, then its history.

    Args:
        batch: the batch.
        ranges: its offset ranges.
        more: further metadata, shown before the history.
    """
    metadata: Metadata = {
        **counts([batch]),
        "topic": settings().topics.events,
        **({"lane": str(batch.reads)} if batch.lanes > 1 else {}),
        "offset_ranges": dg.MetadataValue.table([dg.TableRecord(_range(each)) for each in ranges], RANGES),
    }
    if batch.model_version is not None:
        metadata["model_version"] = batch.model_version
        if settings().mlflow.tracking_uri is not None:
            metadata["model_in_mlflow"] = dg.MetadataValue.url(version_url(batch.model_version))
    for each in more:
        metadata |= each
    metadata |= {
        "dagster/partition_row_count": batch.predictions,
        "commits": batch.commits,
        "replays": batch.replays,
    }
    for name, moment in (("first_event_read", batch.opened), ("last_commit", batch.last_commit)):
        if moment is not None:
            metadata[name] = dg.MetadataValue.timestamp(moment)
    return metadata


def rows_metadata(batch: str, rows: BatchRows) -> Metadata:
    """Return a batch's metadata from its rows: risk scores, models if there are several, some rows, a query."""
    threshold = settings().retention.high_risk_threshold
    risk = charts.Chart(rows.risk_scores, ["0", "risk score", "1"], round(threshold * RISK_BINS))
    return {
        "high_risk": rows.high_risk,
        "risk_scores": chart_metadata(risk, f"Predictions by risk score, from {threshold:g} on in red"),
        **(rows_table("models", _by_model(rows)) if len(rows.models) > 1 else {}),
        **rows_table("preview", rows.first),
        "all_rows": dg.MetadataValue.md(f"```sql\nselect * from churn_predictions where batch = '{batch}'\n```"),
        **next_asset("churn_metrics_hourly"),
    }


def side_tables(batch: stream_batches.Batch, rows: BatchRows) -> Iterator[dg.AssetMaterialization]:
    """Yield materializations of the other tables that a batch wrote to."""
    if rows.high_risk:
        riskiest = [_with_readable_reasons(row) for row in rows.riskiest]
        yield dg.AssetMaterialization(
            HIGH_RISK,
            metadata={
                "predictions": rows.high_risk,
                "customers": rows.customers_at_risk,
                "batch": batch.batch,
                **rows_table("riskiest", riskiest),
            },
        )
    if batch.dead_letters:
        yield dg.AssetMaterialization(
            DEAD_LETTERS,
            metadata={"dead_letters": batch.dead_letters, "batch": batch.batch, **rows_table("reasons", rows.reasons)},
        )


def _with_readable_reasons(row: Row) -> Row:
    """Return a row of high_risk_customers with its strongest reasons as human-readable text."""
    from churn_platform.scoring.contributions import reason_as_text  # only runs that explain predictions load it

    reasons = row["reasons"]
    text = (
        "; ".join(reason_as_text(each) for each in reasons[:REASONS_SHOWN])
        if isinstance(reasons, list)
        else "not yet known"
    )
    return {**row, "reasons": text}


def load_rows(connection: psycopg.Connection, table: PredictionTable, batch: str) -> BatchRows:
    """Return the batch's rows for the UI: up to PREVIEW_ROWS of each kind."""
    return rows_of_batch(connection, table, batch, limit=settings().dagster.preview_rows)


def orphan_materialization(
    batch: stream_batches.Batch, ranges: list[stream_batches.OffsetRange]
) -> dg.AssetMaterialization:
    """Return the materialization of a batch whose run ended before reporting it."""
    note = f"Committed by run {batch.run_id}, which ended before it could report this batch."
    return dg.AssetMaterialization(
        PREDICTIONS, partition=batch.batch, metadata={**batch_metadata(batch, ranges), "note": note}
    )


def conservation(batches: list[stream_batches.Batch]) -> tuple[bool, str, Mapping[str, int]]:
    """Return whether every event of the batches is accounted for, a description for the UI, and the counts."""
    found = counts(batches)
    accounted = found["predictions"] + found["dead_letters"] + found["duplicates"] + found["erased"]
    description = (
        f"Found: {found['predictions']:,} predictions + {found['dead_letters']:,} dead letters + "
        f"{found['duplicates']:,} duplicates + {found['erased']:,} erased = {accounted:,}. Expected: the "
        f"{found['events']:,} events that were read."
    )
    return found["events"] == accounted, description, {**found, "accounted_for": accounted}


def _by_model(rows: BatchRows) -> list[dict[str, int]]:
    return [{"model_version": version, "predictions": count} for version, count in sorted(rows.models.items())]


def _range(each: stream_batches.OffsetRange) -> dict[str, str | int | float | bool | None]:
    return {
        "kafka_partition": each.kafka_partition,
        "start_offset": each.start_offset,
        "end_offset": each.end_offset,
        "offsets": each.end_offset - each.start_offset,
        "topic_id": each.topic_id,
    }
