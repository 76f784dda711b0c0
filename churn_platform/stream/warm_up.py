"""The warm-up: everything slow happens here, before a run waits for the lock."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.database import customer_schemas, environments
from churn_platform.environments.environment_guard import EnvironmentGuard
from churn_platform.kafka import clients, topics
from churn_platform.kafka.following import FollowingConsumer
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.canary import CanaryFollower
from churn_platform.stream.exceptions import SchemaNotRecordedError
from churn_platform.stream.lease import Lease
from churn_platform.stream.publisher import Publisher
from churn_platform.stream.run_context import RunContext
from churn_platform.stream.scoring import ChampionFollower, load_champion_for


@dataclass(frozen=True)
class Connections:
    """What a warm run has prepared: connections to PostgreSQL and Kafka, and the model in memory."""

    lease: Lease
    admin: AdminClient
    consumer: FollowingConsumer
    publisher: Publisher
    follower: ChampionFollower
    canary: CanaryFollower
    guard: EnvironmentGuard


@contextmanager
def warm_up(run: RunContext, follower: ChampionFollower | None) -> Iterator[Connections]:
    """Connect, load the champion and make sure that this environment may publish; disconnect at the end.

    Args:
        run: the run.
        follower: the champion of an earlier tenure; None: the champion's bundle is loaded.

    Raises:
        SchemaNotRecordedError: the tables were not prepared for the customer schema.
        NoChampionError, BundleError: there is nothing to score with.
        SchemaDisagreementError: the champion cannot score events of the customer schema.
        TopicMissingError: there is nothing to read.
        EnvironmentConflictError: another environment publishes there.
    """
    config = run.config
    with ExitStack() as opened:
        lease = Lease(run)
        opened.callback(lease.release)
        require_recorded(lease.connection, config.schema)
        # Kafka clients connect while the model is loaded. Otherwise each of them would wait half a second for it.
        admin = clients.admin(config.kafka.client)
        consumer = FollowingConsumer(config.kafka, collect_seconds=run.linger)
        opened.callback(consumer.close)
        publisher = Publisher(run, environments.identify(lease.connection))
        opened.callback(publisher.release)
        if follower is None:
            champion = load_champion_for(lease.connection, config.schema)
            follower = ChampionFollower(champion, config.schema, run.log)
        gc.collect()  # takes 0.15 s: not when another run has died and its events wait
        guard = EnvironmentGuard(lease.connection, admin, config)
        opened.callback(guard.close)
        guard.claim(create_topics=True)
        topic = topics.describe(admin, config.events_topic)
        consumer.warm_up(topics.part_of(topic, run.lane))
        publisher.warm_up()
        yield Connections(lease, admin, consumer, publisher, follower, CanaryFollower(config.schema, run.log), guard)


def require_recorded(connection: psycopg.Connection, schema: CustomerSchema) -> None:
    """Check that the tables were prepared for this customer schema. 'churn db upgrade' does it, and records the schema.

    Raises:
        SchemaNotRecordedError: they may lack some of its columns.
    """
    if customer_schemas.get(connection, schema.fingerprint) is None:
        raise SchemaNotRecordedError(
            f"The database {connection.info.dbname} is not prepared for the customer schema of {schema.name} with "
            f"fingerprint {schema.fingerprint[:12]}: its tables may lack columns.",
            remedy="Run 'churn db upgrade', then start the stream again.",
        )
