"""Spark's driver of the preparation: carries out the order in a job file. `spark-submit` runs this file."""

import sys
import time
from pathlib import Path

from dagster_pipes import PipesContext, open_dagster_pipes
from pyspark.sql import SparkSession

from churn_platform.errors import PlatformError
from churn_platform.spark.preparation import Preparation
from churn_platform.spark.preparation_order import PreparationOrder


def main() -> None:
    """Carry out the order whose file is the first argument. Its result, or its error, is the driver's message."""
    order = PreparationOrder.from_json(Path(sys.argv[1]).read_text())
    with open_dagster_pipes() as pipes:
        spark = SparkSession.builder.getOrCreate()
        try:
            _report(pipes, order, spark)
        except PlatformError as error:
            if error.transient:
                raise
            given = {"problem": error.problem, "remedy": error.remedy, "details": error.details}
            pipes.report_custom_message({"error": given})
        finally:
            spark.stop()


def _report(pipes: PipesContext, order: PreparationOrder, spark: SparkSession) -> None:
    context = spark.sparkContext
    pipes.log.info(f"Spark {spark.version}: application {context.applicationId} at {context.master}.")
    began = time.monotonic()
    read = Preparation(order, spark).run()
    pipes.report_custom_message({"file": None if read is None else read.to_json()})
    pipes.log.info(f"Spark has carried out step {order.step.value!r} in {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
