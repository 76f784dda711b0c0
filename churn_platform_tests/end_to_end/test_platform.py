"""The whole platform with the real daemon: from a customers file to a champion, from an event to its metrics."""

from datetime import UTC, datetime, timedelta

import pytest

from churn_platform.files.artifacts import REPORTS, exists, join
from churn_platform.monitoring.drift import monitored
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform_tests.end_to_end.conftest import ROOT
from churn_platform_tests.end_to_end.running import CUSTOMERS, Running
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

FIGURES = (
    "select json_agg(to_jsonb(h) - 'updated_at' - 'version' order by hour_timestamp)::text from churn_metrics_hourly h"
)
ROWS = """
    select md5(string_agg(
        concat(event_id, risk_score, prediction, batch, kafka_partition, kafka_offset), ',' order by event_id
    ))
    from churn_predictions
"""


CHAMPIONS = "select count(*) from model_versions where promoted_at is not null and retired_at is null"


def test_the_first_training_gives_a_champion(trained: Running) -> None:
    assert trained.value(CHAMPIONS) == 1


def test_an_event_becomes_a_prediction_and_counts_in_its_hour_and_day(trained: Running) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    before = trained.events_read()
    first = event(1)
    trained.send(
        [first, first, event(2, event_timestamp=yesterday.isoformat()), b"bad", *(event(n) for n in range(100))]
    )

    wait_until(lambda: trained.events_read() == before + 104, 90, "the events to be read")
    wait_until(trained.is_idle, 90, "all batches to be reported and all metrics to be up to date")

    assert trained.value("select count(*) = count(distinct event_id) from churn_predictions")
    assert trained.value("select sum(total_predictions) from churn_metrics_hourly") == trained.value(
        "select count(*) from churn_predictions"
    )
    assert trained.value("select sum(total_predictions) from churn_metrics_daily") == trained.value(
        "select count(*) from churn_predictions"
    )
    assert trained.value("select count(*) from churn_metrics_daily") >= 2
    assert trained.value("select sum(dead_letters) from stream_batches") == 1
    assert trained.value("select sum(duplicates) from stream_batches") == 1
    opened = {
        batch for (batch,) in trained.connection.execute("select batch from stream_batches where opened is not null")
    }
    assert opened <= trained.materialized_batches()


@pytest.mark.slow
def test_schedules_prepare_other_data_and_train_on_it(trained: Running) -> None:
    write_customers(generate_customers(CUSTOMERS, seed=8), trained.customers)  # unchanged data is not trained on
    schedules = {"data_preparation_job": "data_preparation_schedule", "training_job": "training_schedule"}
    for schedule in schedules.values():
        trained.start_schedule(schedule)
    for job in schedules:
        trained.wait_for_scheduled(job, timeout=150)
    for schedule in schedules.values():
        trained.stop_schedule(schedule)

    for job, schedule in schedules.items():
        tags = {tag["key"]: tag["value"] for tag in trained.scheduled_runs(job)[-1]["tags"]}
        assert tags["dagster/schedule_name"] == schedule
    assert trained.value(CHAMPIONS) == 1


@pytest.mark.slow
def test_a_replay_from_the_ui_leaves_the_same_rows_and_figures(trained: Running) -> None:
    wait_until(trained.is_idle, 90)
    batch = trained.value("select min(batch) from stream_batches where closed is not null")
    rows, figures = trained.value(ROWS), trained.value(FIGURES)

    trained.launch("prediction_stream_job", batch)
    wait_until(trained.is_idle, 90, "the hours to be computed again")

    assert trained.value("select sum(replays) from stream_batches") == 1
    assert trained.value(ROWS) == rows
    assert trained.value(FIGURES) == figures


@pytest.mark.slow
def test_drift_and_the_daily_report_are_computed_automatically(trained: Running, bank_schema: CustomerSchema) -> None:
    trained.send([event(n, true_churn_label=n % 2) for n in range(100)])
    report = join(ROOT, REPORTS, datetime.now(UTC).date().isoformat(), "index.html")

    wait_until(lambda: exists(report), 240, "the report of today")

    evaluated = trained.connection.execute(
        "select feature, bool_and(psi >= 0) from drift_daily where date = current_date group by feature"
    ).fetchall()
    assert dict(evaluated) == dict.fromkeys(monitored(bank_schema), True)
    assert trained.value("select count(*) from drift_hourly where verdict = 'no reference'") == 0
