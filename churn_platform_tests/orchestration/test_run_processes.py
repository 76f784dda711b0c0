"""Processes of runs under a real code server: forked, and otherwise like those of a new interpreter."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest

from churn_platform.database import advisory_locks, stream_batches
from churn_platform.deployment.dagster_home import RUN_PROCESS
from churn_platform.orchestration.ended_runs import KILL_SECONDS
from churn_platform.orchestration.partitions import batches
from churn_platform.orchestration.run_launcher import Worker, worker_of
from churn_platform.orchestration.run_liveness import STREAM_TAG
from churn_platform.settings import PROJECT_ROOT, settings
from churn_platform_tests.orchestration.code_server import CodeServer
from churn_platform_tests.orchestration.test_stream_sensors import Ticks
from churn_platform_tests.waiting import wait_until

HOUR = "2026-11-24-09:00"
JOBS = {
    "hourly_metrics_job": HOUR,
    "hourly_monitoring_job": HOUR,
    "daily_monitoring_job": "2026-11-24",
    "outcomes_job": "",
}
SET_BY_DAGSTER = {"SF_PARTNER": "DagsterLabs_Dagster"}
DEFINITIONS = "churn_platform.definitions"  # read the settings
POLARS = {"polars", "_polars_runtime_32"}  # cannot be used after a fork


@pytest.fixture
def folder(dagster_home: Path) -> Path:
    """Where each forked run writes what it finds in its process."""
    folder = dagster_home / "observed"
    folder.mkdir()
    return folder


@pytest.fixture
def server(dagster_home: Path, folder: Path, instance: dg.DagsterInstance) -> Iterator[CodeServer]:
    """A code server with an empty stream and a champion."""
    environment = {"TESTS_OBSERVED_FOLDER": str(folder)}
    site = Path(__file__).with_name("observed")
    with CodeServer(dagster_home, instance, site=site, environment=environment) as server:
        wait_until(lambda: _is_forked(server, folder), 120, "a run to be forked")
        for file in folder.iterdir():
            file.unlink()
        yield server


def _is_forked(server: CodeServer, folder: Path) -> bool:
    """Launch a run, and return whether it was forked. On a busy machine, the first ones are not."""
    run = server.submitted("hourly_metrics_job", HOUR)
    server.launch(run)
    assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS
    wait_until(lambda: not _processes(server), 30, "its process to end")
    return bool(_observed(folder))


def _streaming_run(server: CodeServer, platform: str, key: str = "key") -> dg.DagsterRun:
    """Launch a streaming run and wait until it is ready for events. It ends after five of them."""
    with psycopg.connect(platform, autocommit=True) as connection:
        stream_batches.plan_batch(connection, key)
        server.instance.add_dynamic_partitions(str(batches.name), [key])
        run = server.submitted("prediction_stream_job", key, {STREAM_TAG: "live"})
        server.launch(run)
        topic = settings().topics.events
        wait_until(lambda: advisory_locks.lock_sessions(connection, topic)[0], 120, "the run to hold the lock")
    return run


def _fork_server(server: CodeServer) -> psutil.Process:
    (found,) = [each for each in server.process.children() if "multiprocessing.forkserver" in " ".join(each.cmdline())]
    return found


def _processes(server: CodeServer) -> list[psutil.Process]:
    """Return the processes of runs, forked or not."""
    found = []
    for each in server.process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if each.name() == RUN_PROCESS or "--multiprocessing-fork" in each.cmdline():
                found.append(each)
    return found


def _observed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def _of_the_platform(observed: Mapping[str, Any]) -> set[str]:
    return {name for name in observed["imported"] if name.startswith("churn_platform.")}


def _imports_polars(module: str) -> bool:
    code = f"import sys, {module}; sys.exit('polars' not in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], check=False, cwd=PROJECT_ROOT).returncode == 0


def _have_ended(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def _messages(server: CodeServer, run: dg.DagsterRun) -> str:
    return "\n".join(entry.message for entry in server.instance.all_logs(run.run_id))


def test_runs_are_forked_and_differ_from_those_of_a_new_interpreter_only_in_their_imports(
    server: CodeServer, folder: Path
) -> None:
    for run in [server.submitted("hourly_metrics_job", HOUR) for _ in range(2)]:
        server.launch(run)
        assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS

    wait_until(lambda: len(_observed(folder)) == 2, 60, "both runs to end")
    first, second = _observed(folder)
    assert first["parent"] == second["parent"] == _fork_server(server).pid
    assert first["environment"] == second["environment"] == server.process.environ() | SET_BY_DAGSTER
    assert first["folder"] == str(PROJECT_ROOT)
    assert not set(first["numbers"]) & set(second["numbers"])


def test_the_process_that_runs_are_forked_from_has_no_threads_and_no_connections(
    server: CodeServer, platform: str
) -> None:
    run = _streaming_run(server, platform)

    fork_server = _fork_server(server)
    assert fork_server.num_threads() == 1
    assert not fork_server.net_connections("inet")
    assert not [each.path for each in fork_server.memory_maps() if "polars" in each.path]
    assert server.record(run).status is dg.DagsterRunStatus.STARTED


@pytest.mark.slow
def test_forked_runs_import_only_what_cannot_be_imported_before(
    server: CodeServer, platform: str, folder: Path
) -> None:
    for job, key in JOBS.items():
        run = server.submitted(job, key)
        server.launch(run)
        assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS
    wait_until(lambda: len(_observed(folder)) == len(JOBS), 60, "the runs to end")
    for each in _observed(folder):
        assert each["packages"] == []
        assert _of_the_platform(each) == {DEFINITIONS}
        (folder / f"{each['pid']}.json").unlink()

    run = _streaming_run(server, platform)
    Ticks(server.instance, platform).send(5)
    assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS

    wait_until(lambda: _observed(folder), 60, "the run to end")
    (streaming,) = _observed(folder)
    assert set(streaming["packages"]) == POLARS
    others = _of_the_platform(streaming) - {DEFINITIONS}
    assert {name for name in others if not _imports_polars(name)} == set()


@pytest.mark.slow
def test_a_run_that_is_terminated_ends_as_canceled(server: CodeServer, platform: str) -> None:
    run = _streaming_run(server, platform)

    assert server.instance.run_launcher.terminate(run.run_id)

    assert server.end_of(run) is dg.DagsterRunStatus.CANCELED
    wait_until(lambda: worker_of(server.instance, server.record(run)) is Worker.GONE, 30, "the code server to notice")


@pytest.mark.slow
def test_a_frozen_run_that_is_terminated_is_killed_and_blocks_no_other_run(server: CodeServer, platform: str) -> None:
    run = _streaming_run(server, platform)
    (process,) = _processes(server)
    process.suspend()

    assert server.instance.run_launcher.terminate(run.run_id)

    other = server.submitted("hourly_metrics_job", HOUR)
    server.launch(other)
    assert server.end_of(other) is dg.DagsterRunStatus.SUCCESS
    wait_until(lambda: _have_ended([process]), KILL_SECONDS + 30, "the frozen process to be killed")
    assert f"The process {process.pid} of run {run.run_id} was asked to end and hangs. Killed." in server.log()


@pytest.mark.slow
def test_a_run_that_is_killed_is_recorded_as_failed_with_the_signal(server: CodeServer, platform: str) -> None:
    run = _streaming_run(server, platform)

    (process,) = _processes(server)
    process.kill()

    assert server.end_of(run) is dg.DagsterRunStatus.FAILURE
    assert "signal 9 (SIGKILL)" in _messages(server, run)


@pytest.mark.slow
def test_runs_continue_when_the_process_that_they_were_forked_from_is_killed(server: CodeServer, platform: str) -> None:
    run = _streaming_run(server, platform)
    (process,) = _processes(server)
    killed = _fork_server(server)

    killed.kill()
    wait_until(lambda: _have_ended([killed]), 10, "it to be dead")
    standby = server.submitted("hourly_metrics_job", HOUR)
    server.launch(standby)

    assert server.end_of(standby) is dg.DagsterRunStatus.SUCCESS
    assert _fork_server(server).pid != killed.pid
    assert worker_of(server.instance, server.record(run)) is Worker.ALIVE
    Ticks(server.instance, platform).send(5)
    assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS
    wait_until(lambda: _have_ended([process]), 60, "the process to end")
    wait_until(lambda: worker_of(server.instance, server.record(run)) is Worker.GONE, 30, "the code server to notice")


@pytest.mark.slow
def test_a_run_starts_in_a_new_interpreter_while_no_process_can_be_forked(server: CodeServer, folder: Path) -> None:
    run = server.submitted("hourly_metrics_job", HOUR)
    fork_server = _fork_server(server)

    fork_server.suspend()
    server.launch(run)
    assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS
    fork_server.resume()

    assert "has not answered for 7 s" in server.log()
    assert not _observed(folder)


@pytest.mark.slow
def test_nothing_outlives_a_code_server_that_is_killed_but_its_runs(server: CodeServer, platform: str) -> None:
    run = _streaming_run(server, platform)
    (process,) = _processes(server)
    children = server.process.children()
    (address,) = {each.laddr for each in _fork_server(server).net_connections("unix") if each.laddr}

    server.kill()
    assert server.record(run).status is dg.DagsterRunStatus.STARTED
    Ticks(server.instance, platform).send(5)

    assert server.end_of(run) is dg.DagsterRunStatus.SUCCESS
    wait_until(lambda: _have_ended([process, *children]), 30, "the run and all child processes to end")
    assert not Path(str(address)).parent.exists()


@pytest.mark.slow
def test_runs_report_their_own_end_when_the_code_server_is_stopped_with_its_processes(
    server: CodeServer, platform: str
) -> None:
    run = _streaming_run(server, platform)
    children = server.process.children(recursive=True)

    server.instance.report_run_canceling(run)
    server.stop_group()

    assert server.record(run).status is dg.DagsterRunStatus.CANCELED
    assert "unexpectedly exited" not in _messages(server, run)
    wait_until(lambda: _have_ended(children), 30, "all child processes to end")
