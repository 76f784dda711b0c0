"""Messages as a consumer receives them: their place, and the range of Kafka's timestamps. Not what a value means."""

from datetime import UTC, datetime
from typing import Final, Protocol

UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Kafka's timestamps are any 64 bits; these are the milliseconds of years 1 to 9999, which Python and PostgreSQL know.
KNOWN_MILLISECONDS: Final = range(-62_135_596_800_000, 253_402_300_800_000)


class Received(Protocol):
    """What is decoded: a Kafka message, or something that stands for one before it is sent."""

    def value(self) -> bytes | None:
        """The bytes as sent."""

    def partition(self) -> int | None:
        """Kafka partition."""

    def offset(self) -> int | None:
        """Offset in that partition."""

    def timestamp(self) -> tuple[int, int]:
        """Kind of Kafka's timestamp, and milliseconds since 1970."""


def partition_of(message: Received) -> int:
    """Kafka partition of a message that was read."""
    partition = message.partition()
    if partition is None:
        raise TypeError("A message that was read has a partition; this one has none.")
    return partition


def offset_of(message: Received) -> int:
    """Offset of a message that was read."""
    offset = message.offset()
    if offset is None:
        raise TypeError("A message that was read has an offset; this one has none.")
    return offset
