"""The worker's metrics: what a scrape returns on real servers, and while the database does not answer."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from churn_platform.alerts.conditions import CONDITIONS
from churn_platform.alerts.evidence import Bounds, Evidence, StreamWatch
from churn_platform.alerts.operator_duty import OperatorConditions
from churn_platform.database import alert_outbox, model_versions, stream_batches, stream_pauses, stream_totals
from churn_platform.database.connections import connect
from churn_platform.lanes import Lane
from churn_platform.observability.endpoint import DutyState, WorkerCollector
from churn_platform.observability.metrics import METRICS
from churn_platform.observability.reading import ANSWER_SECONDS, DatabaseReader, TimelyReader
from churn_platform.settings import Settings
from churn_platform.worker.totals import TotalsDuty
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

Samples = Mapping[str, float]
"""Values by name with labels, as Prometheus writes them."""
DUTIES = {"cases": DutyState(is_up=True, is_active=False)}


def samples(text: str) -> dict[str, float]:
    """Parse what a scrape returned."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def collector_of(dsn: str, topic: str = "events", *, answer_seconds: float = ANSWER_SECONDS) -> WorkerCollector:
    reader = DatabaseReader(
        lambda: connect(dsn, application_name="churn worker metrics", autocommit=True, connect_timeout=3), topic
    )
    timely = TimelyReader(reader, fresh_seconds=0.0, answer_seconds=answer_seconds)
    return WorkerCollector(timely.read, lambda: DUTIES, events_topic=topic, outcomes_topic="outcomes")


def scrape(collector: WorkerCollector) -> Samples:
    registry = CollectorRegistry()
    registry.register(collector)
    return samples(generate_latest(registry).decode())


@pytest.fixture
def collector(stream: Stream) -> WorkerCollector:
    """The metrics of this stream."""
    return collector_of(stream.config.dsn, stream.config.events_topic)


def look(stream: Stream) -> None:
    """Evaluate the operator conditions, as the worker does every 10 s."""
    watch = StreamWatch(
        stream.config.kafka.client,
        stream.config.events_topic,
        group=stream.config.kafka.group,
        outcomes_topic="none",
    )
    duty = OperatorConditions(
        Evidence(Bounds.from_settings(Settings()), watch, {}), (), environment="here", keep_days=90
    )
    duty.run(stream.connection)


def results(found: Samples) -> tuple[float, float, float]:
    """Return the numbers of predictions, dead letters and duplicates."""
    one, two, three = (
        found[f'churn_stream_events_total{{result="{name}"}}'] for name in ("prediction", "dead_letter", "duplicate")
    )
    return one, two, three


def test_events_latencies_and_lag_are_counted(stream: Stream, collector: WorkerCollector) -> None:
    totals = TotalsDuty()
    totals.run(stream.connection)
    assert results(scrape(collector)) == (0, 0, 0)
    events = [event(number) for number in range(30)]
    stream.send([*events, events[0], b"bad", b"bad too", {**event(31), "CreditScore": 5}])
    stream.stream()
    stream.send([event(number) for number in range(4)])
    totals.run(stream.connection)
    look(stream)

    found = scrape(collector)

    topic = stream.config.events_topic
    assert results(found) == (30, 3, 1)
    assert found[f'churn_stream_lag_offsets{{lane="0",topic="{topic}"}}'] == 4
    assert found["churn_stream_unpublished_offsets"] == 0
    assert found["churn_stream_held_offsets"] == 0
    assert found["churn_kafka_up"] == 1
    assert found["churn_stream_end_to_end_seconds_count"] == 30
    assert 0 < found["churn_stream_end_to_end_seconds_sum"] < 30 * 60
    assert found['churn_stream_end_to_end_seconds_bucket{le="+Inf"}'] == 30
    assert found['churn_stream_end_to_end_seconds_bucket{le="3600.0"}'] == 30
    assert found["churn_stream_commit_seconds_count"] == found["churn_stream_commits_total"] > 0
    kinds = {name: value for name, value in found.items() if name.startswith("churn_stream_dead_letters_total")}
    assert sum(kinds.values()) == 3
    assert len(kinds) == 2
    assert not any("5" in name for name in kinds), "a kind has no values"
    assert found["churn_stream_last_commit_timestamp_seconds"] <= datetime.now(UTC).timestamp()


