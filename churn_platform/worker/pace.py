"""When a duty that follows commits waits, so that the stream has the machine while it works off a backlog."""

import time
from collections.abc import Callable
from typing import Final

# Events a second above which the stream works off a backlog: nobody's customers cause so many for long, and following
# them would take the stream most of a core.
BACKLOG_RATE: Final = 20_000.0
# Events a second above which the stream may work off a backlog on a slower machine. It does if what waits in Kafka
# would take it longer than these seconds. Below the rate, Kafka is not asked.
ASKING_RATE: Final = 2_000.0
BACKLOG_SECONDS: Final = 2.0
# Seconds that a duty waits at most. In a backlog of minutes, it follows at this interval.
LONGEST_WAIT: Final = 60.0


class Pace:
    """Looks at how fast the stream's positions move."""

    def __init__(
        self,
        *,
        backlog_rate: float = BACKLOG_RATE,
        asking_rate: float = ASKING_RATE,
        longest_wait: float = LONGEST_WAIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create one that has not looked yet.

        Args:
            backlog_rate: events a second above which the duty waits.
            asking_rate: events a second above which it waits if a backlog waits in Kafka.
            longest_wait: seconds that it waits at most.
            monotonic: seconds.
        """
        self._backlog_rate = backlog_rate
        self._asking_rate = asking_rate
        self._longest_wait = longest_wait
        self._monotonic = monotonic
        self._looked_at = self._followed_at = monotonic()
        self._waiting: int | None = None

    def waits(self, waiting: int, in_kafka: Callable[[], int]) -> bool:
        """Return whether the duty leaves the events alone for now. The first look cannot know, and says no.

        Args:
            waiting: offsets that the stream has read and the duty has not.
            in_kafka: returns how many offsets the stream has not read; 0 if nobody knows.
        """
        now, before = self._monotonic(), self._waiting
        # Two looks within a second say nothing of a rate.
        seconds = max(1.0, now - self._looked_at)
        rate = 0.0 if before is None else (waiting - before) / seconds
        self._looked_at, self._waiting = now, waiting
        if not waiting:
            self._followed_at = now  # after a quiet hour, a duty that waits has just begun to
        if now - self._followed_at >= self._longest_wait:
            return False
        if rate > self._backlog_rate:
            return True
        return rate > self._asking_rate and in_kafka() > BACKLOG_SECONDS * rate

    def followed(self, left: int) -> None:
        """Remember that the duty has followed the stream since the last look.

        Args:
            left: offsets that were waiting at that look and still are.
        """
        self._followed_at = self._monotonic()
        self._waiting = left
