"""AWS for tests: moto's server in this process. A test decides which requests are throttled."""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

import boto3
import httpx
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.base_backend import BackendDict
from moto.ec2 import ec2_backends
from moto.ecs import ecs_backends
from moto.ecs.models import EC2ContainerServiceBackend
from moto.moto_api import state_manager
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from churn_platform.local.ports import HOST
from churn_platform_tests.files.s3_server import ANYBODY, REGION, connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from mypy_boto3_ecs import ECSClient

RUN_TASK: Final = "AmazonEC2ContainerServiceV20141113.RunTask"
DESCRIBE_TASKS: Final = "AmazonEC2ContainerServiceV20141113.DescribeTasks"
NEVER: Final = 1_000_000_000  # requests after which moto changes the status of a task by itself


class Cloud:
    """moto's server in a thread, without checks of permissions. As a context manager it starts and stops."""

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._throttled: Counter[str] = Counter()
        self._unanswered: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    def __enter__(self) -> Self:
        # Tasks keep the status that the runner sets. By default each request about a task moves it on to STOPPED.
        state_manager.set_transition("ecs::task", {"progression": "manual", "times": NEVER})
        self._server = make_server(HOST, 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        httpx.post(f"{self.url}/moto-api/reset-auth", content="inf").raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        state_manager.unset_transition("ecs::task")

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://{HOST}:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which AWS's libraries use this server and none of the developer's credentials."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ANYBODY,
            "AWS_SECRET_ACCESS_KEY": ANYBODY,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def ecs(self) -> EC2ContainerServiceBackend:
        """What moto stores about ECS."""
        return ecs_backends[DEFAULT_ACCOUNT_ID][REGION]

    def ecs_client(self) -> "ECSClient":
        """Return a client of ECS."""
        return boto3.client("ecs", **connection(self.url, key=ANYBODY, secret=ANYBODY))

    def subnet(self) -> str:
        """Return the id of a subnet."""
        return str(next(iter(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].describe_subnets())).id)

    def security_group(self) -> str:
        """Return the id of a security group."""
        return str(next(iter(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].describe_security_groups())).id)

    def throttle(self, action: str, times: int) -> None:
        """Refuse the next requests for an action with ThrottlingException."""
        self._throttled[action] = times

    def lose_answers(self, action: str, times: int) -> None:
        """Execute the next requests for an action, but answer with an internal error."""
        self._unanswered[action] = times

    def _serve(self, environment: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        action = str(environment.get("HTTP_X_AMZ_TARGET", ""))
        self.requests[action] += 1
        if self._throttled[action] > 0:
            self._throttled[action] -= 1
            return _error("ThrottlingException", "Rate exceeded", 400)(environment, start_response)
        if self._unanswered[action] > 0:
            self._unanswered[action] -= 1
            Response.from_app(self._application, environment)
            return _error("ServerException", "The connection was lost", 500)(environment, start_response)
        answer: Iterable[bytes] = self._application(environment, start_response)
        return answer


def _error(code: str, message: str, status: int) -> Response:
    body = json.dumps({"__type": code, "message": message})
    return Response(body, status, content_type="application/x-amz-json-1.1")
