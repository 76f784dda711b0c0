"""Fixtures: the whole platform with Dagster's daemon and a small customers file."""

import secrets
from collections.abc import Iterator

import pytest

from churn_platform.local.environment import ARTIFACTS_VARIABLE
from churn_platform_tests.end_to_end.running import Running, running_platform
from churn_platform_tests.files.s3_server import BUCKET, Server, settings_of

# The token of a webhook where nobody listens, so that the worker tries and fails to send to it.
WEBHOOK_TOKEN = secrets.token_urlsafe(24)
# Short batches and immediate metrics, so that what usually takes a minute takes seconds here.
SETTINGS = {
    "BATCH_SECONDS": "4",
    "METRICS_SECONDS": "0",
    "MONITORING_SECONDS": "1",
    "DATA_PREPARATION_CRON": "* * * * *",
    "TRAINING_CRON": "* * * * *",
    "S3_KMS_KEY_ID": "alias/churn",
    "KAFKA_SASL_PASSWORD": f"p@ss/{secrets.token_urlsafe(24)}%+",  # ignored, as the broker does not use SASL
    "OPERATOR_TARGETS": f"pager=http://127.0.0.1:9/{WEBHOOK_TOKEN}",
    "CHAMPION_MAX_DAYS": "0.000001",  # so that there is a message
}


ROOT = f"s3://{BUCKET}/end to end/churn"


@pytest.fixture(scope="session")
def running(embedded_only: dict[str, str], s3: Server) -> Iterator[Running]:
    """A running platform with Dagster's daemon, which stores its files in S3."""
    with running_platform(embedded_only | SETTINGS | settings_of(s3) | {ARTIFACTS_VARIABLE: ROOT}) as running:
        yield running


@pytest.fixture(scope="session")
def trained(running: Running) -> Running:
    """The running platform after it has prepared the data and trained a champion."""
    running.launch("data_preparation_job")
    running.launch("training_job")
    return running
