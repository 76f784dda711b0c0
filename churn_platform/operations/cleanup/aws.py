"""What a deployment on Amazon ECS has made, and its deletion: `churn aws clean`.

A stack alone leaves much behind: tasks of runs, which keep a cluster and its network interfaces, revisions of task
definitions, which stay INACTIVE, secrets, which stay for a month, and log groups, which a late line creates again.

It deletes what belongs to one stack of deploy/ecs/platform.yaml, and nothing that the template takes as a parameter:
the bucket, Kafka's topics and the database stay. `churn clean` deletes what the platform has made there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from churn_platform.operations.cleanup.plan import CleanError, Item, Report

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_elbv2 import ElasticLoadBalancingv2Client
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_secretsmanager import SecretsManagerClient

# The names of task definitions begin with the stack's name, and so may those of another stack. So the list is complete.
FAMILIES: Final = ("api", "code", "daemon", "dashboard", "prepare", "run", "webserver", "worker")
TARGET_GROUPS: Final = ("dashboard", "webserver")
ABSENT: Final = frozenset(
    {
        "ClusterNotFoundException",
        "LoadBalancerNotFound",
        "ResourceNotFoundException",
        "TargetGroupNotFound",
        "ValidationError",  # of CloudFormation: there is no such stack
    }
)
# A stack waits for the network interfaces of its tasks, which takes minutes, and a service drains for up to two.
WAIT_SECONDS: Final = 1800.0
PAUSE_SECONDS: Final = 5.0
AT_ONCE: Final = 10  # task definitions that one request may delete, and services that one may describe
TASKS_AT_ONCE: Final = 100  # that one request may describe
API_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 8})

SERVICES, TASKS, DEFINITIONS, CLUSTER = "service", "task", "task definition", "cluster"
LOGS, BALANCER, TARGETS, SECRETS, STACK = "log group", "load balancer", "target group", "secret", "stack"


@dataclass(frozen=True)
class Clients:
    """The AWS services that a deployment uses."""

    cloudformation: "CloudFormationClient"
    ecs: "ECSClient"
    logs: "CloudWatchLogsClient"
    balancing: "ElasticLoadBalancingv2Client"
    secrets: "SecretsManagerClient"

    @classmethod
    def connect(cls, *, region: str | None, profile: str | None) -> "Clients":
        """Return clients with the credentials that AWS's libraries find.

        Args:
            region: None: the one that AWS's libraries find.
            profile: in ~/.aws; None: the default.

        Raises:
            CleanError: there is no such profile, or no region.
        """
        with _readable_errors():
            session = boto3.Session(profile_name=profile, region_name=region)
            return cls(
                cloudformation=session.client("cloudformation", config=API_CONFIG),
                ecs=session.client("ecs", config=API_CONFIG),
                logs=session.client("logs", config=API_CONFIG),
                balancing=session.client("elbv2", config=API_CONFIG),
                secrets=session.client("secretsmanager", config=API_CONFIG),
            )


class AwsDeployment:
    """The stack of a deployment, and what its services made beside it."""

    def __init__(
        self,
        stack: str,
        clients: Clients,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create it.

        Args:
            stack: name of the stack, which is also the name of the cluster.
            clients: the services of AWS.
            sleep: waits between two looks at something that is being deleted.
            monotonic: the clock that limits the waiting.
        """
        self.stack = stack
        self._aws = clients
        self._sleep = sleep
        self._monotonic = monotonic

    def collect(self, report: Report) -> list[Item]:
        """Return what there is, in the order in which it is deleted. Nothing is changed.

        Raises:
            CleanError: AWS refuses a request, or does not answer.
        """
        found: list[Item] = []
        for kind, names in (
            (SERVICES, self._services),
            (TASKS, self._tasks),
            (STACK, self._stacks),
            (DEFINITIONS, self._definitions),
            (CLUSTER, self._clusters),
            (BALANCER, self._balancers),
            (TARGETS, self._target_groups),
            (LOGS, self._log_groups),
            (SECRETS, self._secrets),
        ):
            report(f"Listing each {kind}")
            with _readable_errors():
                found += [Item(kind, name, detail) for name, detail in names()]
        return found

    def delete(self, report: Report) -> None:
        """Delete everything that `collect` returns. It may be repeated.

        Services and tasks are first, because a daemon that still runs launches runs. The stack is next: it would fail
        at a task definition that was deleted without it. Then follows what a stack leaves.

        Raises:
            CleanError: something did not end, the stack cannot be deleted, or AWS refuses a request or does not
                answer. The rest may be deleted.
        """
        with _readable_errors():
            self._delete_services(report)
            self._stop_tasks(report)
            self._delete_stack(report)
            self._delete_definitions(report)
            self._delete_rest(report)

    # Services and tasks

    def _services(self) -> Iterator[tuple[str, str]]:
        arns = _listed(self._pages("ecs", "list_services", "serviceArns", cluster=self.stack))
        for start in range(0, len(arns), AT_ONCE):
            answer = self._aws.ecs.describe_services(cluster=self.stack, services=arns[start : start + AT_ONCE])
            for each in answer["services"]:
                if each["status"] != "INACTIVE":  # deleted; ECS removes it by itself
                    yield each["serviceArn"], f"{each['status'].lower()}, {each['runningCount']} tasks"

    def _tasks(self) -> Iterator[tuple[str, str]]:
        """Yield the tasks that have not stopped. One that is to stop may take two minutes, and keeps its cluster."""
        arns = [
            arn
            for status in ("RUNNING", "STOPPED")
            for arn in _listed(self._pages("ecs", "list_tasks", "taskArns", cluster=self.stack, desiredStatus=status))
            if f":task/{self.stack}/" in arn  # never stop a task of another cluster, whatever was listed
        ]
        for start in range(0, len(arns), TASKS_AT_ONCE):
            answer = self._aws.ecs.describe_tasks(cluster=self.stack, tasks=arns[start : start + TASKS_AT_ONCE])
            for each in answer["tasks"]:
                if each["lastStatus"] != "STOPPED":  # ECS removes it by itself
                    yield each["taskArn"], each["lastStatus"].lower()

    def _delete_services(self, report: Report) -> None:
        # ECS refuses both requests for a service that drains already, because an earlier command has deleted it.
        arns = [arn for arn, detail in self._services() if detail.startswith("active")]
        for arn in arns:
            report(f"Stopping the service {arn}")
            self._aws.ecs.update_service(cluster=self.stack, service=arn, desiredCount=0)
        for arn in arns:
            self._aws.ecs.delete_service(cluster=self.stack, service=arn, force=True)
        self._wait(report, "services to drain", lambda: [arn for arn, _ in self._services()])

    def _stop_tasks(self, report: Report) -> None:
        for arn, _ in list(self._tasks()):
            report(f"Stopping the task {arn}")
            _unless_absent(
                lambda task: self._aws.ecs.stop_task(cluster=self.stack, task=task, reason="churn aws clean"), arn
            )
        self._wait(report, "tasks to stop", lambda: [arn for arn, _ in self._tasks()])

    # The stack

    def _stacks(self) -> Iterator[tuple[str, str]]:
        for each in _listed(self._pages("cloudformation", "describe_stacks", "Stacks", StackName=self.stack)):
            if each["StackStatus"] != "DELETE_COMPLETE":
                yield each["StackName"], each["StackStatus"]

    def _delete_stack(self, report: Report) -> None:
        if not list(self._stacks()):
            return
        report(f"Deleting the stack {self.stack}")
        self._aws.cloudformation.delete_stack(StackName=self.stack)
        self._wait(report, "the stack to be deleted", self._stack_in_progress)
        left = dict(self._stacks())
        if left:
            raise CleanError(
                f"The stack {self.stack} is {left[self.stack]}.",
                remedy=f"'aws cloudformation describe-stack-events --stack-name {self.stack}' shows the reason. Remove "
                f"it and run the command again.",
            )

    def _stack_in_progress(self) -> list[str]:
        return [name for name, status in self._stacks() if status.endswith("_IN_PROGRESS")]

    # Task definitions

    def _definitions(self) -> Iterator[tuple[str, str]]:
        for name in FAMILIES:
            for status in ("ACTIVE", "INACTIVE"):
                pages = self._pages(
                    "ecs",
                    "list_task_definitions",
                    "taskDefinitionArns",
                    familyPrefix=f"{self.stack}-{name}",
                    status=status,
                )
                for arn in _listed(pages):
                    yield arn, status.lower()

    def _delete_definitions(self, report: Report) -> None:
        found = list(self._definitions())
        for arn, status in found:
            if status == "active":
                report(f"Deregistering the task definition {arn}")
                self._aws.ecs.deregister_task_definition(taskDefinition=arn)
        for start in range(0, len(found), AT_ONCE):
            arns = [arn for arn, _ in found[start : start + AT_ONCE]]
            report(f"Deleting {len(arns)} task definitions")
            answer = self._aws.ecs.delete_task_definitions(taskDefinitions=arns)
            if refused := answer.get("failures"):
                reasons = ", ".join(f"{each.get('arn')}: {each.get('reason')}" for each in refused)
                raise CleanError(f"ECS did not delete task definitions: {reasons}.", remedy="Run the command again.")

    # What a stack may leave

    def _delete_rest(self, report: Report) -> None:
        for kind, names, delete in (
            (CLUSTER, self._clusters, lambda name: self._aws.ecs.delete_cluster(cluster=name)),
            (BALANCER, self._balancers, lambda arn: self._aws.balancing.delete_load_balancer(LoadBalancerArn=arn)),
            (TARGETS, self._target_groups, lambda arn: self._aws.balancing.delete_target_group(TargetGroupArn=arn)),
            (LOGS, self._log_groups, lambda name: self._aws.logs.delete_log_group(logGroupName=name)),
            (
                SECRETS,
                self._secrets,
                lambda arn: self._aws.secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True),
            ),
        ):
            for name, _ in list(names()):
                report(f"Deleting the {kind} {name}")
                _unless_absent(delete, name)

    def _clusters(self) -> Iterator[tuple[str, str]]:
        for each in self._aws.ecs.describe_clusters(clusters=[self.stack])["clusters"]:
            if each["status"] != "INACTIVE":  # ECS removes an inactive cluster by itself
                yield each["clusterArn"], each["status"].lower()

    def _balancers(self) -> Iterator[tuple[str, str]]:
        for each in _listed(self._pages("balancing", "describe_load_balancers", "LoadBalancers", Names=[self.stack])):
            yield each["LoadBalancerArn"], ""

    def _target_groups(self) -> Iterator[tuple[str, str]]:
        for name in TARGET_GROUPS:
            pages = self._pages("balancing", "describe_target_groups", "TargetGroups", Names=[f"{self.stack}-{name}"])
            for each in _listed(pages):
                yield each["TargetGroupArn"], ""

    def _log_groups(self) -> Iterator[tuple[str, str]]:
        for each in _listed(
            self._pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=f"/{self.stack}/")
        ):
            yield each["logGroupName"], f"{each.get('storedBytes', 0):,} bytes"

    def _secrets(self) -> Iterator[tuple[str, str]]:
        names = [{"Key": "name", "Values": [f"{self.stack}/"]}]
        for each in _listed(self._pages("secrets", "list_secrets", "SecretList", Filters=names)):
            yield each["ARN"], each["Name"]

    # Requests

    def _pages(self, service: str, operation: str, key: str, **arguments: object) -> Iterator[Any]:
        """Yield each entry of an answer of several pages."""
        client = cast("ECSClient", getattr(self._aws, service))
        paginator = cast("Any", client).get_paginator(operation)
        for page in paginator.paginate(**arguments):
            yield from page[key]

    def _wait(self, report: Report, what: str, left: Callable[[], list[str]]) -> None:
        """Wait until nothing is left.

        Raises:
            CleanError: it takes too long.
        """
        end = self._monotonic() + WAIT_SECONDS
        while names := left():
            if self._monotonic() > end:
                raise CleanError(
                    f"Waited {WAIT_SECONDS:.0f} s for {what}; left: {', '.join(names)}.",
                    remedy="Run the command again.",
                )
            report(f"Waiting for {what}: {len(names)} left")
            self._sleep(PAUSE_SECONDS)


