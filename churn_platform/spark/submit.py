"""The command that starts Spark's driver, and its environment. Pure: it starts nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from churn_platform.errors import PlatformError
from churn_platform.settings import Settings
from churn_platform.spark.kafka_options import SECRET_OPTIONS

SCORING: Final = Path(__file__).with_name("job.py")
PREPARATION: Final = Path(__file__).with_name("preparation_job.py")
"""The programs of the driver."""
# A job decodes and scores this many events at once: about 10 MB of them.
ARROW_ROWS: Final = 10_000


class SparkMissingError(PlatformError):
    """Spark is not installed where the settings say."""


@dataclass(frozen=True, kw_only=True)
class SparkConfig:
    """How Spark is started.

    Attributes:
        environment: folder of the Python environment with pyspark, Java and the jars of the Kafka source.
        master: Spark's master, such as local[2] or spark://host:7077.
        conf: more configuration properties of Spark.
        task_events: most offsets of one task.
        backlog_events: most offsets that a run reads from the backlog.
    """

    environment: Path
    master: str
    conf: Mapping[str, str]
    task_events: int
    backlog_events: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return what the settings say."""
        spark = settings.spark
        return cls(
            environment=spark.environment,
            master=spark.master,
            conf=spark.properties,
            task_events=spark.task_events,
            backlog_events=spark.backlog_events,
        )

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.environment / "bin" / "python"

    @property
    def java_home(self) -> Path:
        """The environment's Java, which 'make spark' has linked."""
        return self.environment / "java"

    def require_installed(self) -> None:
        """Check that the environment is there.

        Raises:
            SparkMissingError: it is not.
        """
        submit = self.environment / "bin" / "spark-submit"
        if not submit.exists():
            raise SparkMissingError(
                f"There is no Spark in {self.environment}: {submit} does not exist.",
                remedy="Run 'make spark', which installs it, or set SPARK_ENVIRONMENT to an environment that has it.",
            )


def command(config: SparkConfig, program: Path, job: Path, *, name: str) -> list[str]:
    """Return the command that runs a job.

    Args:
        config: how Spark is started.
        program: SCORING or PREPARATION.
        job: the job's file.
        name: of the application.
    """
    properties = {**_defaults(config), **config.conf}
    return [
        str(config.environment / "bin" / "spark-submit"),
        *("--master", _with_retries(config.master), "--deploy-mode", "client", "--name", name),
        *(argument for key, value in properties.items() for argument in ("--conf", f"{key}={value}")),
        *(str(program), str(job)),
    ]


def environment(config: SparkConfig) -> dict[str, str]:
    """Return the variables that the command needs besides those of this process."""
    found = {"PYSPARK_PYTHON": str(config.python), "PYSPARK_DRIVER_PYTHON": str(config.python)}
    if (config.java_home / "bin" / "java").exists():
        found["JAVA_HOME"] = str(config.java_home)
    return found


def _defaults(config: SparkConfig) -> dict[str, str]:
    found = {
        "spark.log.level": "WARN",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(ARROW_ROWS),
        "spark.sql.redaction.options.regex": SECRET_OPTIONS,
        "spark.sql.session.timeZone": "UTC",
    }
    jars = sorted((config.java_home / "jars").glob("*.jar"))
    if jars:
        found["spark.jars"] = ",".join(map(str, jars))
    if config.master.startswith("local"):
        # The driver is its only executor. A machine's name may resolve to an address that is not up.
        found |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
        }
    return found


def _with_retries(master: str) -> str:
    """Return a local master that repeats failed tasks, as clusters do by default."""
    cores = re.fullmatch(r"local\[(\w+|\*)\]", master)
    return master if cores is None else f"local[{cores[1]},4]"