@pytest.mark.slow
def test_an_erasure_takes_nothing_from_the_counters_and_later_events_count_on(
    stream: Stream, collector: WorkerCollector
) -> None:
    stream.send([event(number) for number in range(6)])
    batch = stream.stream().batch
    stream_batches.count_erased(stream.connection, predictions={batch: 2}, dead_letters={})
    assert results(scrape(collector)) == results(scrape(collector_of(stream.config.dsn))) == (6, 0, 0)
    stream_batches.count_erased(stream.connection, predictions={batch: 1}, dead_letters={})
    assert results(scrape(collector)) == (6, 0, 0)
    stream.send([event(number) for number in range(6, 9)])
    stream.stream()
    assert results(scrape(collector)) == (9, 0, 0)


@pytest.mark.slow
def test_counters_never_fall(stream: Stream, collector: WorkerCollector, bundle_uri: str) -> None:
    """Neither a replay that finds fewer dead letters nor a new session changes what the stream has counted."""
    totals = TotalsDuty()
    totals.run(stream.connection)
    stream.send([event(number) for number in range(6)] + [b"bad"])
    batch = stream.stream().batch
    totals.run(stream.connection)
    # batches that were closed long ago are added up once
    stream.connection.execute(
        "update stream_batches set closed = closed - interval '1 hour' where batch = %s", (batch,)
    )
    before = scrape(collector)
    stream_batches.record_replay(
        stream.connection, batch, events=7, predictions=4, dead_letters=1, duplicates=1, erased=1, model_version=1
    )
    assert results(scrape(collector)) == results(before) == (6, 1, 0)
    assert results(scrape(collector_of(stream.config.dsn))) == (6, 1, 0)
    stream_batches.record_replay(
        stream.connection, batch, events=7, predictions=7, dead_letters=0, duplicates=0, erased=0, model_version=1
    )
    assert results(scrape(collector_of(stream.config.dsn))) == (6, 1, 0)

    model_versions.register(stream.connection, version=2, uri=bundle_uri, run_id="another", metrics={})
    model_versions.promote(stream.connection, 2)
    stream.materialize(batch)
    totals.run(stream.connection)
    stream.send([event(9)])
    stream.stream()
    totals.run(stream.connection)
    after = scrape(collector)
    assert results(after) == (7, 1, 0)
    assert after["churn_stream_end_to_end_seconds_count"] == 7


@pytest.mark.slow
def test_another_worker_continues_the_totals(stream: Stream) -> None:
    for number in range(3):
        stream.send([event(number), b"bad"])
        stream.stream()
        TotalsDuty().run(stream.connection)
    # The first duty began at the present: what was there before is not counted.
    found = scrape(collector_of(stream.config.dsn))

    assert found["churn_stream_end_to_end_seconds_count"] == 2
    assert sum(stream_totals.dead_letters(stream.connection).values()) == 2


def test_kinds_of_dead_letters_are_limited(stream: Stream) -> None:
    totals = TotalsDuty()
    totals.run(stream.connection)
    # the name of a field is part of the kind, and a broken producer may invent any
    stream.connection.execute(
        "insert into dead_letter_totals select 'kind ' || n, 1 from generate_series(1, %s) as g (n)",
        (stream_totals.MOST_KINDS - 1,),
    )
    stream.send([b"bad", b"\xff\xfe", {**event(1), "Age": "old"}, {**event(1), "Tenure": "long"}])
    stream.stream()
    totals.run(stream.connection)

    kinds = stream_totals.dead_letters(stream.connection)
    assert len(kinds) == stream_totals.MOST_KINDS + 1
    assert kinds["other"] == 3


