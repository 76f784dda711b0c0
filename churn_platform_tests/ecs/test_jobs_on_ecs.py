"""Runs as ECS tasks, without a shared disk: each kind of run, and runs that start late, never, or after their end."""

import json
import math

import psycopg
import pytest
from confluent_kafka import Producer

from churn_platform.database import model_versions
from churn_platform.model_store import save_bundle
from churn_platform_tests.ecs.cloud import DESCRIBE_TASKS, RUN_TASK
from churn_platform_tests.ecs.conftest import Deploy
from churn_platform_tests.ecs.deployment import BUCKET, PREFIX, TIMEOUT, Deployment
from churn_platform_tests.ecs.runner import OVERRIDES_LIMIT, Execution
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

STREAM = "prediction_stream_job"
START_SECONDS = 90.0


def send(deployment: Deployment, count: int) -> None:
    """Send events and wait until Kafka has them."""
    producer = Producer({**deployment.config.kafka.client, "acks": "all"})
    for number in range(count):
        producer.produce(deployment.config.events_topic, json.dumps(event(number)).encode())
    assert producer.flush(60) == 0


def size_of(execution: Execution) -> tuple[str, str]:
    """Return CPU units and MiB of a task."""
    return execution.task.overrides["cpu"], execution.task.overrides["memory"]


def closed_batches(deployment: Deployment) -> list[str]:
    """Return the closed batches that have predictions, oldest first."""
    query = "select batch from stream_batches where closed is not null and predictions > 0 order by opened"
    return [str(batch) for (batch,) in deployment.rows(query)]


def require_one_task_for_each_run(deployment: Deployment, job: str) -> None:
    """Fail if a run of a job has failed, or has another number of tasks than one."""
    runs = deployment.runs(job)
    assert not [run for run in runs if run["status"] == "FAILURE"], deployment.explain(runs[0]["runId"])
    launched = [run["runId"] for run in runs if run["status"] != "QUEUED"]
    assert {run_id: len(deployment.runner.of_run(run_id)) for run_id in launched} == dict.fromkeys(launched, 1)


def register_champion(deployment: Deployment) -> None:
    """Store a small model in the deployment's bucket and make it the champion."""
    uri = f"s3://{BUCKET}/{PREFIX}/models/small"
    save_bundle(small_bundle(), uri)
    with psycopg.connect(deployment.config.dsn) as connection:
        model_versions.register(connection, version=1, uri=uri, run_id="training", metrics={})
        model_versions.promote(connection, 1)


def _run_of(execution: Execution) -> str:
    """Return the run that a task was requested for."""
    return next(str(tag["value"]) for tag in execution.task.tags if tag["key"] == "dagster/run_id")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_kind_of_run_works_as_a_task_without_a_shared_disk(deploy: Deploy) -> None:
    deployment = deploy(BATCH_SECONDS="20")
    deployment.runner.cloud.throttle(RUN_TASK, times=3)
    deployment.runner.cloud.throttle(DESCRIBE_TASKS, times=3)

    preparation = deployment.succeed("data_preparation_job")
    training = deployment.succeed("training_job")
    send(deployment, 500)
    wait_until(lambda: deployment.events_read() == 500, TIMEOUT, "the first events to be read")
    wait_until(lambda: closed_batches(deployment), TIMEOUT, "the first batch to close")
    send(deployment, 500)  # its standby takes over
    wait_until(lambda: deployment.events_read() == 1000, TIMEOUT, "the events after the handover to be read")
    (first, *_) = closed_batches(deployment)
    replay = deployment.succeed(STREAM, tags={"dagster/partition": first})

    (prepared,), (trained,), (replayed,) = (deployment.runner.of_run(run) for run in (preparation, training, replay))
    assert size_of(prepared) == ("1024", "2048")
    assert size_of(trained) == ("2048", "4096")
    assert size_of(replayed) == ("1024", "2048")
    longest = max(len(json.dumps(each.task.overrides)) for each in deployment.runner.executions.values())
    assert longest < OVERRIDES_LIMIT
    require_one_task_for_each_run(deployment, STREAM)
    assert deployment.value("select count(*) from churn_predictions") == 1000
    # What a run writes is in the stores that the settings name, and not beside the launcher's own files.
    home = deployment.folder / "dagster"
    assert not [file for file in home.rglob("*") if any(run in str(file) for run in (preparation, training, replay))]
    assert not [file for file in (prepared.folder / "local").rglob("*") if file.is_file()]


