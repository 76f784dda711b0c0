"""Messages as a consumer receives them: their position, and the range of Kafka's timestamps. Values are not decoded."""

from datetime import UTC, datetime
from typing import Final, Protocol

UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# A Kafka timestamp is any 64-bit number. These are the milliseconds of the years 1 to 9999, Python's range.
KNOWN_MILLISECONDS: Final = range(-62_135_596_800_000, 253_402_300_800_000)


class Received(Protocol):
    """A Kafka message, or an object with the same methods that has not been sent yet."""

    def value(self) -> bytes | None:
        """Return the bytes of the value."""

    def partition(self) -> int | None:
        """Return the Kafka partition."""

    def offset(self) -> int | None:
        """Return the offset in that partition."""

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of Kafka's timestamp, and its milliseconds since 1970."""


def partition_of(message: Received) -> int:
    """Return the Kafka partition of a message that was read."""
    partition = message.partition()
    if partition is None:
        raise TypeError("A message that was read has a partition; this one has none.")
    return partition


def offset_of(message: Received) -> int:
    """Return the offset of a message that was read."""
    offset = message.offset()
    if offset is None:
        raise TypeError("A message that was read has an offset; this one has none.")
    return offset
