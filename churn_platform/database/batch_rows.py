"""An overview of one batch across tables, for people: counts, and a few rows of each table. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from churn_platform.database.prediction_columns import PredictionTable, column_list

Row = Mapping[str, object]

RISK_BINS: Final = 20

# The BRIN index finds the rows of a batch. A million rows take 0.2 s.
_SCORES: Final = """
    select model_version, least(width_bucket(risk_score::float8, 0, 1, %(bins)s), %(bins)s) as bin, count(*)
    from churn_predictions where batch = %(batch)s group by 1, 2
"""
_FIRST: Final = sql.SQL("""
    select kafka_partition, kafka_offset, customer_id, risk_score, prediction, model_version, {summary}
        event_timestamp, event_id
    from churn_predictions where batch = %(batch)s order by kafka_offset, kafka_partition limit %(limit)s
""")
_RISKIEST: Final = sql.SQL("""
    select customer_id, risk_score, reasons, {summary}detected_at, alert_sent
    from high_risk_customers where batch = %(batch)s order by risk_score desc, customer_id limit %(limit)s
""")
_HIGH_RISK: Final = """
    select count(*), count(distinct customer_id) from high_risk_customers where batch = %(batch)s
"""
_REASONS: Final = """
    select dead_letter_kind(reason) as reason, count(*) as events,
        (min(array[kafka_partition, kafka_offset]))[1] as kafka_partition,
        (min(array[kafka_partition, kafka_offset]))[2] as first_offset
    from dead_letter_events where batch = %(batch)s group by 1 order by events desc, 1 limit %(limit)s
"""


@dataclass(frozen=True, kw_only=True)
class BatchRows:
    """Counts and rows of one batch.

    Attributes:
        risk_scores: predictions by risk score, in RISK_BINS equal bins from 0 to 1.
        models: predictions by the model version that scored them.
        first: the first predictions, by Kafka offset.
        high_risk: number of its predictions in high_risk_customers.
        customers_at_risk: number of customers with such a prediction.
        riskiest: the predictions with the highest risk scores; `reasons` is None until they are explained.
        reasons: the most frequent reasons of its dead letters, with the count and the first place of each.
    """

    risk_scores: Sequence[int]
    models: Mapping[int, int]
    first: Sequence[Row]
    high_risk: int
    customers_at_risk: int
    riskiest: Sequence[Row]
    reasons: Sequence[Row]


def rows_of_batch(connection: psycopg.Connection, table: PredictionTable, batch: str, *, limit: int) -> BatchRows:
    """Return counts and rows of a batch.

    Args:
        connection: to the platform's database.
        table: whose summary columns the rows have.
        batch: its key.
        limit: maximum number of predictions, of high-risk predictions and of reasons.
    """
    risk_scores, models = [0] * RISK_BINS, dict[int, int]()
    summary = column_list(table.summary, end=True)
    with connection.cursor() as cursor:
        for version, number, count in cursor.execute(_SCORES, {"batch": batch, "bins": RISK_BINS}):
            risk_scores[number - 1] += count
            models[version] = models.get(version, 0) + count
        high_risk, customers_at_risk = cursor.execute(_HIGH_RISK, {"batch": batch}).fetchone() or (0, 0)
    with connection.cursor(row_factory=dict_row) as cursor:
        return BatchRows(
            risk_scores=risk_scores,
            models=models,
            first=cursor.execute(_FIRST.format(summary=summary), {"batch": batch, "limit": limit}).fetchall(),
            high_risk=high_risk,
            customers_at_risk=customers_at_risk,
            riskiest=cursor.execute(_RISKIEST.format(summary=summary), {"batch": batch, "limit": limit}).fetchall(),
            reasons=cursor.execute(_REASONS, {"batch": batch, "limit": limit}).fetchall(),
        )
