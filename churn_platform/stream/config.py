"""Configuration of the stream. Its callers create it from the settings; the stream itself reads no environment."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from churn_platform.environments.config import CLOCK_TOLERANCE, EnvironmentConfig
from churn_platform.settings import Settings

# Risk score from which a prediction is high risk; the views and the partial index of churn_predictions hold it too.
HIGH_RISK_THRESHOLD: Final = 0.7


@dataclass(frozen=True, kw_only=True)
class StreamConfig(EnvironmentConfig):
    """One stream: a topic in, a topic out, a database. Durations are in seconds, counts in events."""

    commit_events: int
    linger: float
    batch_events: int
    batch_seconds: float
    idle_seconds: float
    scoring_threads: int
    high_risk_threshold: float = HIGH_RISK_THRESHOLD

    @classmethod
    def from_settings(cls, settings: Settings) -> "StreamConfig":
        """Return the stream that the settings describe.

        Raises:
            SettingsError: Kafka or PostgreSQL is neither configured nor up.
        """
        return cls(
            **vars(EnvironmentConfig.from_settings(settings)),
            commit_events=settings.stream.commit_events,
            linger=settings.stream.linger_ms / 1000,
            batch_events=settings.stream.batch_events,
            batch_seconds=settings.stream.batch_seconds,
            idle_seconds=settings.stream.idle_seconds,
            scoring_threads=settings.stream.scoring_threads,
        )

    def accepts_until(self, opened: datetime) -> datetime:
        """Return the latest event time that a batch opened then accepts: its longest life plus CLOCK_TOLERANCE."""
        return opened.astimezone(UTC) + timedelta(seconds=self.batch_seconds) + CLOCK_TOLERANCE
