"""Fixtures of the tests of challengers."""

from collections.abc import Iterator
from typing import Literal, LiteralString

import pytest

from churn_platform.challengers import trials
from churn_platform.database import model_versions
from churn_platform.database.challengers import Challenger, Kind
from churn_platform.model_store import save_bundle
from churn_platform.modeling.training import Hyperparameters
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.worker.shadow import ShadowDuty
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import Stream

CHALLENGER = 2
THRESHOLD = 0.3


@pytest.fixture(scope="session")
def challenger_bundle() -> ModelBundle:
    """A bundle with other scores than the champion's."""
    return small_bundle(Hyperparameters(trees=7, learning_rate=0.3))


@pytest.fixture(scope="session")
def challenger_uri(challenger_bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of that bundle."""
    folder = str(tmp_path_factory.mktemp("challenger"))
    save_bundle(challenger_bundle, folder)
    return folder


@pytest.fixture
def tried(stream: Stream, challenger_uri: str) -> Stream:
    """A stream with a champion, and version 2, which can be tried."""
    model_versions.register(stream.connection, version=CHALLENGER, uri=challenger_uri, run_id="another", metrics={})
    return stream


@pytest.fixture
def duty(stream: Stream) -> Iterator[ShadowDuty]:
    """The duty of a worker, with its process."""
    duty = ShadowDuty(stream.config.dsn, high_risk_threshold=THRESHOLD)
    yield duty
    duty.stop()


def start(stream: Stream, kind: Kind, schema: CustomerSchema, *, share: float = 1.0) -> Challenger:
    """Start to try version 2."""
    return trials.start(stream.connection, kind, model_version=CHALLENGER, share=share, schema=schema)


def by_event(stream: Stream, column: Literal["model_version", "risk_score"]) -> dict[str, float]:
    """Return a column of churn_predictions by event id."""
    queries: dict[str, LiteralString] = {
        "model_version": "select event_id::text, model_version from churn_predictions",
        "risk_score": "select event_id::text, risk_score::float8 from churn_predictions",
    }
    return dict(stream.connection.execute(queries[column]).fetchall())


def follow(duty: ShadowDuty, stream: Stream) -> None:
    """Let a duty run until it has followed everything."""
    while duty.run(stream.connection):
        pass
