"""Spark's real-time mode, topic to topic: at least once, and it writes no rows. One event at a time, on the JVM.

Real-time mode runs neither pandas nor other Python functions (Spark 4.2), and no foreachBatch. So a Java function
scores, with XGBoost4J: benchmarks/peers/java/SparkScore.java. It follows the topic and does not end.
"""

from __future__ import annotations

from typing import Final

from pyspark.sql import functions as f
from pyspark.sql.types import BinaryType

from benchmarks.contenders.spark import session
from benchmarks.contenders.task import Task

# A task reads one partition of the topic, for as long as a batch lasts.
TASKS: Final = 3
# How often offsets are written to the checkpoint: Spark's default. Events are not held back until then, but after a
# failure those since then are published again.
CHECKPOINT: Final = "5 minutes"


def main() -> None:
    """Read without end."""
    task = Task.from_arguments()
    spark = session(task, TASKS)
    spark.udf.registerJavaFunction("score", "churn.SparkScore", BinaryType())
    events = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", task.brokers)
        .option("subscribe", task.events_topic)
        .option("startingOffsets", "earliest")
        .option("kafka.isolation.level", "read_committed")
        .load()
    )
    query = (
        events.select("key", f.call_function("score", "value", f.lit(task.bundle)).alias("value"))
        .writeStream.format("kafka")
        .option("kafka.bootstrap.servers", task.brokers)
        .option("topic", task.predictions_topic)
        .option("kafka.compression.type", "lz4")
        .option("checkpointLocation", f"{task.folder}/checkpoint")
        .outputMode("update")
        .trigger(realTime=CHECKPOINT)
        .start()
    )
    query.awaitTermination()


if __name__ == "__main__":
    main()
