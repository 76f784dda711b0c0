"""`churn aws clean` deletes a deployment of deploy/ecs, all of it and nothing else."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from mypy_boto3_secretsmanager import SecretsManagerClient
from typer.testing import CliRunner, Result

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.operations.cleanup.aws import FAMILIES, AwsDeployment, Clients
from churn_platform_tests.commands.tree import KEYS
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.ecs.cloud import Cloud
from churn_platform_tests.ecs.deployment import STACK, Servers, create_stack, task_names
from churn_platform_tests.files.s3_server import ANYBODY, connection

SERVERS = Servers(
    database="postgresql://churn:secret@db.example/churn",
    dagster_database="postgresql://churn:secret@db.example/churn",
    kafka="kafka.example:9092",
    mlflow="http://mlflow.example:5000",
)
_ECS = "AmazonEC2ContainerServiceV20141113"
UPDATE_SERVICE, DELETE_SERVICE = f"{_ECS}.UpdateService", f"{_ECS}.DeleteService"
LIST_TASKS, STOP_TASK = f"{_ECS}.ListTasks", f"{_ECS}.StopTask"
# Its names begin with those of the first stack.
OTHER = f"{STACK}-run"
KINDS = {
    "service",
    "task",
    "stack",
    "task definition",
    "cluster",
    "load balancer",
    "target group",
    "log group",
    "secret",
}


@pytest.fixture
def stacks(cloud: Cloud) -> Cloud:
    """AWS with two deployments. A run of each is in progress, and one has an older revision of a task definition."""
    for name in (STACK, OTHER):
        create_stack(cloud, SERVERS, name=name)
        with closing(cloud.ecs_client()) as ecs:
            network: Any = {"subnets": [cloud.subnet()], "securityGroups": [cloud.security_group()]}
            ecs.run_task(
                cluster=name,
                taskDefinition=f"{name}-run",
                launchType="FARGATE",
                networkConfiguration={"awsvpcConfiguration": network},
            )
            container: Any = {"name": "run", "image": "older", "memory": 512}
            older = ecs.register_task_definition(family=f"{name}-run", containerDefinitions=[container])
            ecs.deregister_task_definition(taskDefinition=older["taskDefinition"]["taskDefinitionArn"])
    return cloud


@pytest.fixture
def secrets(cloud: Cloud) -> Iterator[SecretsManagerClient]:
    """A client of Secrets Manager."""
    with closing(boto3.client("secretsmanager", **connection(cloud.url, key=ANYBODY, secret=ANYBODY))) as client:
        yield client


def run(*arguments: str, typed: str | None = None) -> Result:
    """Run the command."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["aws", "clean", *arguments], input=typed)


def listed(stack: str) -> list[dict[str, Any]]:
    """Return what a dry run lists."""
    printed = json.loads(run(stack, "--dry-run", "--json").stdout)
    assert list(printed) == KEYS["aws clean"]
    found: list[dict[str, Any]] = printed["delete"]
    return found


def test_everything_of_a_deployment_is_deleted_and_nothing_of_another(stacks: Cloud) -> None:
    before, others = listed(STACK), listed(OTHER)
    assert {each["place"] for each in before} == KINDS

    result = run(STACK, typed=f"{STACK}\n")

    assert result.exit_code == 0, result.output
    assert "Nothing is left" in result.output
    assert listed(STACK) == []
    assert listed(OTHER) == others
    with closing(stacks.ecs_client()) as ecs:
        assert not ecs.list_task_definitions(familyPrefix=f"{STACK}-code", status="INACTIVE")["taskDefinitionArns"]


@pytest.mark.usefixtures("stacks")
def test_nothing_is_deleted_without_the_word() -> None:
    before = listed(STACK)

    result = run(STACK, typed="yes\n")

    assert result.exit_code != 0
    assert "nothing was deleted" in result.output
    assert listed(STACK) == before


def test_what_a_stack_left_is_deleted_without_it(stacks: Cloud) -> None:
    with closing(boto3.client("cloudformation", **connection(stacks.url, key=ANYBODY, secret=ANYBODY))) as client:
        client.delete_stack(StackName=STACK)
    assert listed(STACK)

    assert run(STACK, "--yes", STACK).exit_code == 0
    assert listed(STACK) == []


def test_what_cannot_be_deleted_is_named_and_the_command_fails(stacks: Cloud) -> None:
    stacks.swallow("secretsmanager.DeleteSecret")

    result = run(STACK, "--yes", STACK)

    assert result.exit_code == ExitCode.CHECK_FAILED
    assert f"{STACK}/database" in result.output


@pytest.mark.usefixtures("cloud")
def test_a_deployment_that_does_not_exist_has_nothing_to_delete() -> None:
    assert "nothing to delete" in run("absent").output


def test_services_are_stopped_before_tasks_and_the_stack_before_task_definitions(stacks: Cloud) -> None:
    reports: list[str] = []
    deployment = AwsDeployment(STACK, Clients.connect(region=None, profile=None), sleep=lambda _: None)

    deployment.delete(reports.append)

    assert stacks.url
    positions = [
        next(number for number, report in enumerate(reports) if report.startswith(start))
        for start in ("Stopping the service", "Stopping the task", "Deleting the stack", "Deleting 9 task")
    ]
    assert positions == sorted(positions)


def delete(sleep: Callable[[float], None]) -> None:
    """Delete the deployment, and call a function at each wait."""
    AwsDeployment(STACK, Clients.connect(region=None, profile=None), sleep=sleep).delete(lambda _: None)


