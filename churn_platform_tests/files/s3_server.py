"""An S3 server for tests: moto's, in this process, or versitygw on a folder (`make test-s3`)."""

import json
import os
import subprocess
import sys
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol, TypedDict

import boto3
import httpx
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from mypy_boto3_s3 import S3Client

from churn_platform.local.ports import HOST, Ports
from churn_platform_tests.waiting import wait_until

BUCKET = "churn-tests"
OTHERS_BUCKET = "somebody-elses"
ANYBODY = "anybody"
REGION: Final = "eu-central-1"
# Like real secrets, it contains characters that have to be percent-encoded in a URL.
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYTESTSECRET"  # noqa: S105  of a server that only these tests know


class Connection(TypedDict):
    """How boto3 reaches a server."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str


class Server(Protocol):
    """An S3 server that tests can stop and start. Its objects survive that."""

    key: str
    secret: str
    url: str

    def start(self) -> None:
        """Start and wait until it answers."""

    def stop(self) -> None:
        """Stop. From then on, connections are refused."""


def settings_of(server: Server) -> dict[str, str]:
    """Return the environment variables that select a server and hide the developer's own credentials."""
    return {
        "AWS_ENDPOINT_URL_S3": server.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def connection(url: str, *, key: str, secret: str) -> Connection:
    """Return how boto3 reaches the server at an address."""
    return Connection(endpoint_url=url, region_name=REGION, aws_access_key_id=key, aws_secret_access_key=secret)


def client(server: Server) -> S3Client:
    """Return a separate client for a test."""
    return boto3.client("s3", **connection(server.url, key=server.key, secret=server.secret))


class Moto:
    """moto's server, in this process. Its user may do everything except in OTHERS_BUCKET. Other keys are refused."""

    def __init__(self) -> None:
        first = ThreadedMotoServer(HOST, 0, verbose=False)
        first.start()
        self._port = first.get_host_and_port()[1]
        self.url = f"http://{HOST}:{self._port}"
        self._running = first
        httpx.post(f"{self.url}/moto-api/reset-auth", content="inf").raise_for_status()  # nobody has a key yet
        self._make_bucket()
        self.key, self.secret = self._make_user()
        httpx.post(f"{self.url}/moto-api/reset-auth", content="0").raise_for_status()

    def _make_bucket(self) -> None:
        with closing(boto3.client("s3", **self._anybody)) as s3:
            for name in (BUCKET, OTHERS_BUCKET):
                s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})

    def _make_user(self) -> tuple[str, str]:
        theirs = [f"arn:aws:s3:::{OTHERS_BUCKET}", f"arn:aws:s3:::{OTHERS_BUCKET}/*"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
                {"Effect": "Deny", "Action": "s3:*", "Resource": theirs},
            ],
        }
        with closing(boto3.client("iam", **self._anybody)) as iam:
            iam.create_user(UserName="churn")
            iam.put_user_policy(UserName="churn", PolicyName="churn", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName="churn")["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    @property
    def _anybody(self) -> Connection:
        return connection(self.url, key=ANYBODY, secret=ANYBODY)

    def start(self) -> None:
        """Start on the same port."""
        self._running = ThreadedMotoServer(HOST, self._port, verbose=False)
        self._running.start()

    def stop(self) -> None:
        """Stop. The objects stay in memory."""
        self._running.stop()


class Versitygw:
    """versitygw on a folder. Each bucket is a folder in it."""

    key = "churn-tests-key"
    secret = SECRET

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in (BUCKET, OTHERS_BUCKET):
            (folder / name).mkdir(parents=True)
        ports = Ports(folder / "ports.json", {"s3": 0})
        ports.choose()
        self._port = ports["s3"]
        ports.release()
        self.url = f"http://{HOST}:{self._port}"
        self.start()

    def start(self) -> None:
        """Start on the same port."""
        command = [str(Path(sys.executable).with_name("versitygw")), "--port", f"{HOST}:{self._port}"]
        self._process = subprocess.Popen(
            [*command, "--region", REGION, "--quiet", "posix", str(self._folder)],
            env={**os.environ, "ROOT_ACCESS_KEY": self.key, "ROOT_SECRET_KEY": self.secret},
        )
        wait_until(self._answers, what="versitygw to answer")

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, trust_env=False).status_code == HTTPStatus.FORBIDDEN
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Stop. The objects stay in the folder."""
        self._process.terminate()
        self._process.wait()
