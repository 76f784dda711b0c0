"""The warm-up: everything slow happens here, before a run waits for the lock."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from churn_platform.database import environments
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.kafka import clients, topics
from churn_platform.kafka.clients import DiagnosticConsumer
from churn_platform.kafka.reading import make_consumer, watermarks
from churn_platform.stream.lease import Lease
from churn_platform.stream.publisher import Publisher
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import ChampionFollower, load_champion


@dataclass(frozen=True)
class Connections:
    """What a warm run has prepared: connections to PostgreSQL and Kafka, and the model in memory."""

    lease: Lease
    admin: AdminClient
    consumer: DiagnosticConsumer
    publisher: Publisher
    follower: ChampionFollower
    guard: EnvironmentGuard


@contextmanager
def warm_up(run: RunContext, follower: ChampionFollower | None) -> Iterator[Connections]:
    """Connect, load the champion and make sure that this environment may publish; disconnect at the end.

    Args:
        run: the run.
        follower: the champion of an earlier tenure; None: the champion's bundle is loaded.

    Raises:
        NoChampionError, BundleError: there is nothing to score with.
        TopicMissingError: there is nothing to read.
        EnvironmentConflictError: another environment publishes there.
    """
    config = run.config
    with ExitStack() as opened:
        lease = Lease(run)
        opened.callback(lease.release)
        # Kafka clients connect while the model is loaded. Otherwise each of them would wait half a second for it.
        admin = clients.admin(config.kafka.client)
        consumer = make_consumer(config.kafka)
        opened.callback(consumer.close)
        publisher = Publisher(run, environments.identify(lease.connection))
        opened.callback(publisher.release)
        follower = follower or ChampionFollower(load_champion(lease.connection), run.log)
        gc.collect()  # takes 0.15 s, so not after another run has died and its events wait
        guard = EnvironmentGuard(lease.connection, admin, config)
        opened.callback(guard.close)
        guard.claim(create_topics=True)
        topic = topics.describe(admin, config.events_topic)
        for partition in topic.partitions:
            watermarks(consumer, topic.name, partition)  # the consumer then knows the brokers
        publisher.warm_up()
        yield Connections(lease, admin, consumer, publisher, follower, guard)
