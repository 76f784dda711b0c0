"""The claims topic: it records which environment owns what in a Kafka cluster. Every environment reads it.

It is one compacted topic with one partition, for all environments of a Kafka cluster. A record states that an
environment claims a predictions topic (by Kafka's topic id) or a consumer group, or that it reads an events topic,
which several may. A tombstone withdraws a claim. Of two claims of one resource, the one at the lower offset counts, so
two environments that start at the same moment agree on who was first. An environment writes each of its records once
and never renews it: compaction keeps the last record of a key, so a renewed claim would come after another's.

Offsets committed to a consumer group would need no topic, but Kafka deletes them after seven days without a member.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from churn_platform.environments.config import EnvironmentConfig
from churn_platform.environments.exceptions import ClaimsError
from churn_platform.kafka import clients, topics
from churn_platform.kafka.clients import translate_kafka_errors
from churn_platform.kafka.exceptions import BrokerRefusedError, TopicMissingError
from churn_platform.kafka.messages import offset_of
from churn_platform.kafka.retries import retry_on

REQUEST_SECONDS: Final = 10
POLL_SECONDS: Final = 0.1
_UNAUTHORIZED: Final = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.POLICY_VIOLATION}
)
_NOT_THERE_YET: Final = topics.LEADER_MOVING | {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION}
_log: Final = logging.getLogger(__name__)


class Kind(StrEnum):
    """What a record of the claims topic is about."""

    TOPIC = "predictions topic"
    GROUP = "consumer group"
    READER = "reads events topic"
    """Not exclusive: several environments may read one events topic."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One record: what an environment claims. `resource` is a topic's id or a group's name; `name` is for people."""

    kind: Kind
    resource: str
    name: str
    environment: str
    environment_name: str
    since: datetime

    @property
    def key(self) -> bytes:
        """Key of the record: one for each environment and resource."""
        return msgspec.json.encode([self.kind, self.resource, self.environment])


_decode: Final = msgspec.json.Decoder(Claim).decode


@dataclass(frozen=True)
class Resource:
    """Something that can be claimed."""

    kind: Kind
    resource: str
    name: str

    def claim(self, environment: str, environment_name: str) -> Claim:
        """Return the record with which an environment claims it now."""
        return Claim(
            kind=self.kind,
            resource=self.resource,
            name=self.name,
            environment=environment,
            environment_name=environment_name,
            since=datetime.now(UTC),
        )


