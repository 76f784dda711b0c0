"""The worker as a process: what it costs, how healthy it says it is, its end, and a second worker as a reserve."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from churn_platform.database import summary_state
from churn_platform.deployment import health_probe
from churn_platform.worker.heartbeat import OLDEST_SECONDS, heartbeat_file, is_alive
from churn_platform_tests.waiting import wait_until
from churn_platform_tests.worker.ledger import FollowedLedger, Scored
from churn_platform_tests.worker.processes import worker_process

LARGEST_MB = 80
IDLE_SECONDS = 10.0


@pytest.fixture
def ledger(platform: str) -> Iterator[FollowedLedger]:
    """A stream in the database that the settings name."""
    with psycopg.connect(platform, autocommit=True) as connection:
        yield FollowedLedger(connection)


def cases(ledger: FollowedLedger) -> int:
    """Return the number of cases."""
    [(count,)] = ledger.connection.execute("select count(*) from retention_cases").fetchall()
    return int(count)


def test_it_follows_the_stream_within_five_seconds_and_ends_cleanly(ledger: FollowedLedger, tmp_path: Path) -> None:
    with worker_process(tmp_path) as process:
        wait_until(lambda: is_alive(tmp_path))
        assert health_probe.PROBES["worker"](str(tmp_path))
        ledger.commit([Scored(1, 0.9)])
        wait_until(lambda: cases(ledger) == 1, 10)
        ledger.commit([Scored(2, 0.9)])
        wait_until(lambda: cases(ledger) == 2, 5, "the second case, at most 5 s behind the stream")
        wait_until(lambda: summary_state.is_current(ledger.connection), 5, "the summaries, at most 5 s behind")

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)

    assert process.returncode == 0
    assert not heartbeat_file(tmp_path).exists()
    assert "Started with process id" in log
    assert log.rstrip().endswith("Ended.")
    assert "Traceback" not in log


@pytest.mark.parametrize("targets", ["", "chat=json://127.0.0.1:1/hook"], ids=["without targets", "with Apprise"])
def test_it_is_small_and_idle_when_nothing_happens(ledger: FollowedLedger, tmp_path: Path, targets: str) -> None:
    with worker_process(tmp_path, OPERATOR_TARGETS=targets) as process:
        ledger.commit([Scored(number, 0.9) for number in range(50)], explained=True)
        wait_until(lambda: cases(ledger) == 50)
        measured = psutil.Process(process.pid)
        before, began = measured.cpu_times(), time.monotonic()
        wait_until(lambda: time.monotonic() - began > IDLE_SECONDS)
        after = measured.cpu_times()
        memory = measured.memory_info().rss / 1e6

    used = (after.user + after.system - before.user - before.system) / IDLE_SECONDS
    assert memory < LARGEST_MB
    assert used <= 0.01, "at most 1 % of a core on a busy machine; it is 0.2 % on a quiet one"


def test_a_second_worker_takes_over_from_one_that_was_killed(ledger: FollowedLedger, tmp_path: Path) -> None:
    with ExitStack() as processes:
        first = processes.enter_context(worker_process(tmp_path / "first"))
        wait_until(lambda: is_alive(tmp_path / "first"))
        processes.enter_context(worker_process(tmp_path / "second"))
        wait_until(lambda: is_alive(tmp_path / "second"))
        ledger.commit([Scored(1, 0.9)])
        wait_until(lambda: cases(ledger) == 1)
        first.kill()
        ledger.commit([Scored(2, 0.9)])

        wait_until(lambda: cases(ledger) == 2)

    assert ledger.connection.execute("select count(*) from retention_case_history").fetchone() == (2,)


def test_without_a_database_it_is_not_healthy_and_keeps_trying(platform: str, tmp_path: Path) -> None:
    assert platform
    with worker_process(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/churn") as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("cases failed and is tried again" in line for line in lines)
        assert process.poll() is None
        assert not is_alive(tmp_path, since=time.time() + 1)


def test_an_old_heartbeat_is_that_of_a_worker_that_stands_still(tmp_path: Path) -> None:
    heartbeat_file(tmp_path).touch()
    assert is_alive(tmp_path)
    assert not is_alive(tmp_path, since=time.time() + 1)

    os.utime(heartbeat_file(tmp_path), times=(0, time.time() - OLDEST_SECONDS - 1))

    assert not is_alive(tmp_path)
    assert not is_alive(tmp_path / "nowhere")