def test_the_live_run_its_standby_and_a_pause_are_seen(stream: Stream, collector: WorkerCollector) -> None:
    live, standbys = 'churn_stream_live{lane="0"}', 'churn_stream_standbys{lane="0"}'
    found = scrape(collector)
    assert (found[live], found[standbys], found["churn_stream_paused"]) == (0, 0, 0)
    assert 'churn_stream_batch_age_seconds{lane="0"}' not in found

    stream_pauses.pause(stream.connection, stream.config.events_topic)
    assert scrape(collector)["churn_stream_paused"] == 1
    stream_pauses.resume(stream.connection, stream.config.events_topic)

    stream.send([event(1)])
    with stream.standby(stream.plan()) as run:
        found = scrape(collector)
        assert (found[live], found[standbys]) == (0, 1)
    run.join()


def test_each_lane_is_seen(stream: Stream, collector: WorkerCollector) -> None:
    for lane in stream.want_lanes(3):
        stream.materialize(stream.plan(lane))
    key = stream.plan(Lane(3, 1))
    stream.send([event(number) for number in range(7)])
    look(stream)
    run = stream.start(key, idle_seconds=60)
    wait_until(lambda: stream.batch(key).opened is not None)

    found = scrape(collector)
    stream_pauses.pause(stream.connection, stream.config.events_topic)
    run.join()

    topic = stream.config.events_topic
    assert [found[f'churn_stream_live{{lane="{lane}"}}'] for lane in range(3)] == [0, 1, 0]
    assert [f'churn_stream_batch_age_seconds{{lane="{lane}"}}' in found for lane in range(3)] == [False, True, False]
    assert [found[f'churn_stream_lag_offsets{{lane="{lane}",topic="{topic}"}}'] for lane in range(3)] == [3, 2, 2]


def test_the_model_and_the_outbox_are_seen(stream: Stream, collector: WorkerCollector) -> None:
    stream.connection.execute("update model_versions set registered_at = now() - interval '2 days'")
    alert_outbox.add(
        stream.connection, kind="case", reference="1", payload={"subject": "", "text": ""}, targets=["crm", "mail"]
    )
    stream.connection.execute("update alert_outbox set status = 'in_doubt' where target = 'crm'")
    today = datetime.now(UTC).date()
    stream.connection.execute(
        "insert into drift_daily (date, model_version, feature, sampled, weight, counts, outside, psi, verdict, "
        "missing_rate, out_of_range_rate, version) "
        "values (%s, 1, 'Age', 500, 1, '{}', 0, 0.31, 'drift', 0, 0, 1), "
        "(%s, 1, 'Age', 500, 1, '{}', 0, 0.1, 'stable', 0, 0, 1)",
        (today, today - timedelta(days=1)),
    )

    found = scrape(collector)

    assert found["churn_model_version"] == 1
    assert found["churn_model_age_seconds"] == pytest.approx(2 * 86_400, abs=600)
    assert found['churn_outbox_messages{status="in_doubt"}'] == found['churn_outbox_messages{status="pending"}'] == 1
    assert found['churn_model_drift_psi{feature="Age"}'] == pytest.approx(0.31)
    assert found["churn_database_bytes"] > 1e6
    assert {name for name in found if name.startswith("churn_operator_condition{")} == {
        f'churn_operator_condition{{condition="{each.name}"}}' for each in CONDITIONS
    }


def test_a_database_that_does_not_answer_leaves_the_workers_own_metrics() -> None:
    found = scrape(collector_of("postgresql://nobody@127.0.0.1:1/churn"))

    assert found == {
        "churn_up": 0,
        'churn_worker_duty_up{duty="cases"}': 1,
        'churn_worker_duty_active{duty="cases"}': 0,
    }


def test_a_statement_that_never_ends_does_not_hold_up_a_scrape(database: str) -> None:
    collector = collector_of(database, answer_seconds=0.2)
    wait_until(lambda: scrape(collector)["churn_up"] == 1)
    with psycopg.connect(database) as locking:
        locking.execute("lock table stream_pauses in access exclusive mode")
        assert scrape(collector)["churn_up"] == 0

    wait_until(lambda: scrape(collector)["churn_up"] == 1, 10, "the metrics after the lock")


def test_every_metric_has_a_definition_and_follows_the_conventions() -> None:
    assert len({each.name for each in METRICS}) == len(METRICS)
    for each in METRICS:
        assert each.name.startswith("churn_")
        assert each.name.endswith("_total") == (each.kind == "counter")
        assert each.meaning.endswith(".")
