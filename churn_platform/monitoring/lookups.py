"""What monitoring reads and keeps: references, samples of an hour, labelled predictions; and what is due."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from churn_platform.database import outcomes
from churn_platform.features.columns import CATEGORICAL_COLUMNS
from churn_platform.monitoring.drift import MONITORED, Reference
from churn_platform.monitoring.live_performance import SCORE_BINS, Z_95, Counts, Tally

HOUR: Final = timedelta(hours=1)
# So many predictions of an hour are looked at, from batches that hold so many: an hour costs half a second at most,
# and of 50,000 customers a feature's PSI is known to 0.001.
SAMPLED_ROWS: Final = 50_000
SCANNED_ROWS: Final = 1_000_000
HASHES: Final = 65_536

_HOURS: Final = """
    select d.hour_timestamp
    from dirty_hours d left join (
        select hour_timestamp, min(version) as version, min(updated_at) as updated_at
        from drift_hourly where hour_timestamp >= %(since)s group by hour_timestamp
    ) as w using (hour_timestamp)
    where d.hour_timestamp between %(since)s and now() and (w.version is null or d.version > w.version)
      and (w.version is not null or exists (
          select from churn_batch_hours h where h.hour_timestamp = d.hour_timestamp and h.total_predictions > 0
      ))
      and not exists (
          select from churn_batch_hours h join stream_batches b using (batch)
          where h.hour_timestamp = d.hour_timestamp and b.archived is not null
      )
      and coalesce(w.updated_at, (
          select min(b.opened) from churn_batch_hours h join stream_batches b using (batch)
          where h.hour_timestamp = d.hour_timestamp
      ), '-infinity') <= now() - make_interval(secs => %(every)s)
    order by d.hour_timestamp
"""
_DAYS: Final = """
    with hours as (
        select hour_timestamp, max(version) as version from drift_hourly
        where hour_timestamp >= %(since)s group by hour_timestamp
    ), days as (
        select (hour_timestamp at time zone 'utc')::date as date, sum(version) as version from hours group by 1
    ), judged as (
        select date, max(version) as version, min(updated_at) as updated_at from drift_daily
        where date >= (%(since)s at time zone 'utc')::date group by date
    )
    select d.date from days d left join judged j using (date)
    where j.version is null or (d.version <> j.version and j.updated_at <= now() - make_interval(secs => %(every)s))
    order by d.date
"""
_NEWEST_OUTCOME: Final = """
    select (select max(received_at) from customer_outcomes),
        (select max(updated_at) from live_performance where date = %s)
"""
_BATCHES: Final = """
    select batch, total_predictions from churn_batch_hours
    where hour_timestamp = %s and total_predictions > 0 order by batch
"""
# The model version, and what is watched, in the order of MONITORED.
_SAMPLE: Final = """
    select model_version, credit_score, age, tenure, balance, num_of_products, has_cr_card, is_active_member,
        estimated_salary, geography, gender, risk_score
    from churn_predictions
    where event_timestamp >= %s and event_timestamp < %s and batch = any(%s)
      and hashint8(kafka_offset) & 65535 < %s
"""
_REFERENCES: Final = "select version, reference from model_references where version = any(%s)"
_EXPECTED: Final = "select version, metrics from model_versions where version = any(%s)"
# Of several outcomes of one event or customer the latest counts. What an event's own producer said of it counts where
# nothing came later.
_LABELLED: Final = """
    with by_event as (
        select distinct on (event_id) event_id, churned from customer_outcomes
        where event_id is not null order by event_id, outcome_timestamp desc, received_at desc
    ), by_customer as (
        select distinct on (customer_id) customer_id, churned, outcome_timestamp from customer_outcomes
        where event_id is null and outcome_timestamp >= %(start)s
        order by customer_id, outcome_timestamp desc, received_at desc
    ), labelled as (
        select p.model_version, p.risk_score, p.prediction,
            coalesce(e.churned, c.churned, p.true_churn_label) as churned
        from churn_predictions p left join by_event e using (event_id)
        left join by_customer c on c.customer_id = p.customer_id and p.event_timestamp <= c.outcome_timestamp
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is not null
        union all
        select p.model_version, p.risk_score, p.prediction, e.churned
        from by_event e join churn_predictions p using (event_id)
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is null
        union all
        select p.model_version, p.risk_score, p.prediction, c.churned
        from by_customer c join churn_predictions p using (customer_id) left join by_event e using (event_id)
        where p.event_timestamp >= %(start)s and p.event_timestamp < %(end)s and p.true_churn_label is null
          and p.event_timestamp <= c.outcome_timestamp and e.event_id is null
    )
    select model_version, least(floor(risk_score::double precision * %(bins)s), %(bins)s - 1)::integer as bin, churned,
        count(*), sum(risk_score::double precision), sum(prediction)::bigint,
        sum((risk_score::double precision - churned) ^ 2)
    from labelled group by 1, 2, 3
