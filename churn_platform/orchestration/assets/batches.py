"""What the UI shows of a batch: where it was read, what became of its events, which model scored them."""

from collections.abc import Iterator, Mapping

import dagster as dg
import psycopg

from churn_platform.database import ledger
from churn_platform.database.batch_rows import RISK_BINS, BatchRows, Row, rows_of_batch
from churn_platform.orchestration.assets import charts
from churn_platform.orchestration.assets.ui_metadata import Shown, next_asset, picture, rows_table
from churn_platform.orchestration.resources.mlflow import version_url
from churn_platform.settings import settings
from churn_platform.stream.config import HIGH_RISK_THRESHOLD

PREDICTIONS = "churn_predictions"
DEAD_LETTERS = "dead_letter_events"
HIGH_RISK = "high_risk_customers"
REASONS_SHOWN = 3
FIRST_HIGH_RISK_BIN = round(HIGH_RISK_THRESHOLD * RISK_BINS)

RANGES = dg.TableSchema(
    [
        dg.TableColumn("kafka_partition", "int"),
        dg.TableColumn("start_offset", "int", "The first offset of the batch."),
        dg.TableColumn("end_offset", "int", "The first one behind it, which the next batch begins with."),
        dg.TableColumn("offsets", "int", "Their difference. Markers of transactions hold offsets, too."),
        dg.TableColumn("topic_id", "string", "Kafka's id: a topic that is deleted and made anew is another."),
    ]
)


def counts(batches: list[ledger.Batch]) -> dict[str, int]:
    """Events of the batches together, and what became of them."""
    return {
        "events": sum(each.events for each in batches),
        "predictions": sum(each.predictions for each in batches),
        "dead_letters": sum(each.dead_letters for each in batches),
        "duplicates": sum(each.duplicates for each in batches),
    }


def batch_metadata(batch: ledger.Batch, ranges: list[ledger.OffsetRange], *between: Shown) -> Shown:
    """What the ledger says of a batch: counts, offsets and the model, and at the end its history.

    Args:
        between: what else there is to say, before the history.
    """
    metadata: Shown = {
        **counts([batch]),
        "topic": settings().topics.events,
        "offset_ranges": dg.MetadataValue.table([dg.TableRecord(_range(each)) for each in ranges], RANGES),
    }
    if batch.model_version is not None:
        metadata["model_version"] = batch.model_version
        if settings().mlflow.tracking_uri is not None:
            metadata["model_in_mlflow"] = dg.MetadataValue.url(version_url(batch.model_version))
    for each in between:
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


def rows_metadata(batch: str, rows: BatchRows) -> Shown:
    """What the table says of a batch: how its scores lie, several models that gave them, some rows, how to see all."""
    risk = charts.Chart(rows.risk_scores, ["0", "risk score", "1"], FIRST_HIGH_RISK_BIN)
    return {
        "high_risk": rows.high_risk,
        "risk_scores": picture(risk, f"Predictions by risk score, from {HIGH_RISK_THRESHOLD} on in red"),
        **(rows_table("models", _by_model(rows)) if len(rows.models) > 1 else {}),
        **rows_table("preview", rows.first),
        "all_rows": dg.MetadataValue.md(f"```sql\nselect * from churn_predictions where batch = '{batch}'\n```"),
        **next_asset("churn_metrics_hourly"),
    }


def side_tables(batch: ledger.Batch, rows: BatchRows) -> Iterator[dg.AssetMaterialization]:
    """What a batch has written beside its predictions; nothing of a table that it added no row to."""
    if rows.high_risk:
        riskiest = [_with_reasons_in_words(row) for row in rows.riskiest]
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


def _with_reasons_in_words(row: Row) -> Row:
    """A row of high_risk_customers with what moves its score most, greatest first, as a person would say it."""
    from churn_platform.scoring.contributions import in_words  # a run that explains nothing need not load it

    reasons = row["reasons"]
    said = (
        "; ".join(in_words(each) for each in reasons[:REASONS_SHOWN]) if isinstance(reasons, list) else "not yet known"
    )
    return {**row, "reasons": said}


def collect(connection: psycopg.Connection, batch: str) -> BatchRows:
    """The batch's rows, as many as PREVIEW_ROWS says."""
    return rows_of_batch(connection, batch, most=settings().dagster.preview_rows)


def orphan_materialization(batch: ledger.Batch, ranges: list[ledger.OffsetRange]) -> dg.AssetMaterialization:
    """The materialization of a batch whose own run ended before it could report it."""
    note = f"Committed by run {batch.run_id}, which ended before it could report this batch."
    return dg.AssetMaterialization(
        PREDICTIONS, partition=batch.batch, metadata={**batch_metadata(batch, ranges), "note": note}
    )


def conservation(batches: list[ledger.Batch]) -> tuple[bool, str, Mapping[str, int]]:
    """Whether every event of the batches is accounted for; what was seen and expected, in words; the counts."""
    seen = counts(batches)
    accounted = seen["predictions"] + seen["dead_letters"] + seen["duplicates"]
    words = (
        f"Seen: {seen['predictions']:,} predictions + {seen['dead_letters']:,} dead letters + "
        f"{seen['duplicates']:,} duplicates = {accounted:,}. Expected: the {seen['events']:,} events that were read."
    )
    return seen["events"] == accounted, words, {**seen, "accounted_for": accounted}


def _by_model(rows: BatchRows) -> list[dict[str, int]]:
    return [{"model_version": version, "predictions": count} for version, count in sorted(rows.models.items())]


def _range(each: ledger.OffsetRange) -> dict[str, str | int | float | bool | None]:
    return {
        "kafka_partition": each.kafka_partition,
        "start_offset": each.start_offset,
        "end_offset": each.end_offset,
        "offsets": each.end_offset - each.start_offset,
        "topic_id": each.topic_id,
    }
