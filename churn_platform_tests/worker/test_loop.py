"""The worker's loop: each duty by itself, errors, exclusive duties, and the end."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from churn_platform.database import connections
from churn_platform.worker.duty import Duty
from churn_platform.worker.loop import Worker
from churn_platform_tests.waiting import wait_until


@dataclass
class Counting:
    """A duty that counts its runs, and does in each what `does` says."""

    name: str = "counting"
    interval: float = 0.01
    exclusive: bool = False
    does: object = None
    runs: int = 0
    sessions: set[int] = field(default_factory=set)

    def run(self, connection: psycopg.Connection) -> bool:
        self.runs += 1
        self.sessions.add(connection.info.backend_pid)
        return bool(self.does(connection)) if callable(self.does) else False


@contextmanager
def running(dsn: str, *duties: Duty) -> Iterator[Worker]:
    """A worker with these duties, which waits only moments after an error."""
    worker = Worker(
        duties,
        lambda name: connections.connect(dsn, application_name=name, autocommit=True),
        first_pause=0.01,
        largest_pause=0.02,
    )
    worker.start()
    try:
        yield worker
    finally:
        assert worker.stop() == []


def test_a_slow_duty_does_not_delay_the_others(database: str) -> None:
    released = threading.Event()
    slow, quick = Counting("slow", does=lambda _: released.wait(30)), Counting("quick")

    with running(database, slow, quick):
        wait_until(lambda: quick.runs > 5)
        assert slow.runs == 1
        released.set()


def test_a_duty_with_more_to_do_runs_again_at_once(database: str) -> None:
    duty = Counting(interval=60)
    duty.does = lambda _: duty.runs < 100

    with running(database, duty):
        wait_until(lambda: duty.runs == 100)


def test_a_lost_session_is_replaced(database: str) -> None:
    duty = Counting()

    with running(database, duty):
        wait_until(lambda: duty.runs > 0)
        with psycopg.connect(database, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'churn worker counting' and datname = current_database()"
            )
        duty.does = lambda connection: connection.execute("select 1") is None
        wait_until(lambda: len(duty.sessions) == 2)


def test_an_error_is_logged_once_until_it_changes_and_others_continue(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Counting("failing"), Counting("other")
    texts = iter(["first"] * 20)

    def fail(_: psycopg.Connection) -> bool:
        text = next(texts, None)
        if text is not None:
            raise ValueError(text)
        return False

    failing.does = fail
    with caplog.at_level(logging.INFO, "churn.worker"), running(database, failing, other) as worker:
        wait_until(lambda: failing.runs > 1)
        assert worker.problems() in ({"failing": "ValueError: first"}, {})
        wait_until(lambda: failing.runs > 22)
        wait_until(lambda: not worker.problems())

    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["failing failed and is tried again: ValueError: first", "failing works again."]
    assert other.runs > 0


def test_an_exclusive_duty_runs_in_one_worker_and_moves_to_another(database: str) -> None:
    first, second = Counting(exclusive=True), Counting(exclusive=True)

    with running(database, second) as other:
        assert other
        wait_until(lambda: second.runs > 0)
        with running(database, first):
            before = second.runs
            wait_until(lambda: second.runs > before + 3)
            assert first.runs == 0
            assert other.stop() == []
            wait_until(lambda: first.runs > 3)


def test_a_stop_waits_for_the_current_run_and_names_a_duty_that_does_not_end(database: str) -> None:
    released = threading.Event()
    duty = Counting("stubborn", does=lambda _: released.wait(30))

    worker = Worker([duty], lambda name: connections.connect(database, application_name=name, autocommit=True))
    worker.start()
    wait_until(lambda: duty.runs == 1)
    began = time.monotonic()

    assert worker.stop(seconds=0.1) == ["stubborn"]
    assert time.monotonic() - began < 5
    released.set()
    assert worker.stop() == []
