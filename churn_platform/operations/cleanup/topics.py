"""The user's own Kafka: the topics that the platform created, its consumer group and its claims."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from churn_platform.database import environments, stream_positions
from churn_platform.database.connections import connect
from churn_platform.environments.claims import Claim, Claims, Kind
from churn_platform.kafka import clients, topics
from churn_platform.kafka.clients import request_seconds, translate_kafka_errors
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.operations.cleanup.database import SESSION
from churn_platform.operations.cleanup.plan import CleanError, Findings, Item, Kept, Report, Writer
from churn_platform.settings import Settings
from churn_platform.stream.config import StreamConfig

GROWTH_SECONDS: Final = 1.0  # a topic that grows within this time has a producer
DELETION_SECONDS: Final = 30
PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Records:
    """Records of the database: topics that the platform created, name by id; topics that it has read; its environment.

    Without a database, or before anything was claimed, there is no environment.
    """

    created: Mapping[str, str]
    read: frozenset[str]
    environment: str | None


class Topics:
    """The topics that the settings name, and others that the database has a record of."""

    def __init__(
        self, settings: Settings, bootstrap_servers: str, database: Callable[[], AbstractContextManager[str | None]]
    ) -> None:
        """Name the brokers.

        Args:
            settings: name the topics and the group, and how to connect.
            bootstrap_servers: the brokers.
            database: yields the connection string of the database with the records, which is up during the block;
                None if there is no database, and so no record.
        """
        self._settings = settings
        self._brokers = bootstrap_servers
        self._database = database
        self._place = f"Kafka {bootstrap_servers}"
        self._ours: list[topics.Topic] = []
        self._ends: list[int] = []
        self._ends_read_at = 0.0
        self._has_group = False
        self._claimed: list[Claim] = []

    @property
    def word(self) -> str:
        """The brokers' address."""
        return self._brokers

    @contextmanager
    def _admin(self) -> Iterator[AdminClient]:
        admin = clients.admin(self._settings.with_servers(kafka=self._brokers).kafka_client)
        with translate_kafka_errors(admin):
            yield admin

    def _claims(self, admin: AdminClient) -> Claims:
        there = self._settings.with_servers(kafka=self._brokers, postgres="")  # no database is read
        return Claims(admin, StreamConfig.from_settings(there))

    def collect(self, report: Report) -> Findings:
        """Return the topics whose id has a record. A topic that somebody else has recreated has another id.

        What another environment claims or reads is kept, whoever created it.

        Raises:
            CleanError: the login may not read the records.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
            psycopg.OperationalError: the database with the records does not answer.
        """
        report(f"Listing the topics of {self._place}")
        found = Findings()
        with self._database() as dsn:
            records = _records(dsn)
        with self._admin() as admin, self._claims(admin) as claims:
            claims.read()
            self._ours = []
            named = {self._settings.topics.events, self._settings.topics.predictions, self._settings.topics.outcomes}
            for name in sorted(named | set(records.created.values())):
                try:
                    topic = topics.describe(admin, name)
                except TopicMissingError:
                    continue
                reason = _used_by_others(claims, topic.topic_id, records.environment)
                if reason is None and topic.topic_id in records.created:
                    self._ours.append(topic)
                else:
                    reason = reason or "there is no record that the platform created it"
                    found.kept.append(Kept(self._place, f"topic {name}", reason))
            self._ends = [_end(admin, topic) for topic in self._ours]
            self._ends_read_at = time.monotonic()
            found.items = [
                Item(self._place, f"topic {topic.name}", f"{end:,} offsets in {len(topic.partitions)} partitions")
                for topic, end in zip(self._ours, self._ends, strict=True)
            ]
            self._collect_group(admin, claims, records, found)
            self._collect_claims(claims, records, found)
        return found

    def _collect_group(self, admin: AdminClient, claims: Claims, records: Records, found: Findings) -> None:
        """Add the group. It is the platform's if it claims it and has read all topics with committed offsets."""
        group = self._settings.stream.group
        committed = _topics_of(admin, group)
        holder = claims.holder(Kind.GROUP, group)
        ours = holder is not None and holder.environment == records.environment
        self._has_group = bool(committed) and committed <= records.read and ours
        if self._has_group:
            found.items.append(Item(self._place, f"consumer group {group}", "the published offsets"))
        elif committed:
            if holder is not None and not ours:
                reason = f"it belongs to environment {holder.environment} ({holder.environment_name})"
            elif committed <= records.read:
                reason = "this environment does not claim it"
            else:
                names = ", ".join(sorted(committed))
                reason = f"it has offsets of {names}, and there is no record that this platform read them"
            found.kept.append(Kept(self._place, f"consumer group {group}", reason))

    def _collect_claims(self, claims: Claims, records: Records, found: Findings) -> None:
        """Add the claims. They are withdrawn, so that other environments can claim the same; their topic is kept."""
        topic = self._settings.topics.claims
        self._claimed = claims.of(records.environment) if records.environment is not None else []
        if self._claimed:
            names = ", ".join(sorted({f"{claim.kind} {claim.name}" for claim in self._claimed}))
            found.items.append(Item(self._place, f"claims of environment {records.environment}", names))
        if claims.topic_id is not None:
            found.kept.append(
                Kept(self._place, f"topic {topic}", "it holds the claims of every environment of this Kafka")
            )

    def writers(self) -> list[Writer]:
        """Return producers, whose topics have grown since `collect`, and consumers of the platform's group.

        Raises:
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        with self._admin() as admin:
            return [*self._producers(admin), *self._members(admin)]

    def _producers(self, admin: AdminClient) -> list[Writer]:
        if not self._ours:
            return []
        time.sleep(max(0.0, GROWTH_SECONDS - (time.monotonic() - self._ends_read_at)))
        return [
            Writer(f"a producer to the topic {topic.name} of {self._place}", "stop that producer")
            for topic, before in zip(self._ours, self._ends, strict=True)
            if _end(admin, topic) > before
        ]

    def _members(self, admin: AdminClient) -> list[Writer]:
        """Return the members of the group. They are not the platform's. Kafka cannot delete a group with members."""
        group = self._settings.stream.group
        if not self._has_group:
            return []
        described = admin.describe_consumer_groups([group])[group].result()
        return [
            Writer(f"the consumer {member.client_id!r} on {member.host}, a member of the group {group}", "stop it")
            for member in described.members
        ]

    def check_deletable(self) -> None:
        """Do nothing, because Kafka cannot check whether a topic could be deleted."""

    def delete(self, report: Report) -> None:
        """Delete the topics that `collect` found, wait for it, delete the group, and withdraw the claims.

        Raises:
            CleanError: the brokers refuse; what was deleted until then stays deleted.
        """
        with self._admin() as admin:
            for topic in self._ours:
                report(f"Deleting the topic {topic.name}")
                _finish(admin.delete_topics([topic.name])[topic.name].result, f"the topic {topic.name}", "Delete on it")
                _wait_until_gone(admin, topic.name)
            if self._has_group:
                group = self._settings.stream.group
                _finish(admin.delete_consumer_groups([group])[group].result, f"the group {group}", "Delete on it")
            with self._claims(admin) as claims:
                claims.write(withdrawn=self._claimed)


