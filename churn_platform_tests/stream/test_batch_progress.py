"""When a batch opens, and when it ends."""

from datetime import UTC, datetime, timedelta

import pytest

from churn_platform.database.stream_batches import Batch
from churn_platform.environments.config import CLOCK_TOLERANCE
from churn_platform.kafka.config import KafkaConfig
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.stream.batch_progress import BatchProgress
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.result import Ending

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
CONFIG = StreamConfig(
    kafka=KafkaConfig(client={}, group="group", partitions=3, replication=1, retention=timedelta(days=14)),
    dsn="",
    environment="test",
    events_topic="events",
    predictions_topic="predictions",
    claims_topic="claims",
    start="earliest",
    epoch=EPOCH,
    schema=load_schema(PROJECT_ROOT / "data/bank/schema.toml"),
    commit_events=100,
    linger=0.0,
    publish_interval=0.0,
    batch_events=1_000,
    batch_seconds=60.0,
    idle_seconds=5.0,
    scoring_threads=1,
    lanes=1,
    high_risk_threshold=0.7,
)


def planned(**changes: object) -> Batch:
    """Return a batch without events, with these changes."""
    fields = {**dict.fromkeys(Batch.__dataclass_fields__), "lane": 0, "lanes": 1}
    counts = dict.fromkeys(("events", "predictions", "dead_letters", "duplicates", "commits", "replays"), 0)
    return Batch(**{**fields, **counts, "batch": "batch", "planned": NOON, **changes})  # type: ignore[arg-type]  # by name


def begun(**changes: object) -> BatchProgress:
    """Return the progress of a batch that a run starts at noon, at 100 s of its monotonic clock."""
    return BatchProgress(CONFIG, planned(**changes), now=100.0, wall_clock=NOON)


@pytest.mark.parametrize(
    ("now", "at_ends", "paused", "lanes_changed", "expected"),
    [
        (104.0, True, False, False, None),
        (105.0, True, False, False, Ending.IDLE),
        (500.0, False, False, False, None),  # the broker may just be slow
        (100.0, False, True, False, Ending.PAUSED),
        (100.0, False, False, True, Ending.LANES),
    ],
)
def test_a_batch_without_an_event_ends_when_it_is_idle_or_paused_or_the_lanes_change(
    now: float, expected: Ending | None, *, at_ends: bool, paused: bool, lanes_changed: bool
) -> None:
    assert begun().ending(now, at_ends=at_ends, paused=paused, lanes_changed=lanes_changed) is expected


def test_the_first_events_open_a_batch_and_settle_what_it_accepts() -> None:
    progress = begun()

    opening = progress.add(10, now=101.0, wall_clock=NOON)
    later = progress.add(10, now=102.0, wall_clock=NOON + timedelta(seconds=1))

    assert later == opening
    assert (opening.opened, opening.accepts_from) == (NOON, EPOCH)
    assert opening.accepts_until == NOON + timedelta(seconds=60) + CLOCK_TOLERANCE
    assert progress.ending(160.9, at_ends=False, paused=False, lanes_changed=False) is None
    assert progress.ending(161.0, at_ends=False, paused=False, lanes_changed=False) is Ending.SECONDS


def test_a_full_batch_ends() -> None:
    progress = begun()

    progress.add(1_000, now=101.0, wall_clock=NOON)

    assert progress.free == 0
    assert progress.ending(101.0, at_ends=False, paused=False, lanes_changed=False) is Ending.EVENTS


def test_a_resumed_batch_keeps_its_age_its_events_and_what_it_accepts() -> None:
    until = NOON + timedelta(hours=1)
    progress = begun(events=900, opened=NOON - timedelta(seconds=50), accepts_from=EPOCH, accepts_until=until)

    assert progress.free == 100
    assert progress.add(1, now=100.0, wall_clock=NOON).accepts_until == until
    assert progress.ending(109.0, at_ends=False, paused=False, lanes_changed=False) is None
    assert progress.ending(110.0, at_ends=False, paused=False, lanes_changed=False) is Ending.SECONDS