class Claims:
    """The claims topic of one Kafka cluster. As a context manager it closes its consumer."""

    def __init__(self, admin: AdminClient, config: EnvironmentConfig) -> None:
        """Create the reader and writer of the topic; no request is sent yet.

        Args:
            admin: client of the brokers.
            config: contains the topic's name and the brokers.
        """
        self._admin = admin
        self._config = config
        self._topic: topics.Topic | None = None
        self._position = 0
        self._known: dict[bytes, tuple[int, Claim]] = {}
        self._consumer: clients.DiagnosticConsumer | None = None
        self._reading = threading.Lock()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.close()

    def close(self) -> None:
        """Close the consumer."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    @property
    def topic_id(self) -> str | None:
        """Kafka's id of the topic; None where it does not exist, or was not read yet."""
        return None if self._topic is None else self._topic.topic_id

    # Reading

    def read(self) -> None:
        """Read what was written since the last call. Without the topic there are no claims.

        Raises:
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        """
        with self._reading:
            if self._topic is None and not self._find():
                return
            consumer = self._make_consumer()
            partition = TopicPartition(self._config.claims_topic, 0)
            low, high = _watermarks(consumer, partition)
            if high < self._position:  # the topic was deleted and created again
                self._known.clear()
                self._position = 0
                self._find()
            if high == self._position:
                return
            consumer.assign([TopicPartition(self._config.claims_topic, 0, max(low, self._position))])
            try:
                self._read_up_to(high, consumer)
            finally:
                consumer.unassign()  # an assigned partition is fetched even when nobody polls

    def _find(self) -> bool:
        try:
            self._topic = topics.describe(self._admin, self._config.claims_topic)
        except TopicMissingError:
            self._topic = None
        except BrokerRefusedError as error:
            if _code_of(error) in _UNAUTHORIZED:
                raise self._unusable(error) from error
            raise
        return self._topic is not None

    def _unusable(self, refusal: BaseException) -> BrokerRefusedError:
        name = self._config.claims_topic
        cause = refusal.problem if isinstance(refusal, BrokerRefusedError) else f"{refusal.args[0].str()}."
        return BrokerRefusedError(
            f"The topic {name!r} (CLAIMS_TOPIC) is needed: it records which environment publishes to which topic. "
            f"Kafka does not let this client see it, or create it where it does not exist: {cause}",
            remedy=f"Create it with one partition and cleanup.policy=compact (kafka-topics.sh --create --topic {name} "
            f"--partitions 1 --config cleanup.policy=compact), and let this client describe, read and write it.",
        )

    def _make_consumer(self) -> clients.DiagnosticConsumer:
        if self._consumer is None:
            self._consumer = clients.consumer(
                {
                    **self._config.kafka.client,
                    "group.id": self._config.kafka.group,  # required by the client; nothing is committed
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "earliest",  # compaction may delete the first records in the meantime
                    "fetch.wait.max.ms": 10,
                }
            )
        return self._consumer

    def _read_up_to(self, end: int, consumer: clients.DiagnosticConsumer) -> None:
        deadline = time.monotonic() + REQUEST_SECONDS
        while self._position < end:
            with translate_kafka_errors(consumer):
                message = consumer.poll(POLL_SECONDS)
                if message is None:
                    if time.monotonic() > deadline:
                        raise KafkaException(
                            KafkaError(KafkaError._TIMED_OUT, f"no record of {self._config.claims_topic}")
                        )
                    continue
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
            if error is not None:
                self._position = max(self._position, offset_of(message))
            else:
                self._apply(message)
                self._position = offset_of(message) + 1

    def _apply(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if key is None:
            _log.warning("%s@%s has no key, so it is not a claim.", self._config.claims_topic, message.offset())
        elif value is None:
            self._known.pop(bytes(key), None)
        else:
            try:
                claim = _decode(value)
            except msgspec.DecodeError as error:
                _log.warning("%s@%s is not a claim: %s", self._config.claims_topic, message.offset(), error)
                return
            self._known[claim.key] = (offset_of(message), claim)

    def of(self, environment: str) -> list[Claim]:
        """Return the claims of an environment, including those that do not count."""
        return [claim for _, claim in self._known.values() if claim.environment == environment]

    def all_of(self, kind: Kind, resource: str) -> list[Claim]:
        """Return the claims of one resource; the one that counts comes first."""
        found = [(at, claim) for at, claim in self._known.values() if (claim.kind, claim.resource) == (kind, resource)]
        return [claim for _, claim in sorted(found, key=lambda each: each[0])]

    def holder(self, kind: Kind, resource: str) -> Claim | None:
        """Return the claim that counts, if there is one."""
        return next(iter(self.all_of(kind, resource)), None)

    # Writing

    def create_topic(self) -> None:
        """Create the topic if it does not exist, and make sure that Kafka keeps what is written to it.

        It is not recorded as a topic that the platform created, because other environments need it after this one is
        deleted.

        Raises:
            BrokerRefusedError: this client may not create it.
            ClaimsError: it exists, but deletes old records.
        """
        if self._topic is not None or self._find():
            self._require_compaction()
            return
        name = self._config.claims_topic
        new = NewTopic(
            name,
            num_partitions=1,
            replication_factor=self._config.kafka.replication,
            config={"cleanup.policy": "compact"},
        )
        try:
            with translate_kafka_errors(self._admin):
                self._admin.create_topics([new], request_timeout=REQUEST_SECONDS)[name].result()
        except (BrokerRefusedError, KafkaException) as error:
            code = _code_of(error)
            if code in _UNAUTHORIZED:
                raise self._unusable(error) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        self._topic = topics.describe_new(self._admin, name)

    def _require_compaction(self) -> None:
        """Refuse a topic that deletes old records. Without the right DescribeConfigs this cannot be checked."""
        topic = ConfigResource(ResourceType.TOPIC, self._config.claims_topic)
        try:
            found = self._admin.describe_configs([topic], request_timeout=REQUEST_SECONDS)[topic].result()
        except KafkaException as error:
            if error.args[0].code() in _UNAUTHORIZED:
                return
            raise
        policy = found["cleanup.policy"].value
        if policy != "compact":
            raise ClaimsError(
                f"The topic {self._config.claims_topic!r} (CLAIMS_TOPIC) has cleanup.policy={policy}, expected "
                f"compact: Kafka would delete the claims of environments.",
                remedy=f"Set it: kafka-configs.sh --alter --entity-type topics --entity-name "
                f"{self._config.claims_topic} --add-config cleanup.policy=compact.",
            )

    def write(self, claims: Iterable[Claim] = (), *, withdrawn: Iterable[Claim] = ()) -> None:
        """Write claims, then withdrawals, and wait until Kafka has acknowledged them.

        Raises:
            BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
            ClaimsError: Kafka did not accept them.
        """
        records: list[tuple[bytes, bytes | None]] = [(claim.key, msgspec.json.encode(claim)) for claim in claims]
        records += [(claim.key, None) for claim in withdrawn]
        if not records:
            return
        # All of them are sent in one request, so that no record of another environment comes between them.
        settings: Mapping[str, clients.Setting] = {
            **self._config.kafka.client,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 50,
            "message.timeout.ms": REQUEST_SECONDS * 1000,
        }
        producer = clients.producer(settings)
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        with translate_kafka_errors(producer):
            for key, value in records:
                producer.produce(self._config.claims_topic, value, key, partition=0, on_delivery=delivered)
            producer.flush(2 * REQUEST_SECONDS)
            if failures:
                raise KafkaException(failures[0])


def claimed_since(admin: AdminClient, config: EnvironmentConfig, environment: str | None) -> datetime | None:
    """Return when an environment claimed the predictions topic; None if it does not claim it.

    Args:
        admin: client of the brokers.
        config: names the topic.
        environment: id of the environment; None: the database has none yet.

    Raises:
        TopicMissingError: the predictions topic does not exist.
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
    """
    topic_id = topics.describe(admin, config.predictions_topic).topic_id
    with Claims(admin, config) as claims:
        claims.read()
        holder = claims.holder(Kind.TOPIC, topic_id)
    return None if holder is None or holder.environment != environment else holder.since


def _watermarks(consumer: clients.DiagnosticConsumer, partition: TopicPartition) -> tuple[int, int]:
    """Return the oldest offset and the end. A topic that was created just now has no leader for a moment."""

    def watermarks() -> tuple[int, int]:
        with translate_kafka_errors(consumer):
            low, high = consumer.get_watermark_offsets(partition, REQUEST_SECONDS)
        return low, high

    return retry_on(_NOT_THERE_YET, seconds=REQUEST_SECONDS)(watermarks)


def _code_of(error: BaseException) -> int | None:
    cause = error if isinstance(error, KafkaException) else error.__cause__
    return cause.args[0].code() if isinstance(cause, KafkaException) else None