def _used_by_others(claims: Claims, topic_id: str, own: str | None) -> str | None:
    """Return why a topic is kept: another environment publishes to it or reads it. None if none does."""
    for kind, does in ((Kind.TOPIC, "publishes to"), (Kind.READER, "reads")):
        for claim in claims.all_of(kind, topic_id):
            if claim.environment != own:
                return f"environment {claim.environment} ({claim.environment_name}) {does} it"
    return None


def _records(dsn: str | None) -> Records:
    nothing = Records({}, frozenset(), None)
    if dsn is None:
        return nothing
    with connect(dsn, autocommit=True, connect_timeout=10, application_name=SESSION) as connection:
        try:
            read = stream_positions.known_topics(connection)
            environment = environments.find_id(connection)
            return Records(environments.created_topics(connection), frozenset(read), environment)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CleanError(
                f"The login {connection.info.user!r} may not read the platform's tables: {error.diag.message_primary}.",
                remedy="Set DATABASE_OWNER_URL to a login that may read and delete the platform's tables.",
            ) from error
        except psycopg.errors.UndefinedTable:  # dropped, or never created
            return nothing


def _end(admin: AdminClient, topic: topics.Topic) -> int:
    return sum(topics.list_offsets(admin, topic, topics.LATEST).values())


def _topics_of(admin: AdminClient, group: str) -> set[str]:
    """Return the names of the topics of a group's committed offsets; none if there is no such group."""
    futures = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    return {each.topic for each in futures[group].result().topic_partitions or ()}


def _finish(wait: Callable[[], object], what: str, right: str) -> None:
    try:
        wait()
    except KafkaException as error:
        code = error.args[0].code()
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND):
            return  # already deleted
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise CleanError(
                f"Kafka refused this client to delete {what}.", remedy=f"Give it the right {right}."
            ) from error
        raise CleanError(
            f"Kafka did not delete {what}: {error.args[0].str()}.",
            remedy="Correct the cause and run the command again.",
        ) from error


def _wait_until_gone(admin: AdminClient, name: str) -> None:
    deadline = time.monotonic() + DELETION_SECONDS
    while name in admin.list_topics(timeout=request_seconds(admin)).topics:
        if time.monotonic() > deadline:
            raise CleanError(
                f"Kafka accepted the deletion of the topic {name}, but still lists it after {DELETION_SECONDS} s.",
                remedy="Wait, and run the command again.",
            )
        time.sleep(PAUSE_SECONDS)
