"""Erasing a customer's rows: nothing of the customer is left, every sum stays true, and later events are not stored."""

import threading

import psycopg
import pytest

from churn_platform.database import erased_customers
from churn_platform.operations.erasure import tables
from churn_platform.operations.erasure.tables import ArchivedRows
from churn_platform_tests.operations.erasure.lives import places_with
from churn_platform_tests.operations.test_verification import compute_hours, give_history, summarize, violated
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

CUSTOMER = 15_600_003


def erase(stream: Stream, customer_id: int = CUSTOMER) -> dict[str, int]:
    """Erase a customer's rows; return how many there were."""
    with psycopg.connect(stream.config.dsn, autocommit=True) as connection:
        _, counts = tables.erase(
            connection, stream.config.schema, customer_id, erased_by="test", archived=ArchivedRows()
        )
    return counts


@pytest.mark.slow
def test_nothing_of_an_erased_customer_is_left_and_every_sum_holds(stream: Stream) -> None:
    give_history(stream)
    before = stream.rows("select sum(events), sum(predictions), sum(dead_letters) from stream_batches")
    stored = stream.value("select count(*) from churn_predictions where customer_id = 15600003")
    assert isinstance(stored, int)
    assert stored > 1

    counts = erase(stream)

    assert counts["churn_predictions"] == stored
    assert places_with(stream.connection, str(CUSTOMER)) == []
    after = stream.rows("select sum(events), sum(predictions) + sum(erased), sum(dead_letters) from stream_batches")
    assert after == before
    assert violated(stream) == set()
    compute_hours_again(stream)
    assert violated(stream) == set()


def compute_hours_again(stream: Stream) -> None:
    """Compute the metrics of all hours and days, which an erasure has marked as out of date."""
    stream.connection.execute("delete from churn_metrics_hourly")
    stream.connection.execute("delete from churn_metrics_daily")
    compute_hours(stream)


def test_later_events_of_an_erased_customer_are_counted_and_not_stored(stream: Stream) -> None:
    erase(stream)
    stream.send([event(3), event(4), b'{"CustomerId": 15600003, "Age": "?"}', b"bad 15600003", b"bad"])

    batch = stream.stream()

    assert (batch.events, batch.predictions, batch.dead_letters, batch.erased) == (5, 1, 1, 3)
    assert places_with(stream.connection, str(CUSTOMER)) == []
    assert [each["customer_id"] for each in stream.published()] == [15_600_004]


def test_a_replay_honours_the_list(stream: Stream) -> None:
    stream.send([event(number) for number in range(6)])
    batch = stream.stream()
    summarize(stream)
    erase(stream)

    stream.materialize(batch.batch)
    summarize(stream)

    again = stream.batch(batch.batch)
    assert (again.events, again.predictions, again.erased, again.replays) == (6, 5, 1, 1)
    assert places_with(stream.connection, str(CUSTOMER)) == []
    assert violated(stream) == set()


@pytest.mark.slow
def test_customers_are_erased_under_a_running_stream(stream: Stream) -> None:
    """Each erasure begins at a random moment of the commits. No later event of the customer is stored."""
    key = stream.plan()
    thread = stream.start(key, idle_seconds=20.0)
    sent = threading.Event()

    def send() -> None:
        while not sent.is_set():
            stream.send([event(number) for number in range(50)])

    with stream.in_thread(send):
        wait_until(lambda: stream.value("select count(*) from churn_predictions") not in (0, None))
        for number in range(25):
            erase(stream, 15_600_000 + number)
        sent.set()
    wait_until(lambda: stream.waiting() == 0)
    stream.connection.execute("insert into stream_pauses (topic) values (%s)", (stream.config.events_topic,))
    thread.join()

    left = stream.rows("select distinct customer_id from churn_predictions order by 1")
    assert left == [(15_600_000 + number,) for number in range(25, 50)]
    assert stream.value("select sum(erased) from stream_batches") not in (0, None)
    summarize(stream)
    assert violated(stream) == set()


def test_the_list_knows_ids_only_by_their_hashes(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        assert len(erased_customers.load(connection)) == 0
        with connection.transaction():
            erased_customers.lock(connection)
            assert erased_customers.add(connection, 42)
            assert not erased_customers.add(connection, 42)
        known = erased_customers.load(connection)

    assert known.version == 1
    assert known.among([41, 42, 42, 43]) == [False, True, True, False]
    assert "42" not in repr(known)
