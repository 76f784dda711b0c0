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
