"""What a contender is told, as JSON in its first argument. Imports nothing that a peer's environment might lack."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Task:
    """A topic of events that wait, and where their predictions go.

    Attributes:
        brokers: bootstrap servers.
        dsn: connection string of a database of the contender's own, migrated and empty, with the champion promoted.
        events_topic: holds `events` events and nothing else.
        predictions_topic: the contender's own.
        group: its consumer group or checkpoint's name.
        bundle: folder of the model bundle.
        events: how many wait.
        commit_events: events of a commit.
        folder: for files of its own.
    """

    brokers: str
    dsn: str
    events_topic: str
    predictions_topic: str
    group: str
    bundle: str
    events: int
    commit_events: int
    folder: str

    def to_json(self) -> str:
        """For from_arguments() of another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Task:
        """The task that this process was given."""
        return cls(**json.loads(sys.argv[1]))


def moment(text: str) -> datetime:
    """A time of an event, as its producers write it."""
    return datetime.fromisoformat(text).astimezone(UTC)
