"""Batch jobs of a running platform: from the terminal, after an error, after the loss of their process, and hanging."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest

from churn_platform.database import dagster_tables
from churn_platform.operations.dagster_runs import Dagster
from churn_platform.orchestration.assets.training import APPLICATION
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.end_to_end.running import Running
from churn_platform_tests.waiting import wait_until

CHURN = Path(sys.executable).with_name("churn")
# Other runs wait for locks, too, and monitoring reads the same table.
WAITING: LiteralString = """
    select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = %s
"""
PREPARED = {"raw_customers", "cleaned_customers", "train_features", "test_features"}
TRAINED = ["churn_model", "model_evaluation", "champion_model"]


def churn(running: Running, *words: str) -> "subprocess.Popen[str]":
    """Start a command that reaches the platform under test."""
    return subprocess.Popen(
        [CHURN, *words],
        env={**os.environ, "DAGSTER_URL": running.stack.addresses["dagster"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def no_training_can_register(running: Running) -> Iterator[None]:
    """Let a training wait where it stores its version, while the block lasts."""
    with psycopg.connect(running.stack.addresses["postgres"]) as connection:
        connection.execute("lock table model_references in access exclusive mode")
        yield


def newest_run(running: Running, job: str, *, other_than: set[str]) -> str:
    """Wait for a run of a job that was not there before, and return its id."""
    wait_until(lambda: any(run["runId"] not in other_than for run in running.runs(job)), 60, f"a run of {job}")
    return next(str(run["runId"]) for run in running.runs(job) if run["runId"] not in other_than)


def ids(running: Running, job: str) -> set[str]:
    """Return the ids of the runs of a job."""
    return {str(run["runId"]) for run in running.runs(job)}


def waiting_process(running: Running, run_id: str) -> psutil.Process:
    """Wait until the training of a run waits for the table, and return the run's process."""
    wait_until(lambda: running.value(WAITING, APPLICATION) > 0, 120, "the training to wait")
    return running.process_of(run_id)


@pytest.mark.slow
def test_data_is_prepared_and_a_model_trained_from_the_terminal(running: Running) -> None:
    prepared = churn(running, "data", "prepare", "--json")
    shown, progress = prepared.communicate(timeout=180)
    assert prepared.returncode == 0, progress
    found = json.loads(shown)
    assert set(found) == set(KEYS["data prepare"]) == set(KEYS["model train"])
    assert found["status"] == "SUCCESS"
    assert set(found["assets"]) >= PREPARED
    assert found["run_id"] in ids(running, "data_preparation_job")  # which the UI lists

    trained = churn(running, "model", "train")
    shown, progress = trained.communicate(timeout=180)
    assert trained.returncode == 0, progress
    assert "training_job succeeded" in shown
    run_id = progress.split("/runs/")[1].split()[0]

    log, _ = churn(running, "logs", "--run", run_id, "--follow").communicate(timeout=60)
    assert 'Finished execution of step "churn_model"' in log
    assert "stderr | Created version" in log  # what MLflow's client has written


@pytest.mark.slow
def test_a_run_can_be_launched_without_waiting_for_it(running: Running) -> None:
    shown, _ = churn(running, "data", "prepare", "--detach", "--json").communicate(timeout=60)

    found = json.loads(shown)

    assert list(found) == KEYS["data prepare"][:4]
    assert found["job"] == "data_preparation_job"
    wait_until(lambda: not running.live_runs("data_preparation_job"), 120, "the run to end")
    assert found["run_id"] in ids(running, "data_preparation_job")


@pytest.mark.slow
def test_a_wrong_file_fails_at_once_with_its_reason(running: Running) -> None:
    before = ids(running, "data_preparation_job")
    good = running.customers.read_bytes()
    running.customers.write_text("this,is\nno,customer\n")
    try:
        command = churn(running, "data", "prepare")
        shown, problem = command.communicate(timeout=180)
    finally:
        running.customers.write_bytes(good)

    assert (command.returncode, shown) == (4, "")
    assert "data_preparation_job ended as FAILURE" in problem
    assert "read_customers_file: " in problem
    (run_id,) = ids(running, "data_preparation_job") - before  # Dagster has launched no other one
    assert not [event for event in running.events_of(run_id) if event.kind == "ExecutionStepUpForRetryEvent"]


@pytest.mark.slow
def test_a_run_whose_process_was_lost_is_continued_by_another(running: Running) -> None:
    before = ids(running, "retraining_job")
    with no_training_can_register(running):
        command = churn(running, "model", "train", "--prepare", "--json")
        lost = newest_run(running, "retraining_job", other_than=before)
        waiting_process(running, lost).kill()

    shown, progress = command.communicate(timeout=240)

    assert command.returncode == 0, progress
    assert "The run was lost. Its successor" in progress
    found = json.loads(shown)
    assert found["run_id"] not in before | {lost}
    assert [event.asset for event in running.events_of(found["run_id"]) if event.asset] == TRAINED  # not prepared again


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_killed_and_reported(running: Running) -> None:
    with no_training_can_register(running):
        run = Dagster(running.stack.addresses["dagster"]).launch(
            "training_job", {"dagster/max_runtime": "15", "dagster/max_retries": "0"}
        )
        process = waiting_process(running, run.run_id)
        process.send_signal(signal.SIGSTOP)  # so that it does not hear that it should end

        wait_until(lambda: running.dagster.get_run_status(run.run_id).value == "FAILURE", 90, "the run to be ended")
        reported = dagster_tables.failed_runs(running.connection, recent_seconds=600)
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 150, "it to be killed")

    (failed,) = (each for each in reported if each.run_id == run.run_id)
    assert (failed.job, failed.reason) == ("training_job", "Exceeded maximum runtime of 15 seconds.")
