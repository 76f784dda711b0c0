"""What all parts of one streaming run share: its configuration, its identity and its dependencies."""

from collections.abc import Callable
from dataclasses import dataclass

from churn_platform.kafka import clients
from churn_platform.lanes import Lane
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One streaming run.

    Attributes:
        config: the stream.
        batch: key of the batch that the run streams into.
        run_id: Dagster's id of the run. The names of its sessions in PostgreSQL contain it.
        log: writes a line to the run's log.
        lane: whose partitions the run reads.
        limits: times and sizes that bound the run.
        make_producer: creates the Kafka producer that publishes, from librdkafka settings.
    """

    config: StreamConfig
    batch: str
    run_id: str
    log: Callable[[str], None]
    lane: Lane
    limits: Limits = DEFAULT_LIMITS
    make_producer: clients.ProducerFactory = clients.producer

    @property
    def linger(self) -> float:
        """Least time from one commit of the lane to the next, in seconds.

        The profile's time is that of the whole stream. n lanes commit n times more rarely each, so that together they
        cost PostgreSQL and Kafka no more commits than one lane.
        """
        return self.config.linger * self.lane.of

    @property
    def commit_events(self) -> int:
        """Maximum number of events in one commit of the lane.

        The setting's number is that of the whole stream: the data of a commit should stay in the processor's caches,
        which lanes on one machine share.
        """
        return max(1, self.config.commit_events // self.lane.of)

    @property
    def publish_interval(self) -> float:
        """Time from one Kafka transaction of the lane to the next, in seconds; see linger."""
        return self.config.publish_interval * self.lane.of
