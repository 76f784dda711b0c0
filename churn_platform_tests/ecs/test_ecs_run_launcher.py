"""The launcher's requests to ECS, against moto: throttled, unanswered, without capacity, wrong."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from dagster_aws.ecs.utils import RetryableEcsException
from mypy_boto3_ecs import ECSClient

from churn_platform.orchestration.ecs_run_launcher import is_refusal, may_pass, require_shared_artifacts, run_task
from churn_platform.orchestration.jobs import data_preparation_job, prediction_stream_job, training_job
from churn_platform.settings import SettingsError
from churn_platform_tests.ecs.cloud import RUN_TASK, Cloud
from churn_platform_tests.files.s3_server import ANYBODY, connection

CLUSTER = "churn"
ONE_ATTEMPT = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def ecs(cloud: Cloud) -> Iterator[ECSClient]:
    """A client of ECS that repeats nothing by itself, with a cluster and a task definition."""
    client = boto3.client("ecs", config=ONE_ATTEMPT, **connection(cloud.url, key=ANYBODY, secret=ANYBODY))
    client.create_cluster(clusterName=CLUSTER)
    client.register_task_definition(
        family="run",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "run", "image": "none", "memory": 512}],
    )
    yield client
    client.close()


@pytest.fixture
def request_of(cloud: Cloud) -> dict[str, Any]:
    """A request for a task."""
    network = {"subnets": [cloud.subnet()], "securityGroups": [cloud.security_group()]}
    return {
        "cluster": CLUSTER,
        "taskDefinition": "run",
        "launchType": "FARGATE",
        "networkConfiguration": {"awsvpcConfiguration": network},
    }


def test_a_throttled_request_is_repeated_until_it_is_accepted(
    cloud: Cloud, ecs: ECSClient, request_of: dict[str, Any]
) -> None:
    cloud.throttle(RUN_TASK, times=6)
    pauses: list[float] = []

    task = run_task(ecs, request_of, sleep=pauses.append)

    assert len(pauses) == 6
    assert list(cloud.ecs.tasks[CLUSTER]) == [task["taskArn"]]


def test_a_request_that_stays_throttled_fails_with_the_answer_of_ecs(
    cloud: Cloud, ecs: ECSClient, request_of: dict[str, Any]
) -> None:
    cloud.throttle(RUN_TASK, times=1_000)

    with pytest.raises(ClientError, match="ThrottlingException"):
        run_task(ecs, request_of, give_up_seconds=0, sleep=lambda _: None)


def test_a_request_whose_answer_was_lost_is_repeated_with_the_same_token(
    cloud: Cloud, ecs: ECSClient, request_of: dict[str, Any]
) -> None:
    cloud.lose_answers(RUN_TASK, times=2)

    run_task(ecs, request_of, sleep=lambda _: None)

    assert len(cloud.tokens) == 3
    assert len(set(cloud.tokens)) == 1  # ECS starts one task for a token; moto ignores it


def test_a_refused_request_is_repeated_with_another_token(
    cloud: Cloud, ecs: ECSClient, request_of: dict[str, Any]
) -> None:
    cloud.refuse("Capacity is unavailable at this time. Please try again later", times=2)

    run_task(ecs, request_of, sleep=lambda _: None)

    assert len(set(cloud.tokens)) == 3


def test_a_wrong_request_is_not_repeated(cloud: Cloud, ecs: ECSClient, request_of: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="ClusterNotFoundException"):
        run_task(ecs, {**request_of, "cluster": "another"}, sleep=lambda _: None)

    assert cloud.requests[RUN_TASK] == 1


def test_capacity_may_return_and_a_missing_permission_does_not() -> None:
    denied = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "RunTask")

    assert may_pass(Exception("Task failed. Failure reason: RESOURCE:ENI"))
    assert may_pass(RetryableEcsException("Task failed. Failure reason: AGENT"))
    assert not may_pass(denied)
    assert not is_refusal(denied)


def test_artifacts_in_a_folder_are_refused_because_tasks_share_no_disk() -> None:
    require_shared_artifacts("s3://bucket/churn")

    with pytest.raises(SettingsError, match="share no disk"):
        require_shared_artifacts("/var/lib/churn/artifacts")


def test_each_job_states_the_size_of_its_task() -> None:
    sizes = {
        job.name: (job.tags["ecs/cpu"], job.tags["ecs/memory"])
        for job in (data_preparation_job, training_job, prediction_stream_job)
        if job.tags is not None
    }

    assert sizes == {
        "data_preparation_job": ("1024", "2048"),
        "training_job": ("2048", "4096"),
        "prediction_stream_job": ("1024", "2048"),
    }
