"""The scoring engine of Spark: a job file and a command for each order. How the command is started is the caller's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from churn_platform.spark.job_file import Job, job_file
from churn_platform.spark.kafka_options import java_client
from churn_platform.spark.submit import SCORING, SparkConfig, command, environment
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.external_scoring import ScoringEngine, ScoringOrder

Start = Callable[[Sequence[str], Mapping[str, str]], None]
"""Starts a command with more environment variables, and waits until it has ended, whatever its exit code."""


def spark_engine(stream: StreamConfig, spark: SparkConfig, start: Start) -> ScoringEngine:
    """Return the engine that scores orders with Spark.

    Args:
        stream: has the database and the brokers.
        spark: how Spark is started.
        start: starts the driver.

    Raises:
        SparkMissingError: Spark is not installed where the settings say.
        SparkKafkaError: Spark cannot log in to the brokers.
    """
    spark.require_installed()
    kafka = java_client(stream.kafka.client, read=lambda file: Path(file).read_text())

    def score(order: ScoringOrder) -> None:
        job = Job(order=order, dsn=stream.dsn, kafka=kafka, task_events=spark.task_events)
        with job_file(job.to_json()) as file:
            start(command(spark, SCORING, file, name=f"churn {order.source.batch}"), environment(spark))

    return ScoringEngine(score, spark.backlog_events)
