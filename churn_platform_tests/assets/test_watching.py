"""Watching, run here on a real stream: drift by hour and day, outcomes, live performance, the page of a day."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported

from churn_platform.features.columns import INPUT_COLUMNS, columns_of
from churn_platform.modeling.bundle import ModelBundle
from churn_platform.partitions import day_key, hour_key
from churn_platform.settings import settings
from churn_platform.watching import lookups
from churn_platform.watching.drift import SCORE, Reference
from churn_platform_tests.assets.graph import Assets, materializations
from churn_platform_tests.features.customers import cleaned
from churn_platform_tests.streaming.stream import event

SENT = 1_500
VERSION = 7
HOUR = datetime(2026, 11, 26, 9, tzinfo=UTC)


@pytest.fixture
def reference(assets: Assets, bundle_uri: str) -> Reference:
    """Of the champion: 4,000 customers of the generator, scored by it."""
    columns = columns_of(cleaned(4_000, seed=1))
    kept = Reference.of({**columns, SCORE: ModelBundle.load(bundle_uri).score(columns)})
    lookups.save_reference(assets.connection, VERSION, kept)
    return kept


def customers(
    *, hour: datetime = HOUR, years: float = 0.0, rows: int = SENT, **changes: object
) -> list[dict[str, Any]]:
    """Events of other customers of the same kind, in this hour, so many years older."""
    frame = cleaned(rows + 50, seed=2).head(rows)[["CustomerId", *INPUT_COLUMNS, "Exited"]]
    events = []
    for number, row in enumerate(frame.to_dict("records")):
        fields = {str(name): value for name, value in row.items()}
        age, label = fields["Age"], fields.pop("Exited")
        fields |= {"Age": None if np.isnan(age) else min(age + years, 100), "true_churn_label": label}
        moment = (hour + timedelta(seconds=number % 3_600)).isoformat()
        events.append(event(number, **fields, event_timestamp=moment) | changes)
    return events


def judge_hour(assets: Assets, *events: Mapping[str, object], hour: datetime = HOUR) -> dg.ExecuteInProcessResult:
    """Stream the events and judge their hour."""
    assets.send(*map(dict, events))
    assets.stream()
    return assets.run("hourly_watching_job", partition_key=hour_key(hour))


def failed(run: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckSeverity]:
    """Checks that did not pass, with their severity."""
    return {each.check_name: each.severity for each in run.get_asset_check_evaluations() if not each.passed}


@pytest.mark.usefixtures("reference")
def test_customers_of_the_kind_that_the_model_learnt_from_fail_no_check(assets: Assets) -> None:
    run = judge_hour(assets, *customers())
    day = assets.run("daily_watching_job", partition_key=day_key(HOUR))

    shown = materializations(run, "drift_hourly")[hour_key(HOUR)]
    rows = assets.connection.execute("select feature, verdict, sampled, weight from drift_hourly").fetchall()
    assert failed(run) == failed(day) == {}
    assert {feature for feature, *_ in rows} == {*INPUT_COLUMNS, SCORE}
    assert {(verdict, sampled, weight) for _, verdict, sampled, weight in rows} == {("stable", SENT, 1.0)}
    assert shown["predictions"] == SENT
    assert float(str(shown["greatest_psi"])) < settings().drift_shifted


@pytest.mark.usefixtures("reference")
def test_customers_ten_years_older_fail_the_check_of_age_and_hardly_another(assets: Assets) -> None:
    run = judge_hour(assets, *customers(years=10))

    assert failed(run)["drift_Age"] == dg.AssetCheckSeverity.ERROR
    assert failed(run).keys() <= {"drift_Age", f"drift_{SCORE}"}
    shown = materializations(run, "drift_hourly")[hour_key(HOUR)]
    assert shown["farthest_feature"] == "Age"


@pytest.mark.usefixtures("reference")
def test_nulls_strange_values_and_dead_letters_are_noticed(assets: Assets) -> None:
    strange = customers(EstimatedSalary=9e8)
    run = judge_hour(
        assets,
        *customers(rows=1_000),
        *({**each, "Age": None, "event_id": None} for each in strange[:500]),
    )
    assets.send(*(b"bad" for _ in range(600)))
    assets.stream()
    opened = assets.connection.execute("select date_trunc('hour', max(opened)) from stream_batches").fetchone()
    assert opened is not None
    letters = assets.run("hourly_watching_job", partition_key=hour_key(opened[0]))

    assert {"missing_values", "out_of_range", "drift_Age", "drift_EstimatedSalary"} <= failed(run).keys()
    assert failed(run)["out_of_range"] == dg.AssetCheckSeverity.ERROR
    assert failed(letters) == {"dead_letters": dg.AssetCheckSeverity.ERROR}


def test_a_version_without_a_reference_and_too_few_predictions_are_not_judged(assets: Assets) -> None:
    run = judge_hour(assets, *customers(years=10, rows=20))

    assert failed(run) == {}
    said = {each.check_name: each.description for each in run.get_asset_check_evaluations()}
    assert "model version 7 has no reference" in str(said["drift_Age"])
    assert assets.connection.execute("select feature, verdict, sampled from drift_hourly").fetchall() == [
        (SCORE, "no reference", 20)
    ]


@pytest.mark.usefixtures("reference")
def test_a_few_customers_are_too_few(assets: Assets) -> None:
    run = judge_hour(assets, *customers(years=10, rows=50))

    verdicts = {verdict for (verdict,) in assets.connection.execute("select verdict from drift_hourly")}
    assert failed(run) == {}
    assert verdicts == {"too few"}


@pytest.mark.usefixtures("reference")
def test_a_day_is_the_sum_of_its_hours_and_its_page_says_what_shifted(assets: Assets) -> None:
    judge_hour(assets, *customers(years=10))
    judge_hour(assets, *customers(hour=HOUR + timedelta(hours=1), rows=500), hour=HOUR + timedelta(hours=1))

    run = assets.run("daily_watching_job", partition_key=day_key(HOUR))

    day: dict[str, list[int]] = dict(
        assets.connection.execute("select feature, array[sampled, version]::bigint[] from drift_daily").fetchall()
    )
    hours = assets.connection.execute("select sum(version)::bigint from drift_hourly where feature = 'Age'").fetchone()
    assert hours is not None
    assert day["Age"] == [SENT + 500, hours[0]]
    assert "drift_Age" in failed(run)
    page = Path(str(materializations(run, "watching_report")[day_key(HOUR)]["report"])).read_text()
    assert "<h3>Age, model version 7</h3>" in page
    assert "<h3>Geography" not in page


def test_live_performance_is_that_of_labels_in_events_and_of_outcomes_that_came_later(assets: Assets) -> None:
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    labelled = customers(hour=today - timedelta(days=1), rows=600)
    unlabelled = [{**each, "true_churn_label": None} for each in customers(hour=today - timedelta(days=1), rows=300)]
    late = [
        {**each, "event_id": event()["event_id"], "CustomerId": 99_000_000 + n} for n, each in enumerate(unlabelled)
    ]
    assets.send(*labelled, *late)
    assets.stream()
    make_topic()

    send_outcomes(
        *({"event_id": each["event_id"], "true_churn_label": 1} for each in late[:100]),
        *({"CustomerId": each["CustomerId"], "true_churn_label": 0} for each in late[100:200]),
        {"event_id": labelled[0]["event_id"], "true_churn_label": 1 - labelled[0]["true_churn_label"]},
        {"true_churn_label": 1},
        b"bad",
    )
    read = assets.run("outcomes_job")
    again = assets.run("outcomes_job")
    run = assets.run("daily_watching_job", partition_key=day_key(today))

    counted = {
        name: value for name, value in materializations(read, "customer_outcomes")[None].items() if name != "next"
    }
    assert counted == {"outcomes": 201, "left": 100 + (1 - labelled[0]["true_churn_label"]), "refused": 2} | {
        "stayed": 100 + labelled[0]["true_churn_label"]
    }
    assert materializations(again, "customer_outcomes")[None]["outcomes"] == 0
    reasons = {reason for (reason,) in assets.connection.execute("select reason from refused_outcomes")}
    assert any("neither an event_id nor a CustomerId" in reason for reason in reasons)
    left = sum(each["true_churn_label"] for each in labelled[1:]) + 100 + (1 - labelled[0]["true_churn_label"])
    shown = materializations(run, "live_performance")[day_key(today)]
    assert (shown["version"], shown["labelled"], shown["churned"]) == (VERSION, 800, left)
    exact = exact_figures(assets)
    assert float(str(shown["roc_auc"])) == pytest.approx(exact["roc_auc"], abs=0.002)
    for name in ("precision", "recall", "brier"):
        assert float(str(shown[name])) == pytest.approx(exact[name], abs=1e-6)


def exact_figures(assets: Assets) -> dict[str, float]:
    """The figures by scikit-learn, from all rows."""
    from sklearn import metrics  # type: ignore[import-untyped]

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


@pytest.mark.parametrize(("flipped", "bad"), [(False, False), (True, True)])
def test_a_champion_that_turns_out_worse_than_when_it_was_trained_fails_its_check(
    assets: Assets, *, flipped: bool, bad: bool
) -> None:
    assets.connection.execute("update model_versions set metrics = metrics || '{\"oof_roc_auc\": 0.7}'")
    sent = customers(hour=datetime.now(UTC) - timedelta(days=1))
    assets.send(*({**each, "true_churn_label": abs(each["true_churn_label"] - flipped)} for each in sent))
    assets.stream()

    run = assets.run("daily_watching_job", partition_key=day_key(datetime.now(UTC)))

    assert ("roc_auc" in failed(run)) == bad
    crossed = lookups.crossings(assets.connection, since=datetime.now(UTC).date(), auc_loss=settings().live_auc_loss)
    assert [crossing.cause for crossing in crossed] == (["performance"] if bad else [])


def make_topic() -> None:
    """The outcomes topic, of two partitions."""
    admin = AdminClient(settings().kafka_client)
    for future in admin.create_topics([NewTopic(settings().outcomes_topic, 2, 1)]).values():
        future.result()


def send_outcomes(*values: Mapping[str, object] | bytes) -> None:
    """Send to the outcomes topic, in a transaction: its marker is an offset that no message has."""
    producer = Producer({**settings().kafka_client, "transactional.id": settings().outcomes_topic})
    producer.init_transactions()
    producer.begin_transaction()
    for number, value in enumerate(values):
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(settings().outcomes_topic, payload, partition=number % 2)
    producer.commit_transaction()
