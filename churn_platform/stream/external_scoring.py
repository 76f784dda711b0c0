"""Scoring of recorded offset ranges by another engine, which stages its rows in PostgreSQL.

The stream decides what is scored, and with which model, schema and bounds, and it commits the result. The engine, such
as Spark, reads, decodes and scores with the same code, and writes staging rows. It may fail at any time: then a new
attempt begins from nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from churn_platform.database import model_versions, spark_staging
from churn_platform.database.connections import connect
from churn_platform.errors import PlatformError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.config import StreamConfig

# An engine repeats its own tasks. An attempt fails if the driver or the cluster dies, and both may be back soon.
ATTEMPTS: Final = 3


class ScoringFailedError(PlatformError):
    """The engine has not scored all of the ranges. Nothing was written to the tables of predictions."""

    transient = True


@dataclass(frozen=True, kw_only=True)
class ScoringOrder:
    """What an engine is to score.

    Attributes:
        attempt: id under which the rows are staged.
        source: batch and topic of the rows.
        ranges: offsets [start, end), by Kafka partition.
        schema: that the events are decoded with.
        accepts_from: earliest event time that is valid.
        accepts_until: latest event time that is valid.
        model_version: version of the model that scores.
        model_uri: folder or s3:// prefix of its bundle.
    """

    attempt: UUID
    source: Source
    ranges: Mapping[int, tuple[int, int]]
    schema: CustomerSchema
    accepts_from: datetime
    accepts_until: datetime
    model_version: int
    model_uri: str


@dataclass(frozen=True)
class ScoringEngine:
    """Another engine.

    Attributes:
        score: scores an order. It returns when all rows are staged, or when it cannot go on: the attempt tells which.
        backlog_events: most waiting offsets that it scores in one run.
    """

    score: Callable[[ScoringOrder], None]
    backlog_events: int


def stage(
    config: StreamConfig,
    engine: ScoringEngine,
    log: Callable[[str], None],
    *,
    source: Source,
    ranges: Mapping[int, tuple[int, int]],
    schema: CustomerSchema,
    accepts_from: datetime,
    accepts_until: datetime,
    model_version: int,
) -> UUID:
    """Let an engine score offset ranges, and return the attempt whose rows are complete.

    Raises:
        ScoringFailedError: no attempt has finished.
    """
    with connect(config.dsn, autocommit=True, application_name=f"churn staging {source.batch}") as connection:
        uri = model_versions.get(connection, model_version).uri
    for number in range(1, ATTEMPTS + 1):
        attempt = uuid4()
        with connect(config.dsn, autocommit=True, application_name=f"churn staging {source.batch}") as connection:
            spark_staging.begin(connection, attempt, batch=source.batch, model_version=model_version)
        engine.score(
            ScoringOrder(
                attempt=attempt,
                source=source,
                ranges={partition: bounds for partition, bounds in ranges.items() if bounds[0] < bounds[1]},
                schema=schema,
                accepts_from=accepts_from,
                accepts_until=accepts_until,
                model_version=model_version,
                model_uri=uri,
            )
        )
        with connect(config.dsn, autocommit=True, application_name=f"churn staging {source.batch}") as connection:
            found = spark_staging.find(connection, attempt)
        if found is not None and found.finished is not None:
            log(f"Attempt {number} has scored {found.events:,} events of batch {source.batch}.")
            return attempt
        log(f"Attempt {number} of {ATTEMPTS} to score batch {source.batch} has failed: the engine's log has the cause.")
    raise ScoringFailedError(
        f"Batch {source.batch} was not scored in {ATTEMPTS} attempts. Nothing was changed.",
        remedy="The run's stdout and stderr have the engine's log. Correct the cause, and start the run again.",
    )


def discard(config: StreamConfig, attempt: UUID) -> None:
    """Delete the staged rows of an attempt, which the tables have now."""
    with connect(config.dsn, autocommit=True, application_name="churn staging") as connection:
        spark_staging.discard(connection, attempt)
