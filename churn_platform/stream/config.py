"""Configuration of the stream. Its callers create it from the settings; the stream itself reads no environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from churn_platform.environments.config import CLOCK_TOLERANCE, EnvironmentConfig
from churn_platform.settings import Settings, StreamProfile


@dataclass(frozen=True)
class Profile:
    """How often a stream commits and publishes while events arrive.

    An event waits for half of `linger` on average, and its prediction then for half of what `publish_interval` exceeds
    it by. A commit costs about the same processor time for one event as for a hundred, and so does a Kafka transaction.

    Attributes:
        linger: least time from one commit to the next, in seconds, for each lane of the stream.
        publish_interval: time from one Kafka transaction to the next, in seconds, for each lane of the stream; see
            PublishPace.
    """

    linger: float
    publish_interval: float


PROFILES: Final[Mapping[StreamProfile, Profile]] = {
    "latency": Profile(linger=0.01, publish_interval=0.0),
    "balanced": Profile(linger=0.03, publish_interval=0.06),
    "economy": Profile(linger=0.1, publish_interval=0.3),
}


@dataclass(frozen=True, kw_only=True)
class StreamConfig(EnvironmentConfig):
    """One stream: a topic in, a topic out, a database. Durations are in seconds, counts in events.

    `lanes` is the number of lanes that is wanted; which one a run streams is recorded with its batch.

    With infinite `idle_seconds` a run waits for its first event as long as it takes. `high_risk_threshold` is the risk
    score, 0 to 1, from which a prediction is high risk.
    """

    commit_events: int
    linger: float
    publish_interval: float
    batch_events: int
    batch_seconds: float
    idle_seconds: float
    scoring_threads: int
    lanes: int
    high_risk_threshold: float

    @classmethod
    def from_settings(cls, settings: Settings) -> "StreamConfig":
        """Return the stream that the settings describe.

        Raises:
            SettingsError: Kafka or PostgreSQL is neither configured nor up.
        """
        return cls(
            **vars(EnvironmentConfig.from_settings(settings)),
            commit_events=settings.stream.commit_events,
            **vars(PROFILES[settings.stream.profile]),
            batch_events=settings.stream.batch_events,
            batch_seconds=settings.stream.batch_seconds,
            idle_seconds=settings.stream.idle_seconds or math.inf,
            scoring_threads=settings.stream.scoring_threads,
            lanes=settings.stream.lanes,
            high_risk_threshold=settings.retention.high_risk_threshold,
        )

    def accepts_until(self, opened: datetime) -> datetime:
        """Return the latest event time that a batch opened then accepts: its longest life plus CLOCK_TOLERANCE."""
        return opened.astimezone(UTC) + timedelta(seconds=self.batch_seconds) + CLOCK_TOLERANCE
