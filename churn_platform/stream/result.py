"""What a streaming run did, and why it ended."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Ending(StrEnum):
    """Why a streaming run ended."""

    SECONDS = "batch_seconds"
    EVENTS = "batch_events"
    IDLE = "idle_seconds"
    PAUSED = "the stream is paused"
    CLOSED = "its batch was closed by another run"
    TOPIC = "the topic was recreated; the next batch reads it"
    LANES = "LANES has changed; runs of the new lanes continue"
    SCHEMA = "the customer schema has changed; the next batch is read with it"
    THRESHOLD = "HIGH_RISK_THRESHOLD has changed; the next batch is read with it"


@dataclass
class StreamResult:
    """What a streaming run did, in total over its tenures of the lock.

    Attributes:
        ending: why the run ended.
        commits: commits of events.
        published: predictions published for its own commits.
        recovered: predictions published for commits of a predecessor.
        waited_seconds: how long it waited for the lock.
        latencies: seconds from each event's time to its visible row, one array per commit.
    """

    ending: Ending = Ending.IDLE
    commits: int = 0
    published: int = 0
    recovered: int = 0
    waited_seconds: float = 0.0
    latencies: list[NDArray[np.float64]] = field(default_factory=list)

    def latency(self, percent: float) -> float | None:
        """Return a percentile of the seconds from an event's own time to its visible row; None without a prediction."""
        return float(np.percentile(np.concatenate(self.latencies), percent)) if self.latencies else None
