"""Engines of Spark for tests, and events of every kind."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from churn_platform.settings import settings
from churn_platform.spark.engine import spark_engine
from churn_platform.spark.submit import SparkConfig
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.external_scoring import ScoringEngine
from churn_platform_tests.stream.streams import event

KNOWN_ID = "0192a000-0000-7000-8000-00000000000a"


def start(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run Spark's driver, and print its log only if it fails."""
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-4_000:], done.stderr[-8_000:])


def spark(config: StreamConfig) -> ScoringEngine:
    """Return the engine that the settings describe."""
    return spark_engine(config, SparkConfig.from_settings(settings()), start)


def every_kind(count: int) -> list[Mapping[str, object] | bytes | None]:
    """Return events: mostly valid ones, and some of each other kind.

    The last ones are: the same event twice, two with one id and other contents, no JSON, no value, a wrong value, one
    without a time, one without an id, one whose id is not a UUID.
    """
    twice = event(1)
    untimed = event(5)
    del untimed["event_timestamp"]
    unnamed = event(6)
    del unnamed["event_id"]
    return [
        *(event(number) for number in range(count)),
        twice,
        twice,
        event(2, event_id=KNOWN_ID),
        event(3, event_id=KNOWN_ID),
        b"no JSON",
        None,
        event(4, Age=-3),
        untimed,
        unnamed,
        event(7, event_id="order 7"),
    ]
