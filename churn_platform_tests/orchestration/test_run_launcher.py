"""Runs that start slowly or never, under a real code server: only the launcher can tell them apart."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from churn_platform.database import batch_hours, stream_batches
from churn_platform.local.stack import Stack
from churn_platform.orchestration.partitions import batches
from churn_platform.orchestration.run_launcher import SESSION_TAG, PatientRunLauncher, Worker, worker_of
from churn_platform.orchestration.run_liveness import DEAD_SECONDS, STREAM_TAG, UNSUBMITTED_SECONDS
from churn_platform.orchestration.stream_sensors import dirty_hours_sensor
from churn_platform_tests.orchestration.slow_start import SlowCodeServer
from churn_platform_tests.orchestration.test_stream_sensors import Ticks
from churn_platform_tests.waiting import wait_until

JOB = "prediction_stream_job"
DAY = 24 * 3600.0


@pytest.fixture
def server(dagster_home: Path, instance: dg.DagsterInstance) -> Iterator[SlowCodeServer]:
    """A code server with an empty stream and a champion."""
    with SlowCodeServer(dagster_home, instance) as server:
        yield server


def _slow_run(server: SlowCodeServer, platform: str) -> dg.DagsterRun:
    """Launch a run whose process waits before its first import, until runs may start."""
    with psycopg.connect(platform, autocommit=True) as connection:
        stream_batches.plan_batch(connection, "key")
    server.instance.add_dynamic_partitions(str(batches.name), ["key"])
    run = server.submitted(JOB, "key", {STREAM_TAG: "live"})
    server.launch(run)
    return run


@pytest.mark.slow
def test_a_run_that_takes_a_day_to_start_is_neither_failed_nor_replaced_and_streams(
    server: SlowCodeServer, platform: str
) -> None:
    assert isinstance(server.instance.run_launcher, PatientRunLauncher)
    ticks = Ticks(server.instance, platform)
    ticks.send(5)
    run = _slow_run(server, platform)  # its launcher has waited longer than the timeout of a call

    assert server.record(run).status == dg.DagsterRunStatus.STARTING
    assert worker_of(server.instance, server.record(run)) is Worker.ALIVE
    ticks.reason()
    ticks.age_what_is_missing(seconds=DAY)
    reason = ticks.reason()

    assert "A run has been starting for 864" in reason
    assert server.record(run).status == dg.DagsterRunStatus.STARTING
    server.let_runs_start()
    wait_until(lambda: server.record(run).is_finished, 120, "the run to end")
    assert server.record(run).status == dg.DagsterRunStatus.SUCCESS
    assert SESSION_TAG in server.record(run).tags
    with ticks.connect() as connection:
        batch = stream_batches.find_batch(connection, "key")
    assert batch is not None
    assert (batch.predictions, batch.closed is not None) == (5, True)


@pytest.mark.slow
def test_a_run_that_dies_while_starting_is_marked_as_failed_and_replaced(server: SlowCodeServer, platform: str) -> None:
    ticks = Ticks(server.instance, platform)
    ticks.send(5)
    run = _slow_run(server, platform)
    ticks.reason()

    (process,) = server.run_processes()
    process.kill()
    wait_until(lambda: worker_of(server.instance, server.record(run)) is Worker.GONE, 30, "its server to notice")
    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)
    replaced = ticks.tick()

    assert server.record(run).status == dg.DagsterRunStatus.FAILURE
    assert len(replaced.run_requests or []) == 1


@pytest.mark.slow
def test_a_run_that_dies_while_dagsters_storage_is_down_is_marked_as_failed_by_its_code_server(
    server: SlowCodeServer, platform: str, stack: Stack
) -> None:
    server.let_runs_start()
    run = _slow_run(server, platform)
    name = str(psycopg.conninfo.conninfo_to_dict(platform)["dbname"])
    allow = sql.SQL("alter database {} allow_connections {}")

    with psycopg.connect(stack.owner_dsn, autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        (process,) = server.run_processes()
        process.kill()
        wait_until(lambda: "Ended runs could not be recorded" in server.log(), 60, "the code server to notice")
        connection.execute(allow.format(sql.Identifier(name), sql.SQL("true")))

    wait_until(lambda: worker_of(server.instance, server.record(run)) is Worker.GONE, 60, "the code server to notice")
    assert server.record(run).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.slow
def test_a_run_whose_code_server_died_while_it_started_is_marked_as_failed_once_another_answers(
    server: SlowCodeServer, platform: str
) -> None:
    ticks = Ticks(server.instance, platform)
    ticks.send(5)
    run = _slow_run(server, platform)
    ticks.reason()
    ticks.age_what_is_missing(seconds=DEAD_SECONDS + 1)

    server.kill()
    assert worker_of(server.instance, server.record(run)) is Worker.UNKNOWN
    ticks.reason()
    assert server.record(run).status == dg.DagsterRunStatus.STARTING
    server.start()
    assert worker_of(server.instance, server.record(run)) is Worker.GONE
    replaced = ticks.tick()

    assert server.record(run).status == dg.DagsterRunStatus.FAILURE
    assert len(replaced.run_requests or []) == 1


@pytest.mark.slow
def test_a_run_of_another_job_that_never_gets_a_process_leaves_the_queue(server: SlowCodeServer, platform: str) -> None:
    ticks = Ticks(server.instance, platform)
    run = server.submitted("hourly_metrics_job", "2026-11-24-09:00", {})
    ticks.reason()

    ticks.age_what_is_missing(seconds=UNSUBMITTED_SECONDS / 2)
    ticks.reason()
    assert not server.record(run).is_finished
    ticks.age_what_is_missing(seconds=UNSUBMITTED_SECONDS / 2)
    ticks.reason()

    assert server.record(run).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.slow
def test_a_metrics_run_that_died_with_its_code_server_does_not_block_the_metrics(
    server: SlowCodeServer, platform: str
) -> None:
    ticks = Ticks(server.instance, platform)
    with ticks.connect() as connection:
        batch_hours.mark_dirty(connection, [datetime.now(UTC).replace(minute=0, second=0, microsecond=0)])
    run = server.submitted("hourly_metrics_job", "2026-11-24-09:00", {SESSION_TAG: "opened"})
    server.launch(run)
    server.instance.report_dagster_event(
        dg.DagsterEvent(event_type_value="PIPELINE_START", job_name="hourly_metrics_job"), run.run_id
    )
    assert "in progress" in ticks.reason(dirty_hours_sensor)

    ticks.tick()
    ticks.age_what_is_missing(seconds=DAY)
    ticks.tick()
    assert not server.record(run).is_finished  # its process is alive
    server.kill()
    server.start()
    ticks.tick()

    assert server.record(run).status == dg.DagsterRunStatus.FAILURE
    assert ticks.tick(dirty_hours_sensor).run_requests
