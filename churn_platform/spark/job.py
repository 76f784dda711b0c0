"""Spark's driver: lets executors score the offset ranges of a job file. `spark-submit` runs this file."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from dagster_pipes import PipesContext, open_dagster_pipes
from pyspark.sql import SparkSession

from churn_platform.database import spark_staging
from churn_platform.database.connections import connect
from churn_platform.model_store import load_bundle
from churn_platform.spark import task
from churn_platform.spark.job_file import Job
from churn_platform.spark.kafka_options import source_options

COUNTS = "predictions long, dead_letters long, erased long"


def run(job: Job, spark: SparkSession) -> int:
    """Stage the rows of all ranges, record that the attempt has finished, and return how many events were read.

    Raises:
        AttemptGoneError: the attempt was given up.
    """
    order = job.order
    with connect(job.dsn, autocommit=True, application_name=f"churn spark {order.attempt}") as connection:
        erased = spark_staging.erased_in(connection, order.attempt)
    work = task.TaskWork(order=order, dsn=job.dsn, bundle_parts=load_bundle(order.model_uri).to_parts(), erased=erased)

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([vars(task.run(work, batches))])

    events = 0
    if order.ranges:
        options = source_options(order.source.topic, order.ranges, job.kafka, task_events=job.task_events)
        messages = spark.read.format("kafka").options(**options).load().select(*task.MESSAGE_COLUMNS)
        events = sum(sum(counts) for counts in messages.mapInArrow(score, COUNTS).collect())
    with connect(job.dsn, autocommit=True, application_name=f"churn spark {order.attempt}") as connection:
        spark_staging.finish(connection, order.attempt, events=events)
    return events


def main() -> None:
    """Run the job whose file is the first argument."""
    job = Job.from_json(Path(sys.argv[1]).read_text())
    with open_dagster_pipes() as pipes:
        spark = SparkSession.builder.getOrCreate()
        try:
            _report(pipes, job, spark)
        finally:
            spark.stop()


def _report(pipes: PipesContext, job: Job, spark: SparkSession) -> None:
    context = spark.sparkContext
    pipes.log.info(f"Spark {spark.version}: application {context.applicationId} at {context.master}.")
    began = time.monotonic()
    events = run(job, spark)
    seconds = time.monotonic() - began
    pipes.log.info(f"Spark has scored {events:,} events in {seconds:.0f} s.")


if __name__ == "__main__":
    main()
