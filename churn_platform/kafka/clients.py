"""Kafka clients: how each is made, and what it means when the brokers refuse one or cannot be reached."""

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from churn_platform.kafka.exceptions import (
    BrokerRefusedError,
    BrokersUnreachableError,
    KafkaAccessError,
    KafkaSettingsError,
)

Setting = str | int | float | bool
Settings = Mapping[str, Setting]

# An error that repeats is reported once in 30 s.
REMEMBERED_SECONDS: Final = 60
REMEMBERED: Final = 20
# To find out why a client was refused takes one attempt.
ASKING_SECONDS: Final = 3

_AUTHENTICATION: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
# What a user has to be allowed, by the error that says that he is not.
_RIGHTS: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "to describe and read EVENTS_TOPIC, and OUTCOMES_TOPIC where there is one, "
    "and to describe, read and write PREDICTIONS_TOPIC and CLAIMS_TOPIC; who sends events has to write EVENTS_TOPIC",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "to read and describe the group STREAM_GROUP",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "to write and describe the transactional id <STREAM_GROUP>-0",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "to create EVENTS_TOPIC, PREDICTIONS_TOPIC and CLAIMS_TOPIC where they "
    "do not exist, or somebody else has to create them",
}
_SILENCE: Final = frozenset(
    {KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT}
)
_UNREACHABLE: Final = frozenset({KafkaError._TRANSPORT, KafkaError._RESOLVE})
_WHERE_IT_STOOD: Final = re.compile(r" \(after \d+ms in state [^)]*\)")


class ErrorHistory:
    """What one client's brokers complained of lately: librdkafka tells a callback, and its caller of a timeout."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._heard: deque[tuple[float, KafkaError]] = deque(maxlen=REMEMBERED)

    def __call__(self, error: KafkaError) -> None:
        """Remember an error; librdkafka's error_cb."""
        self._heard.append((time.monotonic(), error))

    def cause(self, error: KafkaError) -> KafkaError:
        """What lies behind an error: what says why goes before what says that nobody answers."""
        if error.code() not in _SILENCE | _UNREACHABLE:
            return error
        since = time.monotonic() - REMEMBERED_SECONDS
        recent = [heard for moment, heard in self._heard if moment >= since]
        refusals = [heard for heard in recent if heard.code() in _AUTHENTICATION or _is_of_tls(heard)]
        connections = [heard for heard in recent if heard.code() in _UNREACHABLE]
        return (refusals or connections or [error])[-1]


def _configuration(settings: Settings, complaints: ErrorHistory) -> dict[str, Any]:
    return {**settings, "error_cb": complaints}


class Admin(AdminClient):
    """An admin client that remembers complaints. Its log is silent: what it would say is raised."""

    def __init__(self, settings: Settings) -> None:
        self.complaints = ErrorHistory(settings)
        super().__init__({**_configuration(settings, self.complaints), "log_level": 2})


class DiagnosticConsumer(Consumer):
    """A consumer that remembers complaints."""

    def __init__(self, settings: Settings) -> None:
        self.complaints = ErrorHistory(settings)
        super().__init__(_configuration(settings, self.complaints))


class DiagnosticProducer(Producer):
    """A producer that remembers complaints."""

    def __init__(self, settings: Settings) -> None:
        self.complaints = ErrorHistory(settings)
        super().__init__(_configuration(settings, self.complaints))


Client = Admin | DiagnosticConsumer | DiagnosticProducer


def admin(settings: Settings) -> Admin:
    """An admin client. Keep it until its futures are done: they end with it.

    Raises:
        KafkaSettingsError: librdkafka cannot make one of these settings.
    """
    with _made_of(settings):
        return Admin(settings)


def consumer(settings: Settings) -> DiagnosticConsumer:
    """A consumer.

    Raises:
        KafkaSettingsError: librdkafka cannot make one of these settings.
    """
    with _made_of(settings):
        return DiagnosticConsumer(settings)


def producer(settings: Settings) -> DiagnosticProducer:
    """A producer.

    Raises:
        KafkaSettingsError: librdkafka cannot make one of these settings.
    """
    with _made_of(settings):
        return DiagnosticProducer(settings)


