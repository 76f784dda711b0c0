"""The table prediction_summary: sums of predictions by day, model version, combination of segments and arm.

Sums are numeric: what a replay subtracts is exactly what was added before.
"""

from functools import cache
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database import summary_changes
from churn_platform.database.arms import ArmKey
from churn_platform.database.averages import averages
from churn_platform.database.summary_changes import averaged_value
from churn_platform.schema.customer_schema import CustomerSchema

# Sums of each column over the rows of summary_changes, where `sign` is 1 for rows that are added and -1 for others.
_COUNTS: Final = {
    "total_predictions": sql.SQL("true"),
    "churn_count": sql.SQL("prediction = 1"),
    "high_risk_count": sql.SQL("high_risk"),
    "high_confidence_count": sql.SQL("confidence >= 0.8"),
    "low_confidence_count": sql.SQL("confidence < 0.6"),
    "labelled_count": sql.SQL("true_churn_label is not null"),
    "correct_count": sql.SQL("prediction = true_churn_label"),
    "labelled_churn_count": sql.SQL("prediction = 1 and true_churn_label is not null"),
    "left_count": sql.SQL("true_churn_label = 1"),
    "left_churn_count": sql.SQL("prediction = 1 and true_churn_label = 1"),
}
_COUNT: Final = sql.SQL("coalesce(sum(sign) filter (where {}), 0)")
_SUM: Final = sql.SQL("coalesce(sum(case sign when 1 then {0}::numeric else -{0}::numeric end), 0)")
_APPLY: Final = sql.SQL("""
    with changes as (
        select *, risk_score::double precision as risk, greatest(risk_score, 1 - risk_score) as confidence
        from {source}
    )
    insert into prediction_summary as s (date, model_version, segments, arm, {names})
    select (event_timestamp at time zone 'utc')::date, model_version, segments, arm, {sums}
    from changes group by 1, 2, 3, 4
    on conflict (date, model_version, segments, arm) do update set {added}
""")
_DELETE_EMPTY: Final = """
    delete from prediction_summary s
    where total_predictions = 0 and exists (
        select from summary_changes c
        where c.sign = -1 and (c.event_timestamp at time zone 'utc')::date = s.date
    )
"""
# The sums of a day whose predictions are all archived cannot be computed again, so they stay.
_CLEAR: Final = """
    delete from prediction_summary where date not in (
        select (h.hour_timestamp at time zone 'utc')::date
        from churn_batch_hours h join stream_batches b using (batch)
        group by 1 having bool_and(b.archived is not null)
    )
"""


def apply_changes(connection: psycopg.Connection, schema: CustomerSchema, *, replaced: bool) -> None:
    """Add the rows of summary_changes, and subtract those with sign -1, of which there are some if `replaced`."""
    connection.execute(_apply_changes(schema), prepare=False)
    if replaced:
        connection.execute(_DELETE_EMPTY)


def assign_arms(connection: psycopg.Connection, schema: CustomerSchema, key: ArmKey, *, follower: str) -> None:
    """Move the predictions of customers whose arm changes to the other arm. Archived ones stay where they are.

    Args:
        connection: in a transaction with one snapshot for all statements, before the customers get their arms.
        schema: of the customers.
        key: decides the arms.
        follower: duty whose positions end what was counted.
    """
    query = _apply(schema, sql.SQL("({}) as other_arm").format(summary_changes.of_other_arm(schema)))
    connection.execute(query, {**vars(key), "follower": follower})
    connection.execute("delete from prediction_summary where total_predictions = 0")


def clear(connection: psycopg.Connection) -> None:
    """Delete the sums of all days but those whose predictions are all archived."""
    connection.execute(_CLEAR)


@cache
def _apply_changes(schema: CustomerSchema) -> bytes:
    return _apply(schema, sql.Identifier("summary_changes")).as_bytes(None)


def _apply(schema: CustomerSchema, source: sql.Composable) -> sql.Composed:
    """Return the statement that adds up the rows of a source with columns of summary_changes."""
    sums = {name: _COUNT.format(condition) for name, condition in _COUNTS.items()}
    sums["risk_sum"] = _SUM.format(sql.Identifier("risk"))
    sums["confidence_sum"] = _SUM.format(sql.Identifier("confidence"))
    for each in averages(schema):
        value = averaged_value(each)
        sums[each.count] = _COUNT.format(sql.SQL("{} is not null").format(value))
        sums[each.sum] = _SUM.format(value)
    names = [sql.Identifier(name) for name in sums]
    comma = sql.SQL(", ")
    return _APPLY.format(
        source=source,
        names=comma.join(names),
        sums=comma.join(sums.values()),
        added=comma.join(sql.SQL("{0} = coalesce(s.{0}, 0) + excluded.{0}").format(name) for name in names),
    )
