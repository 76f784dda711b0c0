"""When the next Kafka transaction begins. A transaction costs about the same for one commit as for several."""

import math


class PublishPace:
    """Begins a transaction with the commit that comes nearest to the end of the publishing interval.

    If it began at the end of the interval, the predictions of the latest commit would wait until then, although the
    next commit may come a few milliseconds later and would need a transaction of its own. While events are frequent, a
    commit comes every `linger`; a commit that none follows waits half of it longer than the interval.
    """

    def __init__(self, *, interval: float, linger: float) -> None:
        """Begin the first transaction without a wait.

        Args:
            interval: time from one transaction to the next while commits are frequent, in seconds; 0: a transaction
                begins with the first commit after the one before it has ended.
            linger: least time from one commit to the next, in seconds.
        """
        self._interval = interval
        self._tolerance = linger / 2 if interval else 0.0
        self._due = -math.inf

    def seconds_left(self, now: float) -> float:
        """Return how long the next commit is waited for; 0: the transaction begins with those that are there.

        Args:
            now: seconds of a monotonic clock, when a commit has arrived.
        """
        left = self._due - now
        return left + self._tolerance if left > self._tolerance else 0.0

    def begin(self, now: float) -> None:
        """Note that a transaction begins."""
        self._due = now + self._interval