@contextmanager
def translate_kafka_errors(spoken_to: AdminClient | Consumer | Producer | Settings) -> Iterator[None]:
    """Say in words why brokers refuse a client or do not answer; other errors pass as they are.

    Args:
        spoken_to: a client of this module; or the settings of those that the block makes.

    Raises:
        BrokerRefusedError: wrong password, certificate or rights.
        BrokersUnreachableError: no broker answers at the address.
    """
    try:
        yield
    except KafkaException as error:
        named = named_error(spoken_to, error.args[0])
        if named is None:
            raise
        raise named from error


def named_error(spoken_to: AdminClient | Consumer | Producer | Settings, error: KafkaError) -> KafkaAccessError | None:
    """The error in words; None where it is neither a refusal nor silence. See translate_kafka_errors()."""
    if isinstance(spoken_to, Client):
        spoken_to.poll(0)  # hands over what the callback has not been told yet
        return _in_words(spoken_to.complaints.cause(error), spoken_to.complaints.settings)
    return _asked_again(spoken_to, error) if isinstance(spoken_to, Mapping) else None


def group_refusal(settings: Settings, group: str) -> KafkaAccessError | None:
    """Why the brokers refuse a client this group; None where they do not.

    A consumer without rights on its group is not told: it looks for the group's coordinator until its time is over.
    """
    asked = admin(settings)
    try:
        asked.describe_consumer_groups([group], request_timeout=ASKING_SECONDS)[group].result()
    except KafkaException as error:
        named = named_error(asked, error.args[0])
        return named if isinstance(named, BrokerRefusedError) else None
    return None


def _asked_again(settings: Settings, error: KafkaError) -> KafkaAccessError | None:
    """What another client of these settings is told, where the error does not say why."""
    if error.code() not in _SILENCE | _UNREACHABLE | {KafkaError._INVALID_ARG}:
        return _in_words(error, settings)
    try:
        asked = admin(settings)
        with translate_kafka_errors(asked):
            asked.list_topics(timeout=ASKING_SECONDS)
    except KafkaAccessError as named:
        return named
    return _in_words(error, settings)


def _in_words(error: KafkaError, settings: Settings) -> KafkaAccessError | None:
    code, cause = error.code(), _WHERE_IT_STOOD.sub("", error.str()).rstrip(".")
    brokers, who = settings.get("bootstrap.servers"), _who(settings)
    if code in _AUTHENTICATION:
        return BrokerRefusedError(
            f"Kafka at {brokers} refused {who}: {cause}.",
            remedy="Check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM.",
        )
    if _is_of_tls(error):
        return BrokerRefusedError(
            f"No TLS connection to Kafka at {brokers} for {who}: {cause}.",
            remedy="Check KAFKA_SSL_CA_LOCATION (the CA that signed the brokers' certificate), "
            "KAFKA_SECURITY_PROTOCOL and, where brokers ask for a client's, KAFKA_SSL_CERTIFICATE_LOCATION and "
            "KAFKA_SSL_KEY_LOCATION.",
        )
    if code in _RIGHTS:
        return BrokerRefusedError(
            f"Kafka at {brokers} refused {who}: {cause}.",
            remedy=f"Give that user the right, or set KAFKA_SASL_USERNAME to another: it has {_RIGHTS[code]}.",
        )
    if code in _SILENCE | _UNREACHABLE:
        return BrokersUnreachableError(
            f"Kafka at {brokers} does not answer {who}: {cause}.",
            remedy="Check KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL: a broker that wants TLS or a password "
            "hangs up on a client that comes without. 'churn status' shows whether it is up.",
        )
    return None


def _is_of_tls(error: KafkaError) -> bool:
    """A broker's own alert, that it wants a certificate, comes as a failure of the transport."""
    return error.code() == KafkaError._SSL or (error.code() == KafkaError._TRANSPORT and "SSL routines" in error.str())


def _who(settings: Settings) -> str:
    if "SASL" in str(settings.get("security.protocol")) and "sasl.username" in settings:
        return f"user {settings['sasl.username']!r}"
    if "ssl.certificate.location" in settings:
        return f"the client with certificate {settings['ssl.certificate.location']}"
    return "a client without a user"


@contextmanager
def _made_of(settings: Settings) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaSettingsError(
            f"No client can be made for Kafka at {settings.get('bootstrap.servers')}: {error.args[0].str()}.",
            remedy="Check KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_* and KAFKA_SSL_*: is one missing, or a file not there "
            "or no PEM?",
        ) from error
