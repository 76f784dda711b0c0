"""What the dashboard's page about segments reads. Across tables; reads only, and no raw predictions.

Both tables have a row for each combination of segments, of which there are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import psycopg
from psycopg.rows import class_row

# A segment that is null gives one group of everybody.
_GROUPS: Final = """
    select
        first, second,
        coalesce(sum(predictions) filter (where this_week), 0)::bigint as predictions,
        coalesce(sum(churn_count) filter (where this_week), 0)::bigint as churn_count,
        coalesce(sum(risk_sum) filter (where this_week), 0)::double precision as risk_sum,
        coalesce(sum(predictions) filter (where not this_week), 0)::bigint as last_predictions,
        coalesce(sum(churn_count) filter (where not this_week), 0)::bigint as last_churn_count,
        coalesce(sum(risk_sum) filter (where not this_week), 0)::double precision as last_risk_sum,
        coalesce(sum(customers), 0)::bigint as customers,
        coalesce(sum(high_risk_customers), 0)::bigint as high_risk_customers,
        coalesce(sum(money_at_risk), 0)::double precision as money_at_risk
    from (
        select segments ->> %(first)s::text as first, segments ->> %(second)s::text as second,
            date >= %(this_week)s as this_week, total_predictions as predictions, churn_count, risk_sum,
            0 as customers, 0 as high_risk_customers, 0 as money_at_risk
        from prediction_summary
        where date >= %(last_week)s and date <= %(today)s and (arm = 'contact' or not %(without_controls)s)
        union all
        select segments ->> %(first)s::text, segments ->> %(second)s::text, null, 0, 0, 0,
            customers, high_risk_customers, money_at_risk
        from customer_segment_summary where arm = 'contact' or not %(without_controls)s
    ) as parts
    group by first, second
"""
_VALUES: Final = """
    select s.key as segment, s.value, sum(g.customers)::bigint as customers
    from customer_segment_summary g cross join lateral jsonb_each_text(g.segments) as s
    where g.arm = 'contact' or not %s
    group by s.key, s.value
"""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sums of one group of customers, or of everybody.

    Attributes:
        first: value of the first segment; None if it is not recorded.
        second: value of the second segment; None if it is not recorded, or there is no second segment.
        predictions: of this week.
        churn_count: of these, predictions of churn.
        risk_sum: sum of their risk scores.
        last_predictions: the same of the week before.
        last_churn_count: the same of the week before.
        last_risk_sum: the same of the week before.
        customers: who have the segments at their latest event.
        high_risk_customers: of these, those whose latest event is high risk and who have not left.
        money_at_risk: of the high-risk customers, in the currency of the schema.
    """

    first: str | None = None
    second: str | None = None
    predictions: int
    churn_count: int
    risk_sum: float
    last_predictions: int
    last_churn_count: int
    last_risk_sum: float
    customers: int
    high_risk_customers: int
    money_at_risk: float

    @property
    def churn_rate(self) -> float | None:
        """Share of this week's predictions that are churn, 0..1; None without predictions."""
        return self.churn_count / self.predictions if self.predictions else None

    @property
    def last_churn_rate(self) -> float | None:
        """The same of the week before."""
        return self.last_churn_count / self.last_predictions if self.last_predictions else None

    @property
    def mean_risk(self) -> float | None:
        """Mean risk score of this week's predictions, 0..1; None without predictions."""
        return self.risk_sum / self.predictions if self.predictions else None

    @property
    def last_mean_risk(self) -> float | None:
        """The same of the week before."""
        return self.last_risk_sum / self.last_predictions if self.last_predictions else None


@dataclass(frozen=True)
class SegmentValue:
    """A value that customers have in a segment, and how many have it."""

    segment: str
    value: str
    customers: int


def groups(
    connection: psycopg.Connection,
    segments: Sequence[str],
    *,
    last_week: date,
    this_week: date,
    today: date,
    without_controls: bool = False,
) -> list[Group]:
    """Return the groups by the values of no, one or two segments, in no order.

    Args:
        connection: to read from.
        segments: names of the columns in tables.
        last_week: first UTC day of the week before.
        this_week: first UTC day of this week, and the day after the week before.
        today: last UTC day of this week.
        without_controls: whether all sums are those of the contact arm alone.
    """
    first, second = [*segments, None, None][:2]
    arguments = {
        "first": first,
        "second": second,
        "last_week": last_week,
        "this_week": this_week,
        "today": today,
        "without_controls": without_controls,
    }
    with connection.cursor(row_factory=class_row(Group)) as cursor:
        return cursor.execute(_GROUPS, arguments).fetchall()


def values(connection: psycopg.Connection, *, without_controls: bool = False) -> list[SegmentValue]:
    """Return the values that customers have at their latest event, in no order.

    Args:
        connection: to read from.
        without_controls: whether only customers of the contact arm count.
    """
    with connection.cursor(row_factory=class_row(SegmentValue)) as cursor:
        return cursor.execute(_VALUES, (without_controls,)).fetchall()
