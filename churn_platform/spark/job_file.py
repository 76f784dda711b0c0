"""The job file: what the platform tells Spark's driver to do. It has passwords, so only its owner can read it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from uuid import UUID

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.external_scoring import ScoringOrder


@dataclass(frozen=True, kw_only=True)
class Job:
    """An order, and how Spark carries it out.

    Attributes:
        order: what is scored.
        dsn: connection string of the database with the staging tables. The executors use it, too.
        kafka: configuration of Java's Kafka clients.
        task_events: most offsets of one task. A task is one transaction, and is repeated if its executor dies.
    """

    order: ScoringOrder
    dsn: str = field(repr=False)
    kafka: Mapping[str, str] = field(repr=False)
    task_events: int

    def to_json(self) -> str:
        """Return the job as JSON."""
        order = self.order
        return json.dumps(
            {
                "order": {
                    "attempt": str(order.attempt),
                    "source": vars(order.source),
                    "ranges": {str(partition): list(bounds) for partition, bounds in order.ranges.items()},
                    "schema": order.schema.to_json(),
                    "accepts_from": order.accepts_from.isoformat(),
                    "accepts_until": order.accepts_until.isoformat(),
                    "model_version": order.model_version,
                    "model_uri": order.model_uri,
                },
                "dsn": self.dsn,
                "kafka": dict(self.kafka),
                "task_events": self.task_events,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the job that to_json() wrote."""
        document = json.loads(text)
        order = document.pop("order")
        return cls(
            order=ScoringOrder(
                attempt=UUID(order["attempt"]),
                source=Source(**order["source"]),
                ranges={int(partition): (start, end) for partition, (start, end) in order["ranges"].items()},
                schema=CustomerSchema.from_json(order["schema"]),
                accepts_from=datetime.fromisoformat(order["accepts_from"]),
                accepts_until=datetime.fromisoformat(order["accepts_until"]),
                model_version=order["model_version"],
                model_uri=order["model_uri"],
            ),
            **document,
        )


@contextmanager
def job_file(content: str) -> Iterator[Path]:
    """Write a job to a file in a folder that only this user can read; delete it at the end of the block.

    Args:
        content: the job as JSON.
    """
    with TemporaryDirectory(prefix="churn-spark-") as folder:  # created with mode 0700
        file = Path(folder) / "job.json"
        file.write_text(content)
        yield file
