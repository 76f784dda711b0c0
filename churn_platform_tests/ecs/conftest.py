"""Fixtures: AWS, and deployments on it whose tasks start as late as a test says."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from psycopg.conninfo import conninfo_to_dict

from churn_platform.environments import created_topics
from churn_platform.local.postgres import in_schema
from churn_platform.local.stack import Stack
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.settings import parse_settings
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.conftest import copy_database, forget_settings
from churn_platform_tests.ecs.cloud import Cloud
from churn_platform_tests.ecs.deployment import BUCKET, Deployment, Servers, deployed
from churn_platform_tests.files.s3_server import ANYBODY, REGION, connection
from churn_platform_tests.stream.streams import admin_client

CUSTOMERS = 1_500
# Short batches and immediate metrics, so that what usually takes minutes takes seconds here.
SETTINGS = {"METRICS_SECONDS": "0", "TUNING_TRIALS": "2"}

Deploy = Callable[..., Deployment]
_number = itertools.count(1)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS, empty. The AWS libraries of this process use it, too."""
    with Cloud() as cloud, pytest.MonkeyPatch.context() as environment:
        for name, value in cloud.environment.items():
            environment.setenv(name, value)
        forget_settings()
        yield cloud
    forget_settings()


@pytest.fixture
def deploy(cloud: Cloud, stack: Stack, template_database: str) -> Iterator[Deploy]:
    """Return a function that deploys the platform: its stack, services and topics, without a model."""
    with ExitStack() as ended:

        def new(*, start_seconds: float = 0.0, **settings: str) -> Deployment:
            return ended.enter_context(
                _deployment(cloud, stack, template_database, start_seconds=start_seconds, settings=settings)
            )

        yield new


@contextmanager
def _deployment(
    cloud: Cloud, stack: Stack, template: str, *, start_seconds: float, settings: dict[str, str]
) -> Iterator[Deployment]:
    folder = Path(tempfile.mkdtemp(prefix="churn-ecs-"))
    dsn = copy_database(stack, template)
    name = str(conninfo_to_dict(dsn)["dbname"])
    url = urlsplit(stack.addresses["postgres"])._replace(path=f"/{name}").geturl()
    servers = Servers(
        database=url,
        dagster_database=in_schema(url, "dagster"),
        kafka=stack.addresses["kafka"],
        mlflow=stack.addresses["mlflow"],
    )
    number = next(_number)
    chosen = {
        **SETTINGS,
        "EVENTS_TOPIC": f"ecs-events-{number}",
        "PREDICTIONS_TOPIC": f"ecs-predictions-{number}",
        "OUTCOMES_TOPIC": f"ecs-outcomes-{number}",
        "STREAM_GROUP": f"ecs-{number}",
        **settings,
    }
    variables = {"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": servers.kafka, **chosen}
    config = StreamConfig.from_settings(parse_settings({"the test": variables}))
    created_topics.create_missing(admin_client(config.kafka.client), config)
    customers = _upload_customers(cloud, folder)
    with deployed(
        cloud,
        servers,
        folder,
        config=config,
        settings=chosen,
        customers=customers,
        start_seconds=start_seconds,
    ) as deployment:
        yield deployment
    shutil.rmtree(folder)


def _upload_customers(cloud: Cloud, folder: Path) -> str:
    """Upload a small customers file and return its address."""
    file = folder / "customers.csv"
    write_customers(generate_customers(CUSTOMERS, seed=5), file)
    with closing(boto3.client("s3", **connection(cloud.url, key=ANYBODY, secret=ANYBODY))) as s3:
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):  # of an earlier test
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.upload_file(str(file), BUCKET, "customers.csv")
    return f"s3://{BUCKET}/customers.csv"
