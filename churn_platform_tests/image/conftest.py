"""Fixture: the services of docker-compose.yaml, started in the order of their dependencies."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform_tests.image import buildah
from churn_platform_tests.image.compose import SECRETS, services
from churn_platform_tests.image.running import Composed

# Short batches and immediate metrics, so that what usually takes a minute takes seconds here.
SETTINGS = {"BATCH_SECONDS": "4", "METRICS_SECONDS": "0", "PRODUCE_SECONDS": "5"}


@pytest.fixture(scope="session")
def composed() -> Iterator[Composed]:
    """All services except the producer and Kafka UI, whose image needs a registry."""
    folder = Path(tempfile.mkdtemp(prefix="churn-image-"))
    folder.chmod(0o711)
    customers = folder / "customers.csv"
    write_customers(generate_customers(1_500, seed=5), customers)
    env = {**{name: secrets.token_hex(16) for name in SECRETS}, **SETTINGS, "CHURN_RAW_CSV": str(customers)}
    with buildah.container() as container, Composed(services(env), container=container, folder=folder) as composed:
        composed.start("postgres")
        composed.start("kafka")
        prepared = composed.run("prepare")
        assert prepared.returncode == 0, prepared.stdout + prepared.stderr
        for name in ("mlflow", "code", "webserver", "daemon", "worker", "dashboard", "api"):
            composed.start(name)
        yield composed
    shutil.rmtree(folder)