@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_runs_that_start_90_s_late_are_neither_declared_dead_nor_launched_twice(deploy: Deploy) -> None:
    deployment = deploy(start_seconds=START_SECONDS, BATCH_SECONDS="240")
    register_champion(deployment)

    send(deployment, 500)
    preparation = deployment.launch("data_preparation_job")
    wait_until(lambda: deployment.events_read() == 500, 2 * TIMEOUT, "the events to be read")
    assert deployment.wait_for(preparation) == "SUCCESS", deployment.explain(preparation)
    wait_until(lambda: len(deployment.runner.of_job(STREAM)) == 2, TIMEOUT, "a standby")

    require_one_task_for_each_run(deployment, STREAM)
    require_one_task_for_each_run(deployment, "data_preparation_job")
    assert deployment.value("select count(*) from churn_predictions") == 500


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_that_starts_after_it_was_recorded_as_failed_ends_without_doing_anything(deploy: Deploy) -> None:
    deployment = deploy(start_seconds=math.inf, BATCH_SECONDS="600")
    register_champion(deployment)
    wait_until(lambda: deployment.runner.of_job(STREAM), TIMEOUT, "a task for a streaming run")
    (late,) = deployment.runner.of_job(STREAM)
    (run,) = deployment.runs(STREAM)

    send(deployment, 100)
    deployment.fail(run["runId"])  # as Dagster does after start_timeout_seconds
    wait_until(lambda: len(deployment.runner.of_job(STREAM)) == 2, TIMEOUT, "a task for another run")
    _, second = deployment.runner.of_job(STREAM)
    deployment.runner.release(second)
    wait_until(lambda: deployment.events_read() == 100, TIMEOUT, "the second run to stream")
    deployment.runner.release(late)
    wait_until(lambda: late.settled, TIMEOUT, "the late task to end")

    assert late.exit_code == 0
    assert deployment.status(run["runId"]) == "FAILURE"
    assert second.exit_code is None  # it streams
    assert deployment.value("select count(*) from churn_predictions") == 100
    assert deployment.rows("select run_id from stream_batches where opened is not null") == [(_run_of(second),)]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_task_that_dies_is_replaced_and_one_that_cannot_start_too(deploy: Deploy) -> None:
    deployment = deploy(start_seconds=math.inf, BATCH_SECONDS="600")
    register_champion(deployment)
    wait_until(lambda: deployment.runner.of_job(STREAM), TIMEOUT, "a task for a streaming run")
    (first,) = deployment.runner.of_job(STREAM)

    send(deployment, 100)
    deployment.runner.fail_pending(first, "CannotPullContainerError: pull image manifest has been retried")
    wait_until(lambda: len(deployment.runner.of_job(STREAM)) == 2, TIMEOUT, "a task for another run")
    second = deployment.runner.of_job(STREAM)[1]
    deployment.runner.release(second)
    wait_until(lambda: deployment.events_read() == 100, TIMEOUT, "the second run to stream")
    deployment.runner.start_seconds = 0.0
    deployment.runner.kill(second)
    send(deployment, 100)
    wait_until(lambda: deployment.events_read() == 200, TIMEOUT, "another run to continue")

    assert deployment.value("select count(*) from churn_predictions") == 200
    failed = [run["runId"] for run in deployment.runs(STREAM) if run["status"] == "FAILURE"]
    assert {_run_of(first), _run_of(second)} == set(failed)
