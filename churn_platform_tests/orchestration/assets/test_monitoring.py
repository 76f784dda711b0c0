"""The monitoring assets on a real stream: drift per hour and day, outcomes, live performance, the daily report."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest
from psycopg.rows import dict_row

from churn_platform import archive
from churn_platform.database import monitoring_results
from churn_platform.features.columns import columns_of
from churn_platform.model_store import load_bundle
from churn_platform.monitoring import lookups, pruning
from churn_platform.monitoring.drift import Reference, monitored
from churn_platform.monitoring.verdicts import SCORE
from churn_platform.orchestration.partitions import day_key, hour_key
from churn_platform.settings import settings
from churn_platform_tests.features.customers import BANK, cleaned
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.stream.streams import event

SENT = 1_500
VERSION = 7
HOUR = datetime(2026, 11, 26, 9, tzinfo=UTC)


@pytest.fixture
def reference(assets: Assets, bundle_uri: str) -> Reference:
    """The reference of the champion: 4,000 customers of the generator, scored by it."""
    columns = columns_of(cleaned(4_000, seed=1), BANK.inputs)
    reference = Reference.of({**columns, SCORE: load_bundle(bundle_uri).score(columns)}, BANK)
    lookups.save_reference(assets.connection, VERSION, reference)
    return reference


def customers(
    *, hour: datetime = HOUR, years: float = 0.0, rows: int = SENT, **changes: object
) -> list[dict[str, Any]]:
    """Return events in this hour, of other customers from the same distribution who are older by this many years."""
    frame = cleaned(rows + 50, seed=2).head(rows)[[*BANK.event_fields, BANK.target]]
    events = []
    for number, row in enumerate(frame.to_dict("records")):
        fields = {str(name): value for name, value in row.items()}
        age, label = fields["Age"], fields.pop("Exited")
        fields |= {"Age": None if np.isnan(age) else min(age + years, 100), "true_churn_label": label}
        moment = (hour + timedelta(seconds=number % 3_600)).isoformat()
        events.append(event(number, **fields, event_timestamp=moment) | changes)
    return events


def evaluate_hour(assets: Assets, *events: Mapping[str, object], hour: datetime = HOUR) -> dg.ExecuteInProcessResult:
    """Stream the events and evaluate their hour."""
    assets.send(*map(dict, events))
    assets.stream()
    return assets.run("hourly_monitoring_job", partition_key=hour_key(hour))


def failed(run: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckSeverity]:
    """Return the checks that did not pass, with their severity."""
    return {each.check_name: each.severity for each in run.get_asset_check_evaluations() if not each.passed}


def descriptions(run: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the descriptions of check results by check."""
    return {each.check_name: str(each.description) for each in run.get_asset_check_evaluations()}


