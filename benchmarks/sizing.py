"""What a rate of events needs, and what that costs: the tables of docs/explanation/sizing.md.

Measured figures and prices are in sizing.toml. Everything else follows from them, from deploy/ecs/platform.yaml and the
defaults of the settings, so that the page cannot differ from them.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from churn_platform.orchestration.run_sizes import STREAMING
from churn_platform.settings import PROJECT_ROOT, Settings

FIGURES: Final = Path(__file__).with_suffix(".toml")
TEMPLATE: Final = PROJECT_ROOT / "deploy/ecs/platform.yaml"
RATES: Final = (1_000, 100_000, 10_000_000)
HOURS_PER_MONTH: Final = 730
SECONDS_PER_DAY: Final = 86_400
KAFKA_REPLICAS: Final = 3
BYTES_OF_EVENT: Final = 330
BYTES_OF_PREDICTION: Final = 400
"""Sizes of the benchmarks' messages without headers: see "Workload" in docs/explanation/benchmarks.md."""
LEAST_BROKERS: Final = 3
LEAST_ARCHIVE_DAYS: Final = 31  # of the setting ARCHIVE_DAYS
RDS_CORES: Final = (2, 4, 8, 16, 32, 48, 64)  # of db.r6g.large to db.r6g.16xlarge
RDS_GB_PER_CORE: Final = 8  # memory of all db.r6g
LARGEST_MEMORY_GB: Final = RDS_CORES[-1] * RDS_GB_PER_CORE
BROKER_CORES: Final = 2  # of kafka.m5.large
BROKER_DISK_GB: Final = 17_592  # 16 TiB, the most that a Standard broker of Amazon MSK can have
LARGEST_DISK_GB: Final = 70_000  # 64 TiB, of an instance of Amazon RDS
# A stream that uses all of its capacity never catches up after a fault.
PLANNED_SHARE: Final = 2 / 3
# Kafka's and PostgreSQL's shares of the platform's CPU at 500 events a second: 0.13 and 0.07 of 0.40 cores.
KAFKA_SHARE: Final = 0.13 / 0.40
POSTGRES_SHARE: Final = 0.07 / 0.40


@dataclass(frozen=True)
class Need:
    """What a rate needs.

    Attributes:
        rate: events a second.
        extrapolated: whether the cores are extrapolated from the measured limit.
        fits: whether one stream of this version sustains it.
        cores: of all processes, with Kafka and PostgreSQL.
        kafka_gb, postgres_gb, archive_gb: disk at the default retention; the archive after one year.
        postgres_memory_gb: so that indexes fit.
    """

    rate: int
    extrapolated: bool
    fits: bool
    cores: float
    kafka_gb: float
    postgres_gb: float
    archive_gb: float
    postgres_memory_gb: float


@dataclass(frozen=True)
class Cost:
    """Dollars a month."""

    tasks: float
    postgres: float
    kafka: float
    storage: float
    rest: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.tasks + self.postgres + self.kafka + self.storage + self.rest


def figures() -> dict[str, Any]:
    """Return the content of sizing.toml."""
    return tomllib.loads(FIGURES.read_text())


def need(rate: int, measured: dict[str, Any]) -> Need:
    """Return what a rate needs.

    Args:
        rate: events a second.
        measured: the section of sizing.toml.
    """
    lifecycle = Settings().lifecycle
    limit = measured["whole_platform"]["value"]
    per_day = rate * SECONDS_PER_DAY / 1e6  # million events
    kept = per_day * lifecycle.archive_days
    kafka_mb = BYTES_OF_EVENT + BYTES_OF_PREDICTION  # per million events
    return Need(
        rate=rate,
        extrapolated=rate > 5_000,
        fits=rate <= limit * PLANNED_SHARE,
        cores=cores(rate, measured),
        kafka_gb=per_day * lifecycle.retention_days * kafka_mb * KAFKA_REPLICAS / 1e3,
        postgres_gb=kept * measured["postgres_disk"]["value"] / 1e3,
        archive_gb=per_day * 365 * measured["archive_disk"]["value"] / 1e3,
        postgres_memory_gb=kept * measured["postgres_memory"]["value"] / 1e3,
    )


