"""How many requests each token may make: a token bucket, which allows a second's worth at once."""

import time
from collections.abc import Callable


class RateLimit:
    """A bucket for each name. It is refilled steadily, and each request takes one from it."""

    def __init__(self, per_second: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create it with full buckets.

        Args:
            per_second: requests a second on average, for each name.
            monotonic: the clock, in seconds.
        """
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Count a request.

        Returns:
            Seconds after which the next request is allowed if this one is not; 0 if it is.
        """
        now = self._monotonic()
        left, since = self._buckets.get(name, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[name] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[name] = (left - 1, now)
        return 0.0
