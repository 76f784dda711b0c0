"""AWS for tests: moto's server in this process. A test decides which requests are throttled."""

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

import boto3
import httpx
from moto.cloudformation import cloudformation_backends
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.ecs import ecs_backends
from moto.ecs.models import EC2ContainerServiceBackend
from moto.elbv2 import elbv2_backends
from moto.logs import logs_backends
from moto.moto_api import state_manager
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.secretsmanager import secretsmanager_backends
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

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
        self._refusals: list[str] = []
        self._swallowed: set[str] = set()
        self._forbidden: set[str] = set()
        self.requests: Counter[str] = Counter()
        self.tokens: list[str] = []

    def __enter__(self) -> Self:
        # Tasks keep the status that the runner sets. By default each request about a task moves it on to STOPPED.
        state_manager.set_transition("ecs::task", {"progression": "manual", "times": NEVER})
        self._server = make_server(HOST, 0, self._serve, threaded=True, request_handler=_SilentHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        httpx.post(f"{self.url}/moto-api/reset-auth", content="inf").raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        httpx.post(f"{self.url}/moto-api/reset-auth", content="0").raise_for_status()
        self._server.shutdown()
        for backends in (cloudformation_backends, ecs_backends, elbv2_backends, logs_backends, secretsmanager_backends):
            backends[DEFAULT_ACCOUNT_ID].reset()  # S3 stays: another server in this process may have objects in it
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
            "AWS_ENDPOINT_URL_S3": self.url,
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

    def vpc(self) -> str:
        """Return the id of the default network."""
        return str(next(iter(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].describe_vpcs())).id)

    def subnets(self) -> list[str]:
        """Return the ids of the subnets of the default network."""
        return [str(each.id) for each in ec2_backends[DEFAULT_ACCOUNT_ID][REGION].describe_subnets()]

    def subnet(self) -> str:
        """Return the id of a subnet."""
        return self.subnets()[0]

    def security_group(self) -> str:
        """Return the id of a security group."""
        return str(next(iter(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].describe_security_groups())).id)

    def certificate(self) -> str:
        """Return the ARN of a new certificate."""
        with closing(boto3.client("acm", **connection(self.url, key=ANYBODY, secret=ANYBODY))) as acm:
            return str(acm.request_certificate(DomainName="churn.example")["CertificateArn"])

    def throttle(self, action: str, times: int) -> None:
        """Refuse the next requests for an action with ThrottlingException."""
        self._throttled[action] = times

    def lose_answers(self, action: str, times: int) -> None:
        """Execute the next requests for an action, but answer with an internal error."""
        self._unanswered[action] = times

    def refuse(self, reason: str, times: int) -> None:
        """Start no task for the next requests, and give this reason."""
        self._refusals = [reason] * times

    def swallow(self, action: str) -> None:
        """Answer each request for an action as if it had been executed, and do nothing."""
        self._swallowed.add(action)

    def forbid(self, action: str) -> None:
        """Refuse each request for an action, as to a login without the right."""
        self._forbidden.add(action)

    def allow(self, action: str) -> None:
        """Execute an action again that was forbidden."""
        self._forbidden.remove(action)

    def _serve(self, environment: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        action = str(environment.get("HTTP_X_AMZ_TARGET", ""))
        self.requests[action] += 1
        if action == RUN_TASK:
            request = Request(environment)
            self.tokens.append(json.loads(request.get_data(cache=True))["clientToken"])
            environment["wsgi.input"] = io.BytesIO(request.get_data())
            if self._refusals:
                failures = [{"reason": self._refusals.pop()}]
                return _answer({"tasks": [], "failures": failures}, 200)(environment, start_response)
        if action in self._swallowed:
            return _answer({}, 200)(environment, start_response)
        if action in self._forbidden:
            return _error("AccessDeniedException", f"not authorized to perform {action}", 400)(
                environment, start_response
            )
        if self._throttled[action] > 0:
            self._throttled[action] -= 1
            return _error("ThrottlingException", "Rate exceeded", 400)(environment, start_response)
        if self._unanswered[action] > 0:
            self._unanswered[action] -= 1
            Response.from_app(self._application, environment)
            return _error("ServerException", "The connection was lost", 500)(environment, start_response)
        answer: Iterable[bytes] = self._application(environment, start_response)
        return answer


class _SilentHandler(MotoRequestHandler):
    """Logs no requests: there are thousands."""

    def log_request(self, *_: object) -> None:
        """Do nothing."""


def _error(code: str, message: str, status: int) -> Response:
    return _answer({"__type": code, "message": message}, status)


def _answer(body: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(body), status, content_type="application/x-amz-json-1.1")
