"""The worker as a process: what it costs, how healthy it says it is, its end, and a second worker as a reserve."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
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


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def metrics_of(port: int) -> str:
    """Return what a worker's metrics endpoint answers; nothing while it does not."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except httpx.TransportError:
        return ""


@pytest.mark.slow
def test_it_serves_its_metrics_and_says_which_duties_it_runs(ledger: FollowedLedger, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    with ExitStack() as processes:
        first = processes.enter_context(worker_process(tmp_path / "first", WORKER_METRICS_PORT=str(ports[0])))
        wait_until(lambda: 'churn_worker_duty_active{duty="totals"} 1.0' in metrics_of(ports[0]))
        ledger.commit([Scored(1, 0.9), Scored(2, 0.9)])
        processes.enter_context(worker_process(tmp_path / "second", WORKER_METRICS_PORT=str(ports[1])))
        wait_until(lambda: 'churn_worker_duty_up{duty="totals"} 1.0' in metrics_of(ports[1]))
        followed = "churn_stream_end_to_end_seconds_count 2.0"
        wait_until(lambda: all(followed in metrics_of(port) for port in ports))
        assert all('churn_stream_events_total{result="prediction"} 2.0' in metrics_of(port) for port in ports)
        assert 'churn_worker_duty_active{duty="totals"} 0.0' in metrics_of(ports[1])
        assert "process_resident_memory_bytes" in metrics_of(ports[1])

        first.kill()
        wait_until(lambda: 'churn_worker_duty_active{duty="totals"} 1.0' in metrics_of(ports[1]))
        ledger.commit([Scored(3, 0.9)])
        wait_until(lambda: "churn_stream_end_to_end_seconds_count 3.0" in metrics_of(ports[1]))


def test_a_port_that_is_taken_costs_the_metrics_only(ledger: FollowedLedger, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with worker_process(tmp_path, WORKER_METRICS_PORT=str(port)) as process:
            wait_until(lambda: is_alive(tmp_path))
            ledger.commit([Scored(1, 0.9)])
            wait_until(lambda: cases(ledger) == 1)
            process.terminate()
            _, log = process.communicate(timeout=20)

    assert f"No metrics: cannot listen at 127.0.0.1:{port}" in log
    assert process.returncode == 0


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


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param("", marks=pytest.mark.slow, id="without targets"),  # less than with Apprise
        pytest.param("chat=json://127.0.0.1:1/hook", id="with Apprise"),
    ],
)
def test_it_is_small_and_idle_when_nothing_happens(ledger: FollowedLedger, tmp_path: Path, targets: str) -> None:
    port = free_port()
    with worker_process(tmp_path, OPERATOR_TARGETS=targets, WORKER_METRICS_PORT=str(port)) as process:
        ledger.commit([Scored(number, 0.9) for number in range(50)], explained=True)
        wait_until(lambda: cases(ledger) == 50)
        measured = psutil.Process(process.pid)
        wait_until(lambda: metrics_of(port))
        before, began = measured.cpu_times(), time.monotonic()
        wait_until(lambda: time.monotonic() - began > IDLE_SECONDS)
        assert "churn_up 1.0" in metrics_of(port)  # one scrape in 10 s; Prometheus makes two in 30 s
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