def cores(rate: int, measured: dict[str, Any]) -> float:
    """Return the cores of all processes: between two measured rates, or in proportion to the measured limit."""
    low, high = measured["cores_at_500"]["value"], measured["cores_at_5000"]["value"]
    if rate <= 5_000:
        return float(low + (high - low) * max(0, rate - 500) / 4_500)
    whole = measured["whole_platform"]
    return float(rate / whole["value"] * whole["cores"])


def services() -> tuple[float, float]:
    """Return vCPU and GB of the services of deploy/ecs/platform.yaml, without runs and the task that prepares."""
    sizes = re.findall(
        r"Family: !Sub \$\{AWS::StackName\}-(\w+)\n +Cpu: \"(\d+)\"\n +Memory: \"(\d+)\"", TEMPLATE.read_text()
    )
    kept = [(int(cpu), int(memory)) for name, cpu, memory in sizes if name not in ("run", "prepare")]
    return sum(cpu for cpu, _ in kept) / 1024, sum(memory for _, memory in kept) / 1024


def cost(needed: Need, prices: dict[str, Any]) -> Cost:
    """Return what it costs on AWS, with Fargate, Amazon RDS and Amazon MSK.

    Args:
        needed: what a rate needs.
        prices: the section of sizing.toml.
    """
    dollars = {name: each["value"] for name, each in prices.items() if isinstance(each, dict)}
    vcpus, memory = services()
    streaming = max(1, math.ceil(needed.cores * (1 - KAFKA_SHARE - POSTGRES_SHARE) / STREAMING.cpus))
    vcpus += (streaming + 1) * STREAMING.cpus  # with one standby
    memory += (streaming + 1) * STREAMING.memory_gib
    return Cost(
        tasks=(vcpus * dollars["fargate_vcpu_hour"] + memory * dollars["fargate_gb_hour"]) * HOURS_PER_MONTH,
        postgres=postgres_cores(needed) * dollars["rds_vcpu_hour"] * HOURS_PER_MONTH,
        kafka=brokers(needed) * BROKER_CORES * dollars["msk_broker_vcpu_hour"] * HOURS_PER_MONTH,
        storage=needed.kafka_gb * dollars["msk_storage_gb_month"]
        + needed.postgres_gb * dollars["rds_storage_gb_month"]
        + needed.archive_gb * dollars["s3_gb_month"],
        rest=dollars["load_balancer_hour"] * HOURS_PER_MONTH,
    )


def postgres_cores(needed: Need) -> float:
    """Return the vCPU of the smallest db.r6g with the cores and the memory, or more than any has if none suffices."""
    least = max(needed.cores * POSTGRES_SHARE / PLANNED_SHARE, needed.postgres_memory_gb / RDS_GB_PER_CORE)
    return next((cores for cores in RDS_CORES if cores >= least), least)


def brokers(needed: Need) -> int:
    """Return the number of brokers, which have the cores and the disk for all replicas."""
    for_cores = needed.cores * KAFKA_SHARE * KAFKA_REPLICAS / PLANNED_SHARE / BROKER_CORES
    return max(LEAST_BROKERS, math.ceil(for_cores), math.ceil(needed.kafka_gb / BROKER_DISK_GB))


def measured_table() -> str:
    """Return the table of measured figures, each with its page."""
    rows = ["| Figure | Value | From |", "|---|---|---|"]
    units = {
        "whole_platform": ("events a second of the whole platform on 2 cores", "{:,.0f}"),
        "cores_at_500": ("cores at 500 events a second", "{:.2f}"),
        "cores_at_5000": ("cores at 5,000 events a second", "{:.2f}"),
        "run_memory": ("MB of memory of a streaming run", "{:,.0f}"),
        "postgres_disk": ("MB of disk in PostgreSQL per million events", "{:,.0f}"),
        "archive_disk": ("MB of disk in the archive per million events", "{:,.0f}"),
        "postgres_memory": ("MB of PostgreSQL's memory per million rows that are kept", "{:,.0f}"),
    }
    for name, (title, form) in units.items():
        each = figures()["measured"][name]
        page = Path(each["page"]).name
        rows.append(f"| {title} | {form.format(each['value'])} | [{page.removesuffix('.md')}]({page}) |")
    whole = figures()["measured"]["whole_platform"]
    rows.append(f"| events per core and second, from the first | {whole['value'] / whole['cores']:,.0f} | |")
    return "\n".join(rows)


