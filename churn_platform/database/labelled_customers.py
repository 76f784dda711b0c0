"""What is known of customers with predictions: their first prediction of which the time is over, and who was called.

It reads tables of other modules and owns none.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from churn_platform.database.prediction_columns import PredictionTable, column_list

# The first prediction, whatever became of the customer: a later one would be nearer to the end of those who left.
_PREDICTED: Final = sql.SQL("""
    with first as (
        select distinct on (p.customer_id) p.customer_id, p.event_timestamp, {columns}
        from churn_predictions p
        where p.event_timestamp <= %(now)s - %(window)s and p.customer_id in (
            select customer_id from customer_outcomes where customer_id is not null
            union select e.customer_id from customer_outcomes o join churn_predictions e using (event_id)
            union select customer_id from churn_predictions where true_churn_label is not null
        )
        order by p.customer_id, p.event_timestamp, p.kafka_offset
    )
    select
        exists (
            select from retention_list_entries e where e.customer_id = first.customer_id
              and e.arm = 'contact' and e.entered_at <= first.event_timestamp + %(window)s
        ) or exists (
            select from retention_cases c where c.customer_id = first.customer_id
              and c.contacted_at <= first.event_timestamp + %(window)s
        ) as contacted,
        exists (
            select from retention_list_entries e where e.customer_id = first.customer_id
              and e.arm = 'control' and e.entered_at <= first.event_timestamp + %(window)s
        ) as control,
        first.*
    from first order by first.customer_id
""")


@dataclass(frozen=True)
class Predicted:
    """A customer at the time of a prediction.

    Attributes:
        customer_id: of the customer.
        event_timestamp: time of the event.
        contacted: whether the customer was on a call list, or was called, before the time after the event was over.
        control: whether the customer would have been on one, but for the control group.
        columns: the customer's columns as events name them; None for missing values.
    """

    customer_id: int | str
    event_timestamp: datetime
    contacted: bool
    control: bool
    columns: dict[str, Any]


def predicted(
    connection: psycopg.Connection, table: PredictionTable, *, window: timedelta, now: datetime
) -> list[Predicted]:
    """Return the first stored prediction of each customer of whom any outcome is stored, if its time is over.

    Args:
        connection: to the platform's database.
        table: whose customers' columns the rows have.
        window: the time after the event that counts.
        now: until when outcomes are known.
    """
    rows = connection.execute(
        _PREDICTED.format(columns=column_list(table.customer, table="p")), {"now": now, "window": window}
    ).fetchall()
    fields = [column.field for column in table.customer]
    return [
        Predicted(customer, at, contacted, control, dict(zip(fields, values, strict=True)))
        for contacted, control, customer, at, *values in rows
    ]