def _listed(entries: Iterator[Any]) -> list[Any]:
    """Return all entries; none if what they belong to does not exist."""
    try:
        return list(entries)
    except ClientError as error:
        if _code(error) not in ABSENT:
            raise
        return []


def _unless_absent(delete: Callable[[str], object], name: str) -> None:
    """Delete something that may have been deleted meanwhile."""
    try:
        delete(name)
    except ClientError as error:
        if _code(error) not in ABSENT:
            raise


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Raise errors of AWS's library as CleanError, which names the request."""
    try:
        yield
    except ClientError as error:
        text = error.response.get("Error", {}).get("Message", "")
        raise CleanError(
            f"AWS refused {error.operation_name}: {_code(error)}, {text}",
            remedy="Give the login of AWS's libraries the right, or wait if it asks too often. What was deleted stays "
            "deleted: run the command again.",
        ) from error
    except BotoCoreError as error:
        raise CleanError(f"AWS was not asked, or did not answer: {error}", remedy=_remedy(error)) from error


def _remedy(error: BotoCoreError) -> str:
    if isinstance(error, exceptions.NoRegionError):
        return "Set AWS_DEFAULT_REGION to the region of the stack."
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return "Let this machine reach AWS, and run the command again."
    return (
        "Log in as AWS's libraries expect it: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the "
        "role of the machine."
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