def test_a_service_that_drains_already_is_waited_for_and_not_changed(stacks: Cloud) -> None:
    services = [each for each in stacks.ecs.services.values() if each.cluster_name == STACK]
    services[0].status = "DRAINING"
    before = stacks.requests[UPDATE_SERVICE], stacks.requests[DELETE_SERVICE]

    def drain(_: float) -> None:
        services[0].status = "INACTIVE"

    delete(drain)

    after = stacks.requests[UPDATE_SERVICE], stacks.requests[DELETE_SERVICE]
    assert [now - then for now, then in zip(after, before, strict=True)] == [len(services) - 1] * 2
    assert listed(STACK) == []


def test_the_stack_is_deleted_when_the_last_task_has_stopped(stacks: Cloud) -> None:
    task = next(iter(stacks.ecs.tasks[STACK].values()))
    task.desired_status, task.last_status = "STOPPED", "STOPPING"
    stacks.swallow(STOP_TASK)
    assert [each["detail"] for each in listed(STACK) if each["place"] == "task"] == ["stopping"]
    seen: list[bool] = []

    def stop(_: float) -> None:
        seen.append(any(each["place"] == "stack" for each in listed(STACK)))
        task.last_status = "STOPPED"

    delete(stop)

    assert seen == [True]
    assert listed(STACK) == []


@pytest.mark.usefixtures("stacks")
def test_a_command_that_is_repeated_has_nothing_to_delete() -> None:
    assert run(STACK, "--yes", STACK).exit_code == 0

    again = run(STACK, "--yes", STACK)

    assert (again.exit_code, "nothing to delete" in again.output) == (0, True)


def test_more_than_a_page_of_everything_is_listed_and_deleted(stacks: Cloud) -> None:
    with (
        closing(stacks.ecs_client()) as ecs,
        closing(boto3.client("logs", **connection(stacks.url, key=ANYBODY, secret=ANYBODY))) as logs,
        closing(boto3.client("secretsmanager", **connection(stacks.url, key=ANYBODY, secret=ANYBODY))) as secrets,
    ):
        container: Any = {"name": "run", "image": "older", "memory": 512}
        for _ in range(120):
            ecs.register_task_definition(family=f"{STACK}-run", containerDefinitions=[container])
        network: Any = {"subnets": [stacks.subnet()], "securityGroups": [stacks.security_group()]}
        for _ in range(11):
            ecs.run_task(
                cluster=STACK,
                taskDefinition=f"{STACK}-run",
                count=10,
                launchType="FARGATE",
                networkConfiguration={"awsvpcConfiguration": network},
            )
        for number in range(60):
            logs.create_log_group(logGroupName=f"/{STACK}/more/{number}")
        for number in range(120):
            secrets.create_secret(Name=f"{STACK}/more/{number}", SecretString="value")
    others = listed(OTHER)
    counts = Counter(each["place"] for each in listed(STACK))
    assert (counts["task"], counts["task definition"] > 120, counts["log group"] > 60, counts["secret"] > 120) == (
        111,
        True,
        True,
        True,
    )

    result = run(STACK, "--yes", STACK)

    assert result.exit_code == 0, result.output
    assert listed(STACK) == []
    assert listed(OTHER) == others


def test_throttled_requests_are_repeated(stacks: Cloud) -> None:
    for action in (LIST_TASKS, UPDATE_SERVICE, STOP_TASK):
        stacks.throttle(action, 2)

    result = run(STACK, "--yes", STACK)

    assert result.exit_code == 0, result.output
    assert listed(STACK) == []


def test_a_request_that_aws_refuses_is_named_and_the_next_command_deletes_the_rest(stacks: Cloud) -> None:
    stacks.forbid("secretsmanager.DeleteSecret")

    result = run(STACK, "--yes", STACK)

    assert result.exit_code == ExitCode.FAILED
    assert "AWS refused DeleteSecret: AccessDeniedException" in result.stderr
    assert "run the command again" in result.stderr
    stacks.allow("secretsmanager.DeleteSecret")
    assert {each["place"] for each in listed(STACK)} == {"secret"}
    assert run(STACK, "--yes", STACK).exit_code == 0
    assert listed(STACK) == []


def test_a_list_that_aws_refuses_stops_the_command_before_it_deletes_anything(stacks: Cloud) -> None:
    before = listed(STACK)
    stacks.forbid("secretsmanager.ListSecrets")

    result = run(STACK, "--yes", STACK)

    assert result.exit_code == ExitCode.FAILED
    assert "AWS refused ListSecrets" in result.stderr
    stacks.allow("secretsmanager.ListSecrets")
    assert listed(STACK) == before


@pytest.mark.parametrize(
    ("changes", "problem", "remedy"),
    [
        ({"AWS_DEFAULT_REGION": None}, "You must specify a region", "AWS_DEFAULT_REGION"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "Unable to locate credentials",
            "AWS_ACCESS_KEY_ID",
        ),
        ({"AWS_PROFILE": "absent"}, "absent", "AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, "127.0.0.1:1", "reach AWS"),
    ],
)
def test_what_keeps_the_command_from_asking_aws_is_named(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], problem: str, remedy: str
) -> None:
    assert cloud.url
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    forget_settings()

    result = run(STACK, "--dry-run")

    assert result.exit_code == ExitCode.FAILED, result.output
    assert problem in result.stderr
    assert remedy in result.stderr


def test_every_task_definition_of_the_template_is_known() -> None:
    assert set(FAMILIES) == set(task_names())
