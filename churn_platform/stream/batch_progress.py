"""The progress of a batch: which event times it accepts, and when it ends. Pure: the time is passed in."""

from dataclasses import dataclass
from datetime import datetime

from churn_platform.database.stream_batches import Batch
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.result import Ending


@dataclass(frozen=True)
class Opening:
    """What is settled when a batch opens, with its first event. A replay accepts the same event times.

    Attributes:
        opened: when the batch opened.
        accepts_from: earliest event time that is accepted.
        accepts_until: latest event time that is accepted.
    """

    opened: datetime
    accepts_from: datetime
    accepts_until: datetime


class BatchProgress:
    """Counts the events of a batch and decides when it ends.

    `now` is seconds on a monotonic clock, `wall_clock` the time of day at the same moment.
    """

    def __init__(self, config: StreamConfig, batch: Batch, *, now: float, wall_clock: datetime) -> None:
        """Begin a batch, or resume one that is open."""
        self._config = config
        self._events = batch.events
        self._accepts_from = batch.accepts_from or config.epoch
        self._last_event_at = now
        self._opened_at: float | None = None
        self.opening: Opening | None = None
        if batch.opened is not None:
            until = batch.accepts_until or config.accepts_until(batch.opened)
            self.opening = Opening(batch.opened, self._accepts_from, until)
            self._opened_at = now - (wall_clock - batch.opened).total_seconds()

    @property
    def free(self) -> int:
        """Events that still fit into the batch."""
        return self._config.batch_events - self._events

    def add(self, events: int, *, now: float, wall_clock: datetime) -> Opening:
        """Count events; the first ones open the batch."""
        self._events += events
        self._last_event_at = now
        if self.opening is None:
            self.opening = Opening(wall_clock, self._accepts_from, self._config.accepts_until(wall_clock))
            self._opened_at = now
        return self.opening

    def seconds_without_event(self, now: float) -> float:
        """Return how long ago the last event was read."""
        return now - self._last_event_at

    def ending(self, now: float, *, at_ends: bool, paused: bool, lanes_changed: bool) -> Ending | None:
        """Return the reason to end the batch now; None if it continues.

        Args:
            now: see the class.
            at_ends: whether all partitions are read to their ends. Without events alone, the broker may just be slow.
            paused: whether the stream is paused.
            lanes_changed: whether another number of lanes is wanted.
        """
        if paused:
            return Ending.PAUSED
        if lanes_changed:
            return Ending.LANES
        if self.free <= 0:
            return Ending.EVENTS
        if self._opened_at is not None and now - self._opened_at >= self._config.batch_seconds:
            return Ending.SECONDS
        quiet = self.seconds_without_event(now) if at_ends else 0.0
        return Ending.IDLE if quiet >= self._config.idle_seconds else None