"""
_BATCHES_BETWEEN: Final = """
    select coalesce(sum(events), 0)::bigint, coalesce(sum(dead_letters), 0)::bigint from stream_batches
    where opened >= %s and opened < %s
"""
_BATCHES_BY_HOUR: Final = """
    select date_trunc('hour', opened, 'utc'), sum(events)::bigint, sum(dead_letters)::bigint from stream_batches
    where opened >= %s and opened < %s group by 1
"""
_PREDICTED_HOURS: Final = """
    select h.hour_timestamp, bool_or(b.archived is not null)
    from churn_batch_hours h left join stream_batches b using (batch)
    where h.hour_timestamp >= %s and h.hour_timestamp < %s and h.total_predictions > 0 group by 1
"""
# Of the champion, the latest day that was judged.
_FAR: Final = """
    select date, feature, psi from drift_daily
    where model_version = (select version from model_versions where promoted_at is not null and retired_at is null)
      and verdict = 'far' and date >= %(since)s and date = (
        select max(d.date) from drift_daily d where d.model_version = drift_daily.model_version
          and d.verdict <> 'too few'
      )
    order by psi desc
"""
_TOO_LOW: Final = """
    select date, roc_auc, expected_roc_auc from live_performance
    where model_version = (select version from model_versions where promoted_at is not null and retired_at is null)
      and date >= %(since)s and expected_roc_auc - roc_auc >= %(loss)s
      and roc_auc + %(z)s * roc_auc_error < expected_roc_auc
    order by date desc limit 1
