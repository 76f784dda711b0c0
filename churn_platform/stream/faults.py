"""Fault points: places where a test may break the stream. Only tests install a hook; without one they do nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class FaultPoint(StrEnum):
    """Places in a streaming run, in the order in which it reaches them."""

    AFTER_LOCK = "after the lock was taken, before a predecessor's batch is closed"
    AFTER_READ = "after events were read"
    BEFORE_DATABASE_COMMIT = "before the PostgreSQL commit"
    AFTER_DATABASE_COMMIT = "after the PostgreSQL commit, before anything was sent to Kafka"
    BEFORE_KAFKA_COMMIT = "after predictions and offsets were sent, before the Kafka commit"
    AFTER_KAFKA_COMMIT = "after the Kafka commit"
    BEFORE_CLOSING = "after the last publication, before the batch is closed"
    AFTER_CLOSING = "after the batch was closed, before the lock is released"


Hook = Callable[[FaultPoint], None]

_hook: Hook | None = None


def reach(point: FaultPoint) -> None:
    """Call the hook, if one is installed."""
    if _hook is not None:
        _hook(point)


def install(hook: Hook | None) -> None:
    """Call this hook at each fault point of the process from now on; None: call nothing."""
    global _hook
    _hook = hook


@contextmanager
def installed(hook: Hook) -> Iterator[None]:
    """Call this hook at each fault point within the block."""
    install(hook)
    try:
        yield
    finally:
        install(None)
