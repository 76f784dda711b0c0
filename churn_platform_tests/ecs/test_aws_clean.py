"""`churn aws clean` deletes a deployment of deploy/ecs, all of it and nothing else."""

import json
from collections.abc import Iterator
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
from churn_platform_tests.ecs.cloud import Cloud
from churn_platform_tests.ecs.deployment import STACK, Servers, create_stack, task_names
from churn_platform_tests.files.s3_server import ANYBODY, connection

SERVERS = Servers(
    database="postgresql://churn:secret@db.example/churn",
    dagster_database="postgresql://churn:secret@db.example/churn",
    kafka="kafka.example:9092",
    mlflow="http://mlflow.example:5000",
)
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


def test_every_task_definition_of_the_template_is_known() -> None:
    assert set(FAMILIES) == set(task_names())
