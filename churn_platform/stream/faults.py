"""Fault points: places where a test may break the stream. Only tests set the hook; without one they cost nothing."""

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """Places in a streaming run, in the order that it passes them."""

    AFTER_LOCK = "after the lock was taken, before a predecessor's batch is closed"
    AFTER_READ = "after events were read"
    IN_TRANSACTION = "after the rows were written, before the PostgreSQL commit"
    AFTER_DATABASE_COMMIT = "after the PostgreSQL commit, before anything was sent to Kafka"
    BEFORE_KAFKA_COMMIT = "after predictions and marker were sent, before the Kafka commit"
    AFTER_KAFKA_COMMIT = "after the Kafka commit"
    BEFORE_CLOSING = "after the last publication, before the batch is closed"
    AFTER_CLOSING = "after the batch was closed, before the lock is let go"


hook: Callable[[FaultPoint], None] | None = None


def reach(point: FaultPoint) -> None:
    """Tell the hook, if a test has set one, that this point is reached."""
    if hook is not None:
        hook(point)
