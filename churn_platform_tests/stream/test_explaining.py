"""Each high-risk customer gets the reasons of the model that scored them, whatever happens in between."""

import json
from dataclasses import replace

import psycopg
import pytest

from churn_platform.database import model_versions
from churn_platform.features.columns import columns_of
from churn_platform.model_store import load_bundle
from churn_platform.scoring.contributions import Explainer
from churn_platform.stream.explaining import ROWS_AT_ONCE, Explanations, explain_batch
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

UNEXPLAINED = "select count(*) from high_risk_customers where reasons is null"
EXPLAINER = "from pg_stat_activity where application_name = 'churn reasons' and datname = current_database()"
ALL = 0.0  # threshold: everybody is high risk


@pytest.mark.slow
def test_stored_reasons_are_those_of_the_bundle_for_the_event(stream: Stream, bundle_uri: str) -> None:
    import pandas as pd

    sent = [event(number, Age=None if number == 7 else 20 + number) for number in range(40)]
    stream.send(sent)

    stream.stream(high_risk_threshold=ALL)

    bundle = load_bundle(bundle_uri)
    customers = columns_of(pd.DataFrame(sent).astype({"Age": float}), bundle.schema.feature_columns)
    expected = Explainer(bundle).reasons(customers)
    stored: dict[str, object] = dict(
        stream.connection.execute("select event_id::text, reasons from high_risk_customers").fetchall()
    )
    assert stored == {str(each["event_id"]): reasons for each, reasons in zip(sent, expected, strict=True)}
    assert stream.value(UNEXPLAINED) == 0


@pytest.mark.slow
def test_a_live_run_explains_shortly_after_the_commit(stream: Stream) -> None:
    key = stream.plan()
    running = stream.start(key, high_risk_threshold=ALL, idle_seconds=60, batch_events=3 * ROWS_AT_ONCE)

    stream.send([event(number) for number in range(2 * ROWS_AT_ONCE)])
    wait_until(lambda: stream.batch(key).events == 2 * ROWS_AT_ONCE and stream.value(UNEXPLAINED) == 0)

    assert running.is_alive()
    stream.send([event(number) for number in range(ROWS_AT_ONCE)])
    running.join()
    assert stream.value("select count(*) from high_risk_customers where reasons is not null") == 3 * ROWS_AT_ONCE


@pytest.mark.slow
def test_rows_that_a_killed_run_left_unexplained_are_explained_by_the_next_run(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream(high_risk_threshold=ALL)
    stream.connection.execute("update high_risk_customers set reasons = null")  # as if killed right after its commit

    stream.send([event(2)])
    key = stream.plan()
    running = stream.start(key, idle_seconds=60, batch_events=2)
    wait_until(lambda: stream.value(UNEXPLAINED) == 0)

    stream.send([event(3)])
    running.join()


def test_a_replay_explains_again_with_the_champion_that_scored(stream: Stream, bundle_uri: str) -> None:
    stream.send([event(number) for number in range(5)])
    batch = stream.stream(high_risk_threshold=ALL)
    stream.connection.execute(
        "update high_risk_customers set reasons = '[]', alert_sent = event_id = (select max(event_id::text)::uuid "
        "from high_risk_customers)"
    )
    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)

    stream.materialize(batch.batch, high_risk_threshold=ALL)

    assert stream.value("select count(*) from high_risk_customers where jsonb_array_length(reasons) = 5") == 5


def test_a_version_whose_bundle_is_gone_is_logged_once_and_blocks_nothing(stream: Stream, bundle_uri: str) -> None:
    stream.send([event(number) for number in range(6)])
    batch = stream.stream(high_risk_threshold=ALL)
    stream.connection.execute("update high_risk_customers set reasons = null")
    model_versions.register(stream.connection, version=2, uri=f"{bundle_uri}-gone", run_id="another", metrics={})
    stream.connection.execute("update churn_predictions set model_version = 2 where kafka_partition = 0")
    logged: list[str] = []

    explained = explain_batch(stream.config, batch.batch, logged.append)

    assert (explained, stream.value(UNEXPLAINED)) == (4, 2)
    assert len(logged) == 1
    assert "scored by version 2 get no reasons" in logged[0]


@pytest.mark.slow
def test_rows_that_a_replay_holds_are_left_alone_without_waiting(stream: Stream) -> None:
    stream.send([event(number) for number in range(3)])
    stream.stream(high_risk_threshold=ALL)
    stream.connection.execute("update high_risk_customers set reasons = null")

    with psycopg.connect(stream.config.dsn) as replay:
        replay.execute(
            "delete from high_risk_customers where event_id = (select max(event_id::text)::uuid from churn_predictions)"
        )
        assert Explanations(stream.config.schema, stream.log.append).explain(stream.connection, most=10) == 2
        replay.commit()

    assert stream.value("select count(*) from high_risk_customers") == 2


@pytest.mark.slow
def test_an_explainer_that_loses_its_connection_never_fails_the_stream(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    stream.limits = replace(stream.limits, explain_poll_seconds=0.05)
    key = stream.plan()
    running = stream.start(key, high_risk_threshold=ALL, idle_seconds=60, batch_events=6)
    stream.send([event(number) for number in range(3)])
    wait_until(lambda: stream.value(f"select count(*) {EXPLAINER}"))
    stream.rows(f"select pg_terminate_backend(pid) {EXPLAINER}")
    wait_until(lambda: "Reasons of high-risk predictions are delayed" in caplog.text)

    stream.send([event(number) for number in range(3)])
    running.join()

    assert (stream.batch(key).predictions, stream.value(UNEXPLAINED)) == (6, 0)


def test_reasons_are_plain_json_to_an_analyst(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream(high_risk_threshold=ALL)

    first = stream.value("select (reasons -> 0)::text from high_risk_customers")

    assert set(json.loads(str(first))) == {"feature", "value", "contribution"}