@pytest.mark.usefixtures("reference")
def test_customers_like_those_of_the_training_data_fail_no_check(assets: Assets) -> None:
    run = evaluate_hour(assets, *customers())
    day = assets.run("daily_monitoring_job", partition_key=day_key(HOUR))

    shown = materializations(run, "drift_hourly")[hour_key(HOUR)]
    rows = assets.connection.execute("select feature, verdict, sampled, weight from drift_hourly").fetchall()
    assert failed(run) == failed(day) == {}
    assert {feature for feature, *_ in rows} == set(monitored(BANK))
    assert {(verdict, sampled, weight) for _, verdict, sampled, weight in rows} == {("stable", SENT, 1.0)}
    assert shown["predictions"] == SENT
    assert float(str(shown["greatest_psi"])) < settings().monitoring.drift_shifted


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_customers_ten_years_older_fail_the_check_of_age_and_at_most_that_of_the_score(assets: Assets) -> None:
    run = evaluate_hour(assets, *customers(years=10))

    assert failed(run)["drift_Age"] == dg.AssetCheckSeverity.ERROR
    assert failed(run).keys() <= {"drift_Age", f"drift_{SCORE}"}
    shown = materializations(run, "drift_hourly")[hour_key(HOUR)]
    assert shown["farthest_feature"] == "Age"
    assert "no more values are missing than in training" in descriptions(run)["missing_values"]


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_the_check_reports_that_no_values_are_missing(assets: Assets) -> None:
    run = evaluate_hour(assets, *customers(Age=41.0))

    assert "no values are missing" in descriptions(run)["missing_values"]
    assert "highest rate" not in descriptions(run)["missing_values"]


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_nulls_out_of_range_values_and_dead_letters_fail_their_checks(assets: Assets) -> None:
    out_of_range = customers(EstimatedSalary=9e8)
    run = evaluate_hour(
        assets,
        *customers(rows=1_000),
        *({**each, "Age": None, "event_id": None} for each in out_of_range[:500]),
    )
    assets.send(*(b"bad" for _ in range(600)))
    assets.stream()
    opened = assets.connection.execute("select date_trunc('hour', max(opened)) from stream_batches").fetchone()
    assert opened is not None
    dead_letters = assets.run("hourly_monitoring_job", partition_key=hour_key(opened[0]))

    assert {"missing_values", "out_of_range", "drift_Age", "drift_EstimatedSalary"} <= failed(run).keys()
    assert failed(run)["out_of_range"] == dg.AssetCheckSeverity.ERROR
    assert "the highest rate is that of Age, 3" in descriptions(run)["missing_values"]
    assert failed(dead_letters) == {"dead_letters": dg.AssetCheckSeverity.ERROR}


