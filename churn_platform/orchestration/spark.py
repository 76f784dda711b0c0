"""Runs with Spark: which engine a run asks for, and Spark's driver as a process that reports through dagster-pipes."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import Field

from churn_platform.errors import PlatformError
from churn_platform.settings import settings

if TYPE_CHECKING:  # a streaming run does not need them
    from churn_platform.stream.config import StreamConfig
    from churn_platform.stream.external_scoring import ScoringEngine

ENGINE_TAG: Final = "churn/engine"
"""Tag of a run or a backfill that chooses the engine, where its run configuration does not."""


class Engine(Enum):
    """What scores the events of a run. Dagster shows the names."""

    python = "python"
    spark = "spark"


class PredictionsConfig(dg.Config):
    """Run configuration of churn_predictions."""

    engine: Engine | None = Field(
        default=None,
        description="What scores the events. spark: Spark (SPARK_MASTER) scores a replay, or the backlog into a batch "
        f"that is not closed. Unset: what the tag {ENGINE_TAG} says, else python.",
    )


class EngineError(PlatformError):
    """A run asks for an engine that there is not."""


def engine_of(
    context: dg.AssetExecutionContext, config: PredictionsConfig, stream: "StreamConfig"
) -> "ScoringEngine | None":
    """Return the engine that a run asks for; None: the run's own process.

    Raises:
        EngineError: the tag names another one.
        SparkMissingError, SparkKafkaError: Spark cannot be started, or cannot log in to Kafka.
    """
    if _requested(context, config) is Engine.python:
        return None
    from churn_platform.spark.engine import spark_engine
    from churn_platform.spark.submit import SparkConfig

    client = dg.PipesSubprocessClient()

    def start(command: Sequence[str], variables: Mapping[str, str]) -> None:
        try:
            client.run(context=context, command=list(command), env=dict(variables))
        except DagsterPipesExecutionError as error:  # whether the attempt has finished is in the database
            context.log.warning(f"Spark's driver has failed; stdout and stderr of this run have its log: {error}")

    return spark_engine(stream, SparkConfig.from_settings(settings()), start)


def _requested(context: dg.AssetExecutionContext, config: PredictionsConfig) -> Engine:
    if config.engine is not None:
        return config.engine
    name = context.run.tags.get(ENGINE_TAG, Engine.python.name)
    try:
        return Engine[name]
    except KeyError:
        raise EngineError(
            f"The tag {ENGINE_TAG} of this run is {name!r}: expected {' or '.join(Engine.__members__)}."
        ) from None
