"""The task of a contender, as JSON in its first argument. Imports only the standard library, for the peers' sake."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Task:
    """A topic with a backlog of events, and where to write their predictions.

    Attributes:
        brokers: bootstrap servers.
        dsn: connection string of the contender's empty, migrated database, with the champion promoted.
        events_topic: contains exactly `events` events, unless it is followed.
        predictions_topic: the contender's output topic.
        group: name of the consumer group or checkpoint.
        bundle: folder of the model bundle.
        events: number of events.
        commit_events: events per commit.
        folder: folder for the contender's files.
        linger: longest time to wait for a full commit, in seconds, of contenders that have such a time.
        follow: whether to go on at the end of the topic, until the process is terminated. `events` is then unknown.
        lane, lanes: the lane that the platform's loop streams, and the number of lanes.
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
    linger: float = 1.0
    follow: bool = False
    lane: int = 0
    lanes: int = 1

    def to_json(self) -> str:
        """Return the task as JSON, for from_arguments() in another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_arguments(cls) -> Task:
        """Return the task in this process's first argument."""
        return cls(**json.loads(sys.argv[1]))


def moment(text: str) -> datetime:
    """Parse the time of an event."""
    return datetime.fromisoformat(text).astimezone(UTC)