@pytest.mark.slow
def test_a_version_without_a_reference_is_not_evaluated(assets: Assets) -> None:
    run = evaluate_hour(assets, *customers(years=10, rows=20))

    assert failed(run) == {}
    assert "model version 7 has no reference" in descriptions(run)["drift_Age"]
    assert assets.connection.execute("select feature, verdict, sampled from drift_hourly").fetchall() == [
        (SCORE, "no reference", 20)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_a_few_predictions_are_too_few_for_a_verdict(assets: Assets) -> None:
    run = evaluate_hour(assets, *customers(years=10, rows=50))

    verdicts = {verdict for (verdict,) in assets.connection.execute("select verdict from drift_hourly")}
    assert failed(run) == {}
    assert verdicts == {"too few"}


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_a_day_is_the_sum_of_its_hours_and_its_report_shows_what_shifted(assets: Assets) -> None:
    evaluate_hour(assets, *customers(years=10))
    evaluate_hour(assets, *customers(hour=HOUR + timedelta(hours=1), rows=500), hour=HOUR + timedelta(hours=1))

    run = assets.run("daily_monitoring_job", partition_key=day_key(HOUR))

    day: dict[str, list[int]] = dict(
        assets.connection.execute("select feature, array[sampled, version]::bigint[] from drift_daily").fetchall()
    )
    hours = assets.connection.execute("select sum(version)::bigint from drift_hourly where feature = 'Age'").fetchone()
    assert hours is not None
    assert day["Age"] == [SENT + 500, hours[0]]
    assert "drift_Age" in failed(run)
    report = Path(str(materializations(run, "monitoring_report")[day_key(HOUR)]["report"])).read_text()
    assert "<h3>Age, model version 7</h3>" in report
    assert "<h3>Geography" not in report


@pytest.mark.slow
def test_live_performance_uses_labels_in_events_and_later_outcomes(assets: Assets) -> None:
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    labelled = customers(hour=today - timedelta(days=1), rows=600)
    unlabelled = [{**each, "true_churn_label": None} for each in customers(hour=today - timedelta(days=1), rows=300)]
    late = [
        {**each, "event_id": event()["event_id"], "CustomerId": 99_000_000 + n} for n, each in enumerate(unlabelled)
    ]
    assets.send(*labelled, *late)
    assets.stream()
    create_topic()

    send_outcomes(
        *({"event_id": each["event_id"], "true_churn_label": 1} for each in late[:100]),
        *({"CustomerId": each["CustomerId"], "true_churn_label": 0} for each in late[100:200]),
        {"event_id": labelled[0]["event_id"], "true_churn_label": 1 - labelled[0]["true_churn_label"]},
        {"true_churn_label": 1},
        b"bad",
    )
    first = assets.run("outcomes_job")
    again = assets.run("outcomes_job")
    run = assets.run("daily_monitoring_job", partition_key=day_key(today))

    counted = {
        name: value for name, value in materializations(first, "customer_outcomes")[None].items() if name != "next"
    }
    assert counted == {
        "outcomes": 201,
        "left": 100 + (1 - labelled[0]["true_churn_label"]),
        "stayed": 100 + labelled[0]["true_churn_label"],
        "rejected": 2,
        "kept_cases": 0,
        "lost_cases": 0,
    }
    assert materializations(again, "customer_outcomes")[None]["outcomes"] == 0
    reasons = {reason for (reason,) in assets.connection.execute("select reason from refused_outcomes")}
    assert any("neither an event_id nor a CustomerId" in reason for reason in reasons)
    left = sum(each["true_churn_label"] for each in labelled[1:]) + 100 + (1 - labelled[0]["true_churn_label"])
    shown = materializations(run, "live_performance")[day_key(today)]
    assert (shown["version"], shown["labelled"], shown["churned"]) == (VERSION, 800, left)
    exact = exact_metrics(assets)
    assert float(str(shown["roc_auc"])) == pytest.approx(exact["roc_auc"], abs=0.002)
    for name in ("precision", "recall", "brier"):
        assert float(str(shown[name])) == pytest.approx(exact[name], rel=1e-3)  # 4 significant digits


def exact_metrics(assets: Assets) -> dict[str, float]:
    """Compute the metrics from all rows with scikit-learn."""
    from sklearn import metrics

    rows = assets.connection.execute("""
        select p.risk_score, p.prediction, coalesce(e.churned, c.churned, p.true_churn_label)
        from churn_predictions p
        left join customer_outcomes e on e.event_id = p.event_id
        left join customer_outcomes c on c.customer_id = p.customer_id and c.event_id is null
        where coalesce(e.churned, c.churned, p.true_churn_label) is not null
    """).fetchall()
    scores, predicted, churned = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return {
        "roc_auc": metrics.roc_auc_score(churned, scores),
        "precision": metrics.precision_score(churned, predicted),
        "recall": metrics.recall_score(churned, predicted),
        "brier": metrics.brier_score_loss(churned, scores),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("flipped", "bad"), [(False, False), (True, True)])
def test_a_champion_that_performs_worse_than_in_training_fails_its_check(
    assets: Assets, *, flipped: bool, bad: bool
) -> None:
    assets.connection.execute("update model_versions set metrics = metrics || '{\"oof_roc_auc\": 0.7}'")
    sent = customers(hour=datetime.now(UTC) - timedelta(days=1))
    assets.send(*({**each, "true_churn_label": abs(each["true_churn_label"] - flipped)} for each in sent))
    assets.stream()

    run = assets.run("daily_monitoring_job", partition_key=day_key(datetime.now(UTC)))

    assert ("roc_auc" in failed(run)) == bad
    auc_loss = settings().monitoring.live_auc_loss
    crossed = lookups.crossings(assets.connection, since=datetime.now(UTC).date(), auc_loss=auc_loss)
    assert [crossing.cause for crossing in crossed] == (["performance"] if bad else [])


def shown(assets: Assets, asset: str, check: str) -> dg.AssetCheckEvaluation:
    """Return the result that the asset's page shows. It must be about the partition's latest materialization."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    record = assets.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert asyncio.run(record.targets_latest_materialization(LoadingContextForTest(assets.instance)))
    assert record.evaluation is not None
    return record.evaluation


def result_of(assets: Assets, asset: str, check: str, partition: str) -> dg.AssetCheckEvaluation:
    """Return the latest result of a check for a partition."""
    (record,) = assets.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), check), limit=1, partition_filter=PartitionKeyFilter(key=partition)
    )
    assert record.evaluation is not None
    return record.evaluation


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_evaluating_an_older_hour_or_day_leaves_the_latest_ones_result_on_the_page(assets: Assets) -> None:
    before = HOUR - timedelta(hours=20)  # on the day before
    evaluate_hour(assets, *customers(years=10))
    evaluate_hour(assets, *customers(hour=before, rows=50), hour=before)
    for day in (HOUR, before):
        assets.run("daily_monitoring_job", partition_key=day_key(day))

    for asset, key, latest, older in (
        ("drift_hourly", "drift_Age", hour_key(HOUR), hour_key(before)),
        ("drift_daily", "drift_Age", day_key(HOUR), day_key(before)),
    ):
        assert (shown(assets, asset, key).partition, shown(assets, asset, key).passed) == (latest, False)
        assert not result_of(assets, asset, key, latest).passed
        assert result_of(assets, asset, key, older).passed
        assert "too few" in str(result_of(assets, asset, key, older).description)


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_in_a_run_over_several_hours_each_hour_has_its_own_results(assets: Assets) -> None:
    hours = [HOUR - timedelta(hours=number) for number in (2, 1, 0)]
    assets.send(*customers(hour=hours[0], years=10), *customers(hour=hours[2]))
    assets.stream()

    assets.run_window("hourly_monitoring_job", hour_key(hours[0]), hour_key(hours[2]))

    found = [result_of(assets, "drift_hourly", "drift_Age", hour_key(hour)) for hour in hours]
    assert [each.passed for each in found] == [False, True, True]
    assert "no prediction" in str(found[1].description)
    assert shown(assets, "drift_hourly", "drift_Age").partition == hour_key(hours[2])
    assets.run_window("hourly_monitoring_job", hour_key(hours[0]), hour_key(hours[1]))
    assert shown(assets, "drift_hourly", "drift_Age").partition == hour_key(hours[2])


@pytest.mark.slow
def test_evaluating_an_older_day_leaves_the_latest_live_performance_on_the_page(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_WINDOW_DAYS", "1")
    settings.cache_clear()
    assets.connection.execute("update model_versions set metrics = metrics || '{\"oof_roc_auc\": 0.7}'")
    today = datetime.now(UTC)
    days = [today - timedelta(days=number) for number in (2, 1, 0)]
    for day, flipped in ((days[0], False), (days[1], True)):
        sent = customers(hour=day.replace(hour=0, minute=0), rows=1_000)
        assets.send(*({**each, "true_churn_label": abs(each["true_churn_label"] - flipped)} for each in sent))
    assets.stream()

    assets.run_window("daily_monitoring_job", day_key(days[1]), day_key(days[2]))
    assets.run("daily_monitoring_job", partition_key=day_key(days[0]))

    page = shown(assets, "live_performance", "roc_auc")
    assert (page.partition, page.passed) == (day_key(days[1]), False)  # today has no predictions
    assert result_of(assets, "live_performance", "roc_auc", day_key(days[0])).passed
    assert "Not evaluated: 0" in str(result_of(assets, "live_performance", "roc_auc", day_key(days[2])).description)


@pytest.mark.slow
def test_a_day_without_outcomes_shows_no_reliability_chart_of_another_day(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_WINDOW_DAYS", "1")
    settings.cache_clear()
    days = [datetime.now(UTC) - timedelta(days=number) for number in (2, 1, 0)]
    assets.send(*customers(hour=days[0].replace(hour=0, minute=0), rows=300))
    assets.stream()

    run = assets.run_window("daily_monitoring_job", day_key(days[0]), day_key(days[2]))

    found = materializations(run, "live_performance")
    assert ["reliability" in found[day_key(day)] for day in days] == [True, False, False]
    assert found[day_key(days[1])]["labelled"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
def test_figures_of_past_days_stay_when_their_predictions_are_archived_or_deleted(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_DAYS", "365")
    settings.cache_clear()
    boundary = (datetime.now(UTC) - timedelta(days=90)).replace(hour=0, minute=0, second=0, microsecond=0)
    for hour in (boundary, boundary + timedelta(hours=23)):
        assets.send(*customers(hour=hour, years=10, rows=400))
        key, _ = assets.stream()
        assets.connection.execute(
            "update stream_batches set closed = %s, reported = true where batch = %s",
            (hour + timedelta(minutes=59), key),
        )
    day, first, last = day_key(boundary), hour_key(boundary), hour_key(boundary + timedelta(hours=23))
    assets.run_window("hourly_monitoring_job", first, last)
    assets.run("daily_monitoring_job", partition_key=day)
    before = figures(assets)
    assert {verdict for feature, verdict in verdicts(assets) if feature == "Age"} == {"far"}
    assert len(before["live_performance"]) == 1

    # Time passes: first the first hour is older than ARCHIVE_DAYS, then the whole day.
    monkeypatch.setenv("ARCHIVE_DAYS", "90")
    settings.cache_clear()
    for moment in (boundary + timedelta(hours=1), boundary + timedelta(days=1)):
        assert archive.archive_next(assets.connection, settings().platform.artifacts_root, before=moment) is not None
        now = moment + timedelta(days=90)
        lookups.delete_old(assets.connection, before=pruning.deletable_before(now, archive_days=90))
        since = pruning.complete_since(now, archive_days=90, batch_seconds=60)
        assert monitoring_results.due_hours(assets.connection, at_most_every=0, since=since) == []
        assert monitoring_results.due_days(assets.connection, at_most_every=0, since=since) == []
        hours_left = {row["hour_timestamp"] for row in figures(assets)["drift_hourly"]}
        assert len(hours_left) == (2 if moment.hour else 0)  # all hours of a day are deleted together
        assets.run_window("hourly_monitoring_job", first, last)
        run = assets.run("daily_monitoring_job", partition_key=day)

        after = figures(assets)
        assert after["drift_daily"] == before["drift_daily"]
        assert after["live_performance"] == before["live_performance"]
        assert after["drift_hourly"] in (before["drift_hourly"], [])
        assert "figures stay as they were" in str(materializations(run, "live_performance")[day]["note"])
        assert ("note" in materializations(run, "drift_daily")[day]) == (not hours_left)  # its hours have been deleted
        assert not result_of(assets, "drift_daily", "drift_Age", day).passed
        assert "over 800 predictions" in str(result_of(assets, "drift_daily", "drift_Age", day).description)


def verdicts(assets: Assets) -> list[tuple[Any, ...]]:
    """Return the features and verdicts of all days."""
    return [
        (feature, verdict) for feature, verdict in assets.connection.execute("select feature, verdict from drift_daily")
    ]


def figures(assets: Assets) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of the monitoring tables, in order, without the time at which they were computed."""
    found = {}
    with assets.connection.cursor(row_factory=dict_row) as cursor:
        found["drift_hourly"] = cursor.execute("select * from drift_hourly order by 1, 2, 3").fetchall()
        found["drift_daily"] = cursor.execute("select * from drift_daily order by 1, 2, 3").fetchall()
        found["live_performance"] = cursor.execute("select * from live_performance order by 1, 2").fetchall()
    for rows in found.values():
        for row in rows:
            del row["updated_at"]
    return found


def create_topic() -> None:
    """Create the outcomes topic with two partitions."""
    admin = AdminClient(settings().kafka_client)
    for future in admin.create_topics([NewTopic(settings().topics.outcomes, 2, 1)]).values():
        future.result()


def send_outcomes(*values: Mapping[str, object] | bytes) -> None:
    """Send to the outcomes topic in a transaction, whose marker takes an offset without a message."""
    producer = Producer({**settings().kafka_client, "transactional.id": settings().topics.outcomes})
    producer.init_transactions()
    producer.begin_transaction()
    for number, value in enumerate(values):
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(settings().topics.outcomes, payload, partition=number % 2)
    producer.commit_transaction()
