"""The guard between environments: it keeps two environments from writing to the same place.

An environment is a database, identified by a random id that is stored in it. Several environments may read one events
topic. A predictions topic, a consumer group with its transactional id, and a database belong to one environment. The
claims topic records the owners, so a claim also holds while its environment is stopped, and before it has published
anything. The database records in turn where its predictions go.

Every process that writes checks this first: streaming runs, the sensor, `churn up`, `churn prepare`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

import psycopg
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from churn_platform.database import advisory_locks, environments
from churn_platform.database.environments import Binding
from churn_platform.environments import created_topics
from churn_platform.environments.claims import Claim, Claims, Kind, Resource
from churn_platform.environments.config import EnvironmentConfig
from churn_platform.environments.exceptions import DatabaseNotMigratedError, EnvironmentConflictError
from churn_platform.environments.published_offsets import attributed_offsets, make_offsets_consumer
from churn_platform.kafka import topics
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.kafka.exceptions import TopicMissingError
from churn_platform.kafka.reading import make_consumer
from churn_platform.lanes import transactional_id

ANSWER_SECONDS: Final = 10
# Held while claims are written. Otherwise two processes of one environment could write each claim twice.
_LOCK: Final = "select pg_advisory_xact_lock(hashtextextended('claims of the environment', 0))"
EXCLUSIVE: Final = (Kind.GROUP, Kind.TOPIC)


@dataclass(frozen=True)
class Conflict:
    """Something that this environment would write to, although it belongs to another one.

    Attributes:
        problem: a sentence that names it and its owner.
        holder: id of the other environment; where the database itself is shared, the database's name.
    """

    problem: str
    holder: str


class EnvironmentGuard:
    """Checks and claims what one environment may write to. As a context manager it closes its client."""

    def __init__(self, connection: psycopg.Connection, admin: AdminClient, config: EnvironmentConfig) -> None:
        """Create the guard; no request is sent yet.

        Args:
            connection: connection to the environment's database, in autocommit. claim() also writes.
            admin: client of the brokers.
            config: configuration of the environment.
        """
        self._connection = connection
        self._admin = admin
        self._config = config
        self._claims = Claims(admin, config)
        self._resources: list[Resource] = []
        self._own: str | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.close()

    def close(self) -> None:
        """Close the client."""
        self._claims.close()

    # Checking

    def conflicts(self) -> list[Conflict]:
        """Return what this environment would write to although another one owns it. Nothing is written.

        Raises:
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        self._claims.read()
        self._resources = self._describe_resources()
        own = environments.find_id(self._connection)
        return [*self._database_conflicts(), *self._kafka_conflicts(own), *self._published_offsets_conflicts(own)]

    def check(self) -> None:
        """Refuse to write to what another environment owns. Nothing is written.

        Raises:
            EnvironmentConflictError: another one owns the topic, the group or the database.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        if found := self.conflicts():
            raise self._refusal(found)

    def check_again(self) -> None:
        """Raise an error if another environment has taken over since claim(). The check requests one offset.

        Raises:
            EnvironmentConflictError: another has taken over.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        self._claims.read()
        if found := self._kafka_conflicts(self._own):
            raise self._refusal(found)

    def require_exclusive_use(self) -> None:
        """Refuse to start while processes with another environment name use the same database.

        Raises:
            EnvironmentConflictError: another environment uses it; the error names it.
        """
        config, database = self._config, self._connection.info.dbname
        active = environments.running(self._connection)
        others = [
            f"{name!r} uses the database {database!r}: its sensor ran {seconds:.0f} s ago."
            for name, seconds in active.items()
            if name != config.environment
        ]
        if not active:  # otherwise a live run may be our own
            holder, _ = advisory_locks.lock_sessions(self._connection, config.events_topic)
            if holder is not None:
                others = [f"In the database {database!r}, the session {holder!r} streams {config.events_topic!r}."]
        if others:
            raise EnvironmentConflictError(
                f"An environment other than {config.environment!r} is running. {' '.join(others)}",
                remedy="Stop it ('churn down', 'docker compose stop', or its sensor's switch in the UI) and try again "
                "a minute later, or give this one a database and names of its own: DATABASE_URL, and CHURN_ENVIRONMENT "
                "or EVENTS_TOPIC, PREDICTIONS_TOPIC and STREAM_GROUP.",
            )

    def _describe_resources(self) -> list[Resource]:
        """Return the topics and the group. The group is first: its owner is likely to own the topic, too."""
        config = self._config
        found = [Resource(Kind.GROUP, config.kafka.group, config.kafka.group)]
        for kind, name in ((Kind.TOPIC, config.predictions_topic), (Kind.READER, config.events_topic)):
            try:
                found.append(Resource(kind, topics.describe(self._admin, name).topic_id, name))
            except TopicMissingError:  # nobody owns a topic that does not exist
                continue
        return found

    def _database_conflicts(self) -> list[Conflict]:
        bound, config, database = (
            environments.find_binding(self._connection),
            self._config,
            self._connection.info.dbname,
        )
        if bound is None:
            return []
        differences = []
        if bound.claims_topic_id != self._claims.topic_id:
            known = f"its topic {config.claims_topic!r} is not the one that the database records"
            differences.append(f"to another Kafka than the one that KAFKA_BOOTSTRAP_SERVERS names ({known})")
        if bound.predictions_topic != config.predictions_topic:
            differences.append(f"to the topic {bound.predictions_topic!r}, not {config.predictions_topic!r}")
        if bound.stream_group != config.kafka.group:
            differences.append(f"as the consumer group {bound.stream_group!r}, not {config.kafka.group!r}")
        if not differences:
            return []
        return [Conflict(f"The database {database!r} publishes {' and '.join(differences)}.", database)]

    def _kafka_conflicts(self, own: str | None) -> list[Conflict]:
        found = []
        for resource in self._resources:
            holder = self._claims.holder(resource.kind, resource.resource)
            if resource.kind in EXCLUSIVE and holder is not None and holder.environment != own:
                found.append(
                    Conflict(
                        f"{_description(resource)} belongs to environment {holder.environment} "
                        f"({holder.environment_name!r}) since {holder.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC.",
                        holder.environment,
                    )
                )
        return found

    def _published_offsets_conflicts(self, own: str | None) -> list[Conflict]:
        """Return who wrote the published offsets of an unclaimed group: the claims topic may have been deleted."""
        if self._claims.holder(Kind.GROUP, self._config.kafka.group) is not None:
            return []
        return [
            Conflict(
                f"The consumer group {self._config.kafka.group!r} holds offsets of {self._config.events_topic!r} that "
                f"environment {author} has published.",
                author,
            )
            for author in sorted(self._authors() - {own, ""})
            if author is not None
        ]

    def _authors(self) -> set[str]:
        try:
            events = topics.describe(self._admin, self._config.events_topic)
        except TopicMissingError:
            return set()
        consumer = make_offsets_consumer(self._config.kafka)
        try:
            found = attributed_offsets(consumer, events, seconds=ANSWER_SECONDS)
            return {each.environment for each in found.values()}
        finally:
            consumer.close()

    def _refusal(self, conflicts: Sequence[Conflict]) -> EnvironmentConflictError:
        own = environments.find_id(self._connection)
        this = f"This environment ({self._config.environment!r}, id {own or 'none yet'})"
        return EnvironmentConflictError(
            f"{this} may not write here. {' '.join(each.problem for each in conflicts)} Nothing was written.",
            remedy="Give this environment its own: DATABASE_URL, PREDICTIONS_TOPIC and STREAM_GROUP (EVENTS_TOPIC may "
            "be shared); a CHURN_ENVIRONMENT gives it names of its own for topics and group. If this one replaces the "
            "other (its database was lost or recreated, settings were changed on purpose, Kafka was replaced), stop "
            "the other and run 'churn stream take-over'.",
        )

    # Claiming

    def claim(self, *, create_topics: bool = False) -> str:
        """Claim what this environment writes to, unless it has claimed it already.

        Args:
            create_topics: also create the events and predictions topics if they do not exist.

        Returns:
            Id of this environment.

        Raises:
            EnvironmentConflictError: another one owns the topic, the group or the database; nothing was written.
            DatabaseNotMigratedError: the database has no tables.
            ClaimsError: the claims topic cannot be used.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        self._require_tables()
        self.check()
        if create_topics:
            created_topics.create_missing(self._admin, self._config)
        own = self._own = environments.identify(self._connection)
        self._resources = self._describe_resources()
        if self._missing(own) or environments.find_binding(self._connection) is None:
            self._write_missing(own)
        return own

    def _require_tables(self) -> None:
        if not environments.exists(self._connection):
            raise DatabaseNotMigratedError(
                f"The database {self._connection.info.dbname!r} has no table environment_identity, which identifies "
                f"the environment.",
                remedy="Apply the migrations first: 'churn db upgrade'.",
            )

    def _missing(self, own: str) -> list[Resource]:
        """Return what this environment has not claimed yet."""
        claimed = {(claim.kind, claim.resource) for claim in self._claims.of(own)}
        return [each for each in self._resources if (each.kind, each.resource) not in claimed]

    def _write_missing(self, own: str) -> None:
        self._claims.create_topic()
        with self._connection.transaction():
            self._connection.execute(_LOCK)
            self._claims.read()
            written = [each.claim(own, self._config.environment) for each in self._missing(own)]
            self._claims.write(written)
            self._claims.read()
            # Another environment may have claimed it at the same moment. The claim at the lower offset counts.
            if found := [*self._database_conflicts(), *self._kafka_conflicts(own)]:
                self._claims.write(withdrawn=written)
                raise self._refusal(found)
            environments.bind(self._connection, self._binding())

    def _binding(self) -> Binding:
        if self._claims.topic_id is None:
            raise RuntimeError("The claims topic was created and has no id.")
        return Binding(self._claims.topic_id, self._config.predictions_topic, self._config.kafka.group)

    # Taking over

    def take_over(self, *, silent_seconds: float = environments.SILENT_SECONDS) -> list[Conflict]:
        """Claim everything that this environment writes to. From then on, the former owner is refused.

        Offsets that another environment has published in the group no longer count, because they are about its
        predictions.

        Args:
            silent_seconds: nothing may have been written to the predictions topic for this long.

        Returns:
            The conflicts that existed.

        Raises:
            EnvironmentConflictError: the other environment is publishing, or uses this database.
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        self._require_tables()
        own = environments.identify(self._connection)
        found = self.conflicts()
        if not found:
            return []
        self.require_exclusive_use()
        self._require_silence(found, silent_seconds)
        self._claims.create_topic()
        with self._connection.transaction():
            self._connection.execute(_LOCK)
            self._claims.read()
            exclusive = [each for each in self._resources if each.kind in EXCLUSIVE]
            others = [
                claim
                for each in exclusive
                for claim in self._claims.all_of(each.kind, each.resource)
                if claim.environment != own
            ]
            self._claims.write(
                [each.claim(own, self._config.environment) for each in self._missing(own)], withdrawn=others
            )
            environments.bind(self._connection, self._binding(), replace=True)
        self._void_published_offsets(own)
        return found

    def _require_silence(self, conflicts: Iterable[Conflict], seconds: float) -> None:
        """Refuse while predictions are being published. They are not from this environment, because it was refused."""
        try:
            written = topics.last_written(self._admin, topics.describe(self._admin, self._config.predictions_topic))
        except TopicMissingError:
            return
        silent = float("inf") if written is None else (datetime.now(UTC) - written).total_seconds()
        if silent < seconds:
            raise EnvironmentConflictError(
                f"Predictions were written to {self._config.predictions_topic!r} {silent:.0f} s ago: the environment "
                f"that owns it is running. {' '.join(each.problem for each in conflicts)} Nothing was changed.",
                remedy=f"Stop it, and run the command again {seconds:.0f} s later.",
            )

    def _void_published_offsets(self, own: str) -> None:
        try:
            events = topics.describe(self._admin, self._config.events_topic)
        except TopicMissingError:
            return
        consumer = make_consumer(self._config.kafka)
        try:
            void = [
                TopicPartition(events.name, partition, found.offset, "")
                for partition, found in attributed_offsets(consumer, events, seconds=ANSWER_SECONDS).items()
                if found.environment != own
            ]
            if void:
                with translate_kafka_errors(consumer):
                    consumer.commit(offsets=void, asynchronous=False)
        finally:
            consumer.close()

    def others(self, kind: Kind, resource: str) -> list[Claim]:
        """Return other environments' claims of a resource, the one that counts first; after conflicts() or claim()."""
        own = environments.find_id(self._connection)
        return [claim for claim in self._claims.all_of(kind, resource) if claim.environment != own]


def _description(resource: Resource) -> str:
    if resource.kind is Kind.GROUP:
        first = transactional_id(resource.name, 0)  # further lanes have further ids
        return f"The consumer group {resource.name!r}, with its transactional id {first!r},"
    return f"The predictions topic {resource.name!r} (id {resource.resource})"