def need_table() -> str:
    """Return the table of what each rate needs."""
    rows = [
        "| Events a second | Cores | Kafka's disk | PostgreSQL's disk | Its memory | Archive in a year | One stream |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        each = need(rate, figures()["measured"])
        basis = "extrapolated" if each.extrapolated else "measured at 500 and 5,000"
        rows.append(
            f"| {rate:,} | {each.cores:,.1f} ({basis}) | {_size(each.kafka_gb)} | {_size(each.postgres_gb)} | "
            f"{_size(each.postgres_memory_gb)} | {_size(each.archive_gb)} | "
            f"{'sustains it' if each.fits else 'does not sustain it'} |"
        )
    return "\n".join(rows)


def limit_table() -> str:
    """Return the table of limits, and of the rates at which they are reached."""
    measured, lifecycle = figures()["measured"], Settings().lifecycle
    one = need(1, measured)
    shortest = LEAST_ARCHIVE_DAYS / lifecycle.archive_days
    limit = measured["whole_platform"]["value"]
    rows = ["| What ends | Limit | Reached at events a second |", "|---|---|---|"]
    for what, size, rate in (
        (
            f"PostgreSQL's memory for {lifecycle.archive_days} days; beyond it a commit takes longer",
            f"{LARGEST_MEMORY_GB:,} GB in the largest db.r6g",
            LARGEST_MEMORY_GB / one.postgres_memory_gb,
        ),
        (
            f"PostgreSQL's disk for {lifecycle.archive_days} days (`ARCHIVE_DAYS`)",
            f"{LARGEST_DISK_GB / 1000:,.0f} TB in Amazon RDS",
            LARGEST_DISK_GB / one.postgres_gb,
        ),
        ("one stream, with a third of its capacity for catching up", f"{limit:,} measured", limit * PLANNED_SHARE),
        (
            f"PostgreSQL's disk for {LEAST_ARCHIVE_DAYS} days, the least",
            f"{LARGEST_DISK_GB / 1000:,.0f} TB in Amazon RDS",
            LARGEST_DISK_GB / one.postgres_gb / shortest,
        ),
        ("one stream", f"{limit:,} measured", limit),
    ):
        rows.append(f"| {what} | {size} | {_rounded(rate):,} |")
    return "\n".join(rows)


def cost_table() -> str:
    """Return the table of what each rate costs."""
    prices = figures()["prices"]
    rows = ["| Events a second | Tasks | PostgreSQL | Kafka | Storage | Total a month |", "|---|---|---|---|---|---|"]
    for rate in RATES:
        each = cost(need(rate, figures()["measured"]), prices)
        parts = (each.tasks, each.postgres, each.kafka, each.storage, each.total)
        rows.append(f"| {rate:,} | " + " | ".join(f"${part:,.0f}" for part in parts) + " |")
    return "\n".join(rows)


def price_table() -> str:
    """Return the table of list prices."""
    prices = figures()["prices"]
    rows = [f"| List price in {prices['region']} | US dollars | For | AWS's price list of |", "|---|---|---|---|"]
    rows += [
        f"| [`{name}`]({each['page']}) | {each['value']} | {each['product']} | {each['list']} |"
        for name, each in prices.items()
        if isinstance(each, dict)
    ]
    return "\n".join(rows)


def _rounded(rate: float) -> int:
    """Return a rate with two digits."""
    unit = 10 ** (len(str(int(rate))) - 2)
    return int(rate // unit * unit)


def _size(gigabytes: float) -> str:
    """Return a size as text."""
    for unit in ("GB", "TB", "PB"):
        if gigabytes < 1000:
            return f"{gigabytes:,.1f} {unit}" if gigabytes < 10 else f"{gigabytes:,.0f} {unit}"
        gigabytes /= 1000
    return f"{gigabytes:,.1f} EB"
