"""The run launcher for Amazon ECS: each run is a task. Deployments on ECS name it in their dagster.yaml.

It differs from the launcher of dagster-aws in three ways. A request that ECS throttles, or has no capacity for, is
repeated for minutes. A repeated request never starts a second task. And the network of the tasks is configuration, so
that a launch does not have to look up the launcher's own task.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import tenacity
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from dagster._core.launcher.base import LaunchRunContext
from dagster._serdes import ConfigurableClassData
from dagster_aws.ecs import EcsRunLauncher
from dagster_aws.ecs.utils import RetryableEcsException, run_ecs_task

from churn_platform.files.artifacts import in_s3
from churn_platform.settings import SettingsError, settings

if TYPE_CHECKING:
    from typing import Self

    from mypy_boto3_ecs import ECSClient

# The bucket of RunTask on Fargate refills at 20 tasks a second and that of new accounts at fewer. A lack of capacity or
# of network interfaces lasts minutes. Until ECS has accepted the run, it has no task, so this time has to be shorter
# than the shortest time after which such a run counts as dead (RUN_START_TIMEOUT_SECONDS, at least 600).
GIVE_UP_SECONDS: Final = 300.0
LONGEST_PAUSE_SECONDS: Final = 30.0
# boto3's own retries of all other calls, with exponential backoff: DescribeTasks is throttled together with RunTask.
API_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 8}, connect_timeout=10, read_timeout=30)

_THROTTLED: Final = frozenset({"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"})
_UNAVAILABLE: Final = frozenset({"ServerException", "ServiceUnavailable", "InternalFailure", "RequestTimeout"})
# Reasons for which ECS refuses a task now and may accept it later, in an error of dagster-aws that has no class.
_NO_CAPACITY: Final = ("RESOURCE:", "Capacity is unavailable")

_python_log = logging.getLogger(__name__)


class RetryingEcsRunLauncher(EcsRunLauncher[dg.DagsterInstance]):
    """Launches each run as a task of an existing task definition, and repeats requests that ECS throttles."""

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        *,
        cluster: str,
        subnets: str,
        security_groups: str,
        assign_public_ip: bool = False,
        capacity_provider: str = "FARGATE",
        **configuration: Any,
    ) -> None:
        """Create the launcher.

        Args:
            inst_data: how the instance refers to it.
            cluster: name or ARN of the cluster.
            subnets: ids of the subnets of the tasks, separated by commas.
            security_groups: ids of their security groups, separated by commas.
            assign_public_ip: whether a task gets a public address; needed without a NAT gateway or endpoints.
            capacity_provider: FARGATE, FARGATE_SPOT, or the name of a capacity provider of the cluster.
            configuration: of EcsRunLauncher.
        """
        super().__init__(
            inst_data,
            **{
                "use_current_ecs_task_config": False,
                **configuration,
                "run_task_kwargs": {
                    **configuration.get("run_task_kwargs", {}),
                    "cluster": cluster,
                    "capacityProviderStrategy": [{"capacityProvider": capacity_provider}],
                    "networkConfiguration": {
                        "awsvpcConfiguration": {
                            "subnets": _names(subnets),
                            "securityGroups": _names(security_groups),
                            "assignPublicIp": "ENABLED" if assign_public_ip else "DISABLED",
                        }
                    },
                },
            },
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return the fields of the configuration in dagster.yaml."""
        return {
            **super().config_type(),  # type: ignore[no-untyped-call]  # of the library
            "cluster": dg.Field(dg.StringSource),
            "subnets": dg.Field(dg.StringSource),
            "security_groups": dg.Field(dg.StringSource),
            "assign_public_ip": dg.Field(dg.BoolSource, is_required=False, default_value=False),
            "capacity_provider": dg.Field(dg.StringSource, is_required=False, default_value="FARGATE"),
            "use_current_ecs_task_config": dg.Field(bool, is_required=False, default_value=False),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return the launcher that dagster.yaml configures."""
        return cls(inst_data, **config_value)

    def get_boto_client_config(self) -> Config:
        """Return the configuration of the clients of ECS, Secrets Manager and CloudWatch Logs."""
        return API_CONFIG

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run.

        Raises:
            SettingsError: the artifacts are in a folder, which no other task would see.
        """
        require_shared_artifacts(settings().platform.artifacts_root)
        super().launch_run(context)

    def _run_task(self, **run_task_kwargs: Any) -> Mapping[str, Any]:
        """Start the task of a run."""
        return run_task(self.ecs, run_task_kwargs)


def require_shared_artifacts(root: str) -> None:
    """Make sure that what one task writes can be read by another.

    Args:
        root: of the artifacts.

    Raises:
        SettingsError: it is a local folder.
    """
    if not in_s3(root):
        raise SettingsError(
            f"CHURN_ARTIFACTS is the folder {root}, and runs on ECS share no disk: a training would not find its data.",
            remedy="Set CHURN_ARTIFACTS to s3://bucket/prefix in every service and in the task definition of runs.",
        )


def run_task(
    ecs: ECSClient,
    request: Mapping[str, Any],
    *,
    give_up_seconds: float = GIVE_UP_SECONDS,
    sleep: Callable[[float], None] = tenacity.nap.sleep,
) -> Mapping[str, Any]:
    """Start a task. A request that ECS throttles, or has no capacity for, is repeated until it has been accepted.

    A request without an answer may have started the task. So it is repeated with the same client token, for which ECS
    starts one task only. A refused one is repeated with another, because ECS may repeat its answer to a known token.

    Args:
        ecs: the client.
        request: the arguments of RunTask.
        give_up_seconds: how long to repeat it.
        sleep: waits between two requests.

    Returns:
        The task.

    Raises:
        ClientError, RetryableEcsException: ECS has throttled or refused it until then, or it is wrong.
    """
    token = str(uuid.uuid4())

    def start() -> Mapping[str, Any]:
        nonlocal token
        try:
            return run_ecs_task(ecs, {**request, "clientToken": token})
        except Exception as error:
            if is_refusal(error):
                token = str(uuid.uuid4())
            raise

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_random_exponential(multiplier=1, max=LONGEST_PAUSE_SECONDS),
        stop=tenacity.stop_after_delay(give_up_seconds),
        before_sleep=tenacity.before_sleep_log(_python_log, logging.WARNING),
        sleep=sleep,
        reraise=True,
    )
    return retrying(start)


def is_refusal(error: Exception) -> bool:
    """Return whether ECS has answered that it started no task."""
    return not isinstance(error, ClientError | NoConnectionError | HTTPClientError)


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        return code in _THROTTLED | _UNAVAILABLE
    if isinstance(error, NoConnectionError | HTTPClientError | RetryableEcsException):
        return True
    return isinstance(error, Exception) and any(reason in str(error) for reason in _NO_CAPACITY)


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
