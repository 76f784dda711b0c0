"""`churn recover`: reconcile a restored database with Kafka. Each part of it has its own module."""

from dataclasses import dataclass
from typing import Final

from churn_platform.database import recovered_predictions
from churn_platform.database.recovered_predictions import Comparison
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.kafka import clients
from churn_platform.operations import reset
from churn_platform.operations.recovery import files, log, predictions
from churn_platform.operations.recovery.predictions import Progress, Reconciled
from churn_platform.stream.config import StreamConfig

# A run that finds the database behind Kafka holds the lock for less than a second, and the next one starts seconds
# later.
LOCK_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Recovery:
    """What `churn recover` found and did.

    Attributes:
        reconciled: the events topic and its predictions.
        comparison: the published predictions of lost rows, those of earlier recoveries included, compared with what
            their events were scored with again.
        problems: what only an operator can decide: offsets and files that are lost, each as a text.
    """

    reconciled: Reconciled
    comparison: Comparison
    problems: list[str]


def recover(config: StreamConfig, progress: Progress, *, lock_seconds: float = LOCK_SECONDS) -> Recovery:
    """Reconcile the database with Kafka and the files. It can be repeated at any time.

    Args:
        config: of the stream.
        progress: called with the current step and its count.
        lock_seconds: how long to wait for a run that holds the stream's lock.

    Raises:
        StreamIsLiveError: a run reads and commits.
        EnvironmentConflictError: another environment publishes there.
        TopicMissingError: the events topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    admin = clients.admin(config.kafka.client)
    with reset.hold_stream_lock(
        config, config.events_topic, application="churn recover", wait_seconds=lock_seconds
    ) as connection:
        with EnvironmentGuard(connection, admin, config) as guard:
            guard.claim(create_topics=True)
        reconciled = predictions.reconcile(connection, admin, config, progress)
        progress("Looking for lost offsets and files", 0)
        problems = [*log.find_problems(connection, admin, config), *files.find_problems(connection)]
        comparison = recovered_predictions.compare(connection, high_risk=config.high_risk_threshold)
        return Recovery(reconciled, comparison, problems)
