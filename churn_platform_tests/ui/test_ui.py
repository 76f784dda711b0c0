"""Dagster's UI: from the customers file to a champion, a batch, its replay, a backfill, and a failed check.

The tests run in this order. Each continues with what the one before has left.
"""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from churn_platform.orchestration.partitions import hour_key
from churn_platform_tests.end_to_end.running import CUSTOMERS, Running
from churn_platform_tests.end_to_end.test_platform import ROWS
from churn_platform_tests.stream.streams import event
from churn_platform_tests.ui.dagster_ui import DagsterUi
from churn_platform_tests.ui.preparations import write_invalid_ages
from churn_platform_tests.waiting import wait_until

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

SENT = 300
HOURS = (19, 23)  # hours of yesterday with one event each


@pytest.fixture(scope="session")
def yesterday() -> datetime:
    """Midnight of yesterday, UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)


def test_data_is_prepared_and_a_model_trained(ui: DagsterUi) -> None:
    ui.run_job("data_preparation_job")
    ui.run_job("training_job")

    ui.asset("champion_model")
    expect(ui.metadata("reason")).to_contain_text("It is now the champion.")
    ui.asset("raw_customers")
    assert ui.has_chart("distribution_Age")
    assert len(ui.rows("preview")) == 5


def test_column_lineage_leads_to_the_upstream_assets(ui: DagsterUi) -> None:
    ui.asset("train_features")

    for asset in ("scaled_features", "binned_features", "encoded_features", "imputed_features"):
        column = ui.page.locator("tr", has=ui.page.get_by_text(re.compile("^(Geography_Spain|Geography)$"))).first
        column.get_by_role("link", name=asset).click()
        expect(ui.page).to_have_url(re.compile(f"/assets/{asset}"))


def test_a_batch_arrives_and_shows_its_offsets_latency_and_model(
    ui: DagsterUi, ui_platform: Running, yesterday: datetime
) -> None:
    moments = [yesterday + timedelta(hours=hour, minutes=30) for hour in HOURS]
    late = [event(number, event_timestamp=moment.isoformat()) for number, moment in enumerate(moments)]
    ui.asset("churn_predictions", "partitions")
    ui_platform.send([*late, b"bad", *(event(n) for n in range(SENT))])

    ui.reload_until(lambda: ui.text(re.compile(r"Materialized \([1-9]")).is_visible(), "a batch to be materialized")
    batch = ui.partitions()[0]
    ui.asset("churn_predictions", "partitions", partition=batch)
    read = sum(int(offsets) for _, _, _, offsets, _ in ui.rows("offset_ranges"))

    assert ui.number("events") == read == SENT + 3
    assert ui.number("dead_letters") == 1
    assert ui.number("model_version") == ui_platform.value(
        "select distinct model_version from churn_predictions where batch = %s", batch
    )
    assert ui.number("event_to_row_p50_ms") > 0
    assert ui.has_chart("risk_scores")
    assert len(ui.rows("preview")) == 5
    ui.asset("dead_letter_events", "events")
    assert "Not JSON" in ui.rows("reasons")[0][0]


def test_a_batch_is_replayed(ui: DagsterUi, ui_platform: Running) -> None:
    ui.asset("churn_predictions", "partitions")
    batch = ui.partitions()[0]
    rows = ui_platform.value(ROWS)

    ui.replay("churn_predictions", [batch])
    ui.asset("churn_predictions", "partitions", partition=batch)
    ui.reload_until(lambda: ui.number("replays") == 1, "the replay to be shown")

    assert ui.metadata("mode").inner_text() == "replay"
    assert ui_platform.value(ROWS) == rows


def test_hours_of_yesterday_are_backfilled_by_one_run(ui: DagsterUi, yesterday: datetime) -> None:
    hours = [yesterday + timedelta(hours=hour) for hour in (0, 23)]

    ui.backfill("churn_metrics_hourly", hour_key(hours[0]), hour_key(hours[1]))
    ui.reload_until(lambda: ui.text("100% completed").is_visible(), "the backfill to be completed")
    ui.page.get_by_role("tab", name="Runs").click()

    expect(ui.page.get_by_role("link", name=re.compile(r"\b[0-9a-f]{8}$"))).to_have_count(1)
    for hour in HOURS:
        ui.asset("churn_metrics_hourly", "partitions", partition=hour_key(yesterday + timedelta(hours=hour)))
        assert ui.number("predictions") == 1
        assert ui.number("batches") == 1
    ui.asset("churn_metrics_hourly", "partitions", partition=hour_key(yesterday + timedelta(hours=2)))
    assert ui.number("predictions") == 0


def test_a_failed_check_shows_what_was_found_and_what_was_expected(ui: DagsterUi, ui_platform: Running) -> None:
    wrong = write_invalid_ages(ui_platform.customers)

    ui.materialize("raw_customers")
    ui.reload_until(lambda: ui.text("Failure").is_visible(), "the run to fail")
    ui.asset("raw_customers", "checks")
    ui.reload_until(lambda: ui.text("Failed").is_visible(), "the check to fail")
    ui.page.get_by_text("quarantined_share", exact=True).first.click()

    expect(ui.text(f"Found: {wrong:,} of {CUSTOMERS:,} rows")).to_be_visible()


def test_a_schedule_is_turned_on_and_off(ui: DagsterUi, ui_platform: Running) -> None:
    query = '{ schedulesOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: \
"churn_platform"}) { ... on Schedules { results { name scheduleState { status } } } } }'

    def status() -> str:
        found = ui_platform.graphql(query)["schedulesOrError"]["results"]
        return next(str(each["scheduleState"]["status"]) for each in found if each["name"] == "training_schedule")

    ui.switch("training_schedule", on=True)
    wait_until(lambda: status() == "RUNNING", what="the schedule to be on")
    ui.switch("training_schedule", on=False)
    wait_until(lambda: status() == "STOPPED", what="the schedule to be off")
