"""Hourly and daily figures from what commits have summed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import psycopg
import pytest

from churn_platform.database import batch_hours, metrics
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.database.conftest import Database

SCHEMA = load_schema(PROJECT_ROOT / "data/bank/schema.toml")
HOUR = datetime(2026, 11, 20, 9, tzinfo=UTC)


def add(database: str, batch: str, hour: datetime, *, schema: CustomerSchema = SCHEMA, **changes: float) -> None:
    """What a commit adds to an hour: 10 predictions, 2 of churn, half of the ages known."""
    given = {"age": 200.0, "balance": 1000.0, "tenure": 50.0, "known": 5, "total": 10, "churn": 2, "risk": 2.5}
    sums = given | changes
    hours = batch_hours.HourSums(
        hour_timestamp=hour,
        total_predictions=int(sums["total"]),
        churn_count=int(sums["churn"]),
        risk_sum=sums["risk"],
        high_risk_count=1,
        averages={column.column: sums[column.column] for column in schema.averaged},
        known={"age": int(sums["known"])},
    )
    with psycopg.connect(database) as connection:
        batch_hours.add_sums(connection, schema, batch=batch, hours=[hours])
        batch_hours.mark_dirty(connection, [hour])


def figures(database: str, start: datetime = HOUR, hours: int = 1) -> pd.DataFrame:
    with psycopg.connect(database) as connection:
        return metrics.hourly_figures(connection, SCHEMA, start, start + timedelta(hours=hours))


def dirty(database: str, *, first_after: float = 0, at_most_every: float = 0) -> list[datetime]:
    with psycopg.connect(database) as connection:
        return metrics.dirty_hours(connection, first_after=first_after, at_most_every=at_most_every)


def store(database: str, frame: pd.DataFrame) -> None:
    """Store hourly figures as the IO manager does."""
    with psycopg.connect(database) as connection:
        for row in frame.to_dict("records"):
            connection.execute("delete from churn_metrics_hourly where hour_timestamp = %s", (row["hour_timestamp"],))
            connection.execute(
                "insert into churn_metrics_hourly (hour_timestamp, total_predictions, churn_count, high_risk_count, "
                "age_count, version) values (%s, %s, %s, %s, %s, %s)",
                [row[name] for name in ("hour_timestamp", "total_predictions", "churn_count", "high_risk_count",
                                        "age_count", "version")],
            )  # fmt: skip


def test_an_hour_is_the_sum_of_its_batches(database: str) -> None:
    add(database, "first", HOUR)
    add(database, "second", HOUR, total=30, churn=10, risk=7.5, known=0, age=0.0)

    row = figures(database).iloc[0]

    assert row["total_predictions"] == 40
    assert row["churn_rate"] == pytest.approx(30.0)
    assert row["avg_risk_score"] == pytest.approx(0.25)
    assert row["avg_age"] == pytest.approx(40.0)
    assert row["avg_balance"] == pytest.approx(50.0)


def test_an_hour_whose_predictions_are_gone_has_a_row_of_zeros(database: str) -> None:
    with psycopg.connect(database) as connection:
        batch_hours.mark_dirty(connection, [HOUR])

    row = figures(database).iloc[0]

    assert row["total_predictions"] == 0
    assert pd.isna(row["churn_rate"])


def test_an_hour_without_events_has_no_row(database: str) -> None:
    add(database, "first", HOUR)

    assert len(figures(database, HOUR + timedelta(hours=1), hours=5)) == 0


def test_an_hour_is_dirty_until_its_figures_include_the_last_change(database: str) -> None:
    add(database, "first", HOUR)
    assert dirty(database) == [HOUR]

    before = figures(database)
    add(database, "first", HOUR)  # a commit that lands while the figures are computed
    store(database, before)
    assert dirty(database) == [HOUR]

    store(database, figures(database))
    assert dirty(database) == []


def test_an_hour_that_keeps_changing_is_asked_for_at_most_every_so_often(database: str) -> None:
    add(database, "first", HOUR)
    store(database, figures(database))
    add(database, "first", HOUR)

    assert dirty(database, at_most_every=3600) == []
    assert dirty(database, first_after=3600) == [HOUR]


def test_the_first_figures_of_an_hour_wait_after_its_first_batch(database: str) -> None:
    add(database, "first", HOUR)
    with psycopg.connect(database) as connection:
        connection.execute(
            "insert into stream_batches (batch, planned, opened) "
            "values ('first', now() - interval '70 s', now() - interval '60 s')"
        )

    assert dirty(database, first_after=3600) == []
    assert dirty(database, first_after=30, at_most_every=3600) == [HOUR]


def test_an_hour_that_has_not_begun_waits(database: str) -> None:
    add(database, "first", datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1))

    assert dirty(database) == []


def test_a_day_is_the_sum_of_its_hours_weighted_by_what_they_average(database: str) -> None:
    add(database, "first", HOUR)
    add(database, "first", HOUR + timedelta(hours=1), total=30, churn=30, risk=27.5, known=0)
    add(database, "first", HOUR + timedelta(days=1))

    days = metrics.daily_figures(figures(database, hours=48), SCHEMA)

    assert [str(day) for day in days["date"]] == ["2026-11-20", "2026-11-21"]
    assert days["total_predictions"].tolist() == [40, 10]
    assert days["churn_rate"].tolist() == pytest.approx([80.0, 20.0])
    assert days["avg_risk_score"].tolist() == pytest.approx([0.75, 0.25])
    assert days["avg_age"].tolist() == pytest.approx([40.0, 40.0])


def test_a_batch_from_before_a_column_was_averaged_does_not_count_for_its_average(bank_database: Database) -> None:
    before = replace(SCHEMA, columns=tuple(each for each in SCHEMA.columns if each.name != "Balance"))
    bank_database.upgrade(before)
    add(bank_database.writer, "before", HOUR, schema=before)
    add(bank_database.writer, "after", HOUR, total=30, balance=6000.0)
    add(bank_database.writer, "before", HOUR + timedelta(hours=1), total=100, schema=before)

    hours = figures(bank_database.writer, hours=2)
    days = metrics.daily_figures(hours, SCHEMA)

    assert hours["total_predictions"].tolist() == [40, 100]
    assert hours["avg_balance"].tolist() == [pytest.approx(200.0), pytest.approx(float("nan"), nan_ok=True)]
    assert days["avg_balance"].tolist() == pytest.approx([200.0])
    assert days["avg_tenure"].tolist() == pytest.approx([150.0 / 140])


def test_hours_from_before_a_column_was_counted_add_nothing_to_the_count_of_a_day() -> None:
    hours = pd.DataFrame(
        {
            "hour_timestamp": [HOUR, HOUR + timedelta(hours=1)],
            **{name: [10, 20] for name in ("total_predictions", "churn_count", "high_risk_count", "version")},
            **{name: [0.5, 0.5] for name in ("avg_risk_score", "avg_balance", "avg_tenure")},
            "avg_age": [np.nan, 40.0],
            "age_count": [None, 5],
        }
    )

    days = metrics.daily_figures(hours, SCHEMA)

    assert days["age_count"].tolist() == [5]
    assert days["age_count"].dtype == np.int64
    assert days["avg_age"].tolist() == [40.0]


def test_hours_that_lie_close_share_a_window() -> None:
    hours = [HOUR + timedelta(hours=number) for number in (0, 1, 2, 5, 30, 500, 501)]

    assert metrics.windows(hours, joined_within=timedelta(hours=12)) == [
        (hours[0], hours[3]),
        (hours[4], hours[4]),
        (hours[5], hours[6]),
    ]