"""


@dataclass(frozen=True)
class Sample:
    """Predictions of an hour that are looked at.

    Attributes:
        version: the hour's version in dirty_hours that they belong to.
        weight: how many predictions each of them stands for.
        columns: model version -> raw column or score -> shape (n,), nulls as NaN.
    """

    version: int
    weight: float
    columns: Mapping[int, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Crossing:
    """A bound that the champion has crossed: when, what ("drift" or "performance"), and in words."""

    day: date
    cause: str
    words: str


def crossings(connection: psycopg.Connection, *, since: date, auc_loss: float) -> list[Crossing]:
    """Bounds that the champion has crossed on its latest judged day, none from before `since`.

    Args:
        connection: to the platform's database.
        since: the earliest day that counts.
        auc_loss: see LivePerformance.is_worse_than.
    """
    far = connection.execute(_FAR, {"since": since}).fetchall()
    low = connection.execute(_TOO_LOW, {"since": since, "loss": auc_loss, "z": Z_95}).fetchall()
    found = []
    if far:
        day = far[0][0]
        features = ", ".join(f"{feature} (PSI {psi:.2f})" for _, feature, psi in far)
        found.append(Crossing(day, "drift", f"drift of {features} on {day}"))
    if low:
        day, auc, expected = low[0]
        found.append(Crossing(day, "performance", f"live ROC AUC {auc:.3f} on {day}, {expected:.3f} was expected"))
    return found


def hours_to_judge(connection: psycopg.Connection, *, at_most_every: float, since: datetime) -> list[datetime]:
    """Begun hours whose drift is unknown or out of date, in order, UTC.

    Args:
        at_most_every: so many seconds after it was judged, or after the first batch of an hour that never was.
        since: earlier hours are left.
    """
    found = connection.execute(_HOURS, {"every": at_most_every, "since": since})
    return [hour.astimezone(UTC) for (hour,) in found]


def days_to_judge(connection: psycopg.Connection, *, at_most_every: float, since: datetime) -> list[date]:
    """Days whose drift is unknown, or out of date and older than so many seconds; in order, UTC. Others: see above."""
    return [day for (day,) in connection.execute(_DAYS, {"every": at_most_every, "since": since})]


def new_outcomes(connection: psycopg.Connection, day: date, *, known: datetime | None) -> datetime | None:
    """When the newest outcome came that the live performance of this day does not include; None when it has all.

    Args:
        connection: to the platform's database.
        day: of the figures.
        known: where they have no row, because no prediction has an outcome, later outcomes than this are new.
    """
    row = connection.execute(_NEWEST_OUTCOME, (day,)).fetchone()
    newest, computed = (None, None) if row is None else row
    included = computed or known
    return None if newest is None or (included is not None and newest <= included) else newest


def save_reference(connection: psycopg.Connection, version: int, reference: Reference) -> None:
    """Keep what a registered version learned from; saving it again changes nothing."""
    connection.execute(
        "insert into model_references (version, reference) values (%s, %s) on conflict (version) do nothing",
        (version, Jsonb(reference.to_json())),
    )


def references(connection: psycopg.Connection, versions: Iterable[int]) -> dict[int, Reference]:
    """Version -> its reference; a version that was trained before references were kept has none."""
    found = connection.execute(_REFERENCES, (list(versions),))
    return {version: Reference.from_json(reference) for version, reference in found}


def expected_aucs(connection: psycopg.Connection, versions: Iterable[int]) -> dict[int, float]:
    """Version -> ROC AUC that it reached out of fold, where that is known."""
    found = connection.execute(_EXPECTED, (list(versions),))
    return {version: float(metrics["oof_roc_auc"]) for version, metrics in found if "oof_roc_auc" in metrics}


def sample_hour(connection: psycopg.Connection, hour: datetime) -> Sample:
    """At most about SAMPLED_ROWS predictions of an hour, from batches spread evenly over it; always the same ones.

    Args:
        connection: in a transaction of one snapshot, so that the version is that of the rows.
        hour: its start.
    """
    known = connection.execute("select version from dirty_hours where hour_timestamp = %s", (hour,)).fetchone()
    batches = connection.execute(_BATCHES, (hour,)).fetchall()
    total = sum(count for _, count in batches)
    chosen = batches[:: max(1, -(-total // SCANNED_ROWS))]
    scanned = sum(count for _, count in chosen)
    share = min(1.0, SAMPLED_ROWS / scanned) if scanned else 1.0
    parameters = (hour, hour + HOUR, [batch for batch, _ in chosen], round(share * HASHES))
    rows = connection.execute(_SAMPLE, parameters).fetchall()
    return Sample(
        version=known[0] if known else 0,
        weight=total / len(rows) if rows else 1.0,
        columns=_by_version(rows),
    )


def predicted_hours(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[datetime, bool]:
    """Hours in [start, end) that had predictions (UTC), and whether some of them have been archived."""
    found = connection.execute(_PREDICTED_HOURS, (start, end))
    return {hour.astimezone(UTC): archived for hour, archived in found}


def drift_of_hours(connection: psycopg.Connection, hours: Sequence[datetime]) -> list[dict[str, Any]]:
    """Rows of drift_hourly as they are."""
    return _rows(connection, "select * from drift_hourly where hour_timestamp = any(%s)", (list(hours),))


def drift_of_days(connection: psycopg.Connection, days: Sequence[date]) -> list[dict[str, Any]]:
    """Rows of drift_daily as they are."""
    return _rows(connection, "select * from drift_daily where date = any(%s)", (list(days),))


def live_of_days(connection: psycopg.Connection, days: Sequence[date]) -> list[dict[str, Any]]:
    """Rows of live_performance as they are."""
    return _rows(connection, "select * from live_performance where date = any(%s)", (list(days),))


def latest_hour(connection: psycopg.Connection) -> datetime | None:
    """The latest hour whose drift is known, UTC."""
    row = connection.execute("select max(hour_timestamp) from drift_hourly").fetchone()
    return None if row is None or row[0] is None else row[0].astimezone(UTC)


def latest_day(connection: psycopg.Connection) -> date | None:
    """The latest day whose drift is known."""
    row = connection.execute("select max(date) from drift_daily").fetchone()
    return None if row is None else row[0]


def latest_live_day(connection: psycopg.Connection) -> date | None:
    """The latest day whose live performance is known."""
    row = connection.execute("select max(date) from live_performance").fetchone()
    return None if row is None else row[0]


def read_and_dead_by_hour(
    connection: psycopg.Connection, start: datetime, end: datetime
) -> dict[datetime, tuple[int, int]]:
    """Hour (UTC) in [start, end) -> events that batches opened in it have read, and how many became dead letters."""
    found = connection.execute(_BATCHES_BY_HOUR, (start, end))
    return {hour.astimezone(UTC): (read, dead) for hour, read, dead in found}


def read_and_dead(connection: psycopg.Connection, start: datetime, end: datetime) -> tuple[int, int]:
    """Events that batches opened in [start, end) have read, and how many of them became dead letters."""
    row = connection.execute(_BATCHES_BETWEEN, (start, end)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def labelled(connection: psycopg.Connection, start: datetime, end: datetime) -> dict[int, tuple[Counts, Tally]]:
    """Predictions of events in [start, end) whose outcome is known, by model version."""
    counted: dict[int, tuple[Counts, Tally]] = {}
    for version, number, churned, rows, scores, predicted, error in connection.execute(
        _LABELLED, {"start": start, "end": end, "bins": SCORE_BINS}
    ):
        counts, tally = counted.get(version) or (Counts(*(np.zeros(SCORE_BINS) for _ in range(3))), Tally(0, 0, 0.0))
        (counts.left if churned else counts.stayed)[number] += rows
        counts.scores[number] += scores
        counted[version] = (
            counts,
            Tally(
                predicted=tally.predicted + predicted,
                predicted_and_left=tally.predicted_and_left + (predicted if churned else 0),
                squared_error=tally.squared_error + error,
            ),
        )
    return counted


def refused_since(connection: psycopg.Connection, since: datetime) -> dict[str, int]:
    """How many outcomes were refused since the moment, by reason, the commonest first."""
    found = connection.execute(
        "select reason, count(*) from refused_outcomes where received_at >= %s group by reason order by 2 desc, 1",
        (since,),
    )
    return dict(found.fetchall())


def forget(connection: psycopg.Connection, *, before: datetime) -> dict[str, int]:
    """Delete drift of hours, outcomes and refused outcomes from before the moment; figures of days stay.

    Args:
        connection: to the platform's database.
        before: a midnight, UTC: of a day either all hours go or none, so that a day is never computed from a part.

    Returns:
        How many rows of each were deleted.
    """
    return {
        "drift_rows": connection.execute("delete from drift_hourly where hour_timestamp < %s", (before,)).rowcount,
        "outcomes": connection.execute("delete from customer_outcomes where received_at < %s", (before,)).rowcount,
        "refused": connection.execute("delete from refused_outcomes where received_at < %s", (before,)).rowcount,
        "readings": outcomes.forget(connection, before=before),
    }


def _rows(connection: psycopg.Connection, query: LiteralString, parameters: tuple[object, ...]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _by_version(rows: list[tuple[Any, ...]]) -> dict[int, dict[str, NDArray[Any]]]:
    if not rows:
        return {}
    version, *values = zip(*rows, strict=True)
    versions = np.array(version)
    columns = {
        name: np.array(column, object if name in CATEGORICAL_COLUMNS else np.float64)  # None becomes NaN
        for name, column in zip(MONITORED, values, strict=True)
    }
    return {
        int(each): {name: column[versions == each] for name, column in columns.items()} for each in np.unique(versions)
    }
