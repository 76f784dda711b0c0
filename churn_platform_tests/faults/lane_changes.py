"""The number of lanes changes from 1 to 3 to 2 under traffic, while live runs are killed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from churn_platform.kafka import topics
from churn_platform.operations.verification.verify import check_invariants
from churn_platform.schema.generator import generate_customers
from churn_platform.simulation.producer import Mix, rows_of
from churn_platform_tests.faults.lane_processes import LaneProcesses
from churn_platform_tests.faults.traffic import Traffic
from churn_platform_tests.stream.streams import Stream
from churn_platform_tests.waiting import wait_until

MIX: Final = Mix(bad=0.02, duplicates=0.02, late=0.02)
SEED: Final = 7
TIMEOUT: Final = 600.0  # seconds; long, because the machine may be busy with something else


def change_lanes_under_traffic(
    stream: Stream, environment: Mapping[str, str], *, folder: Path, rate: float, kills: int
) -> None:
    """Change the lanes from 1 to 3 to 2, kill live runs before, between and after, and check that all is counted once.

    Args:
        stream: on empty topics of three partitions.
        environment: variables of the test's servers.
        folder: for the log of the processes.
        rate: events per second.
        kills: live runs to kill in each layout.
    """
    customers = rows_of(generate_customers(1_500, seed=SEED), stream.config.schema)
    traffic = Traffic(stream.config, customers, rate=rate, mix=MIX, seed=SEED)
    with LaneProcesses(stream, environment, folder=folder, batch_seconds=20) as processes:
        for lanes in (1, 3, 2):
            processes.start(lanes)
            traffic.start()
            for number in range(kills):
                _wait_for_events(stream, round(rate))
                processes.kill_live(number % lanes)
                processes.wait_until_live()
            # This one is dead when the number changes: its batch is open, and its transaction may be.
            _wait_for_events(stream, round(rate))
            processes.kill_live(lanes - 1)
        traffic.stop()
        processes.wait_until_live()
        wait_until(lambda: _events(stream) >= traffic.sent.messages, TIMEOUT, "all events to be read")
        wait_until(lambda: stream.value("select count(*) from churn_predictions") == len(stream.published()), TIMEOUT)
    assert _events(stream) == traffic.sent.messages
    assert stream.value("select count(*) from churn_predictions") == traffic.sent.predictions
    assert stream.published_ids() == stream.table_ids()
    assert [each for each in check_invariants(stream.config) if not each.holds] == []


def _events(stream: Stream) -> int:
    """Return the number of events that all batches have read."""
    count = stream.value("select coalesce(sum(events), 0)::bigint from stream_batches")
    assert isinstance(count, int)
    return count


def _wait_for_events(stream: Stream, count: int) -> None:
    """Wait until this many more events have arrived in Kafka, whether they are read or not."""
    topic = topics.describe(stream.admin, stream.config.events_topic)

    def end() -> int:
        return sum(topics.list_offsets(stream.admin, topic, topics.LATEST).values())

    until = end() + count
    wait_until(lambda: end() >= until, TIMEOUT)
