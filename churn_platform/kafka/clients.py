"""Kafka clients: how each is created, and errors that explain why brokers refuse one or cannot be reached."""

import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from churn_platform.kafka import msk_iam
from churn_platform.kafka.exceptions import (
    BrokerRefusedError,
    BrokersUnreachableError,
    KafkaAccessError,
    KafkaSettingsError,
)

# librdkafka would print to stderr itself, in a form of its own. It hands over messages when the client is polled.
_log = logging.getLogger("churn.kafka")

Setting = str | int | float | bool
Settings = Mapping[str, Setting]

# librdkafka reports a repeating error only once in 30 s.
ERROR_HISTORY_SECONDS: Final = 60
ERROR_HISTORY_SIZE: Final = 20
# A broker that has just started has no producer ids and is loading its transaction log. librdkafka logs each retry as a
# warning, although all is well. What fails for good is raised or reported to the callback of the message.
PRODUCER_LOG_LEVEL: Final = 3
# Time-out of one attempt to find out why a client was refused.
DIAGNOSIS_SECONDS: Final = 3
# Default time-out of a request about topics.
REQUEST_SECONDS: Final = 10.0

_AUTHENTICATION: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
# The rights that a user needs, by the error that reports a missing one.
_RIGHTS: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "to describe and read EVENTS_TOPIC, and OUTCOMES_TOPIC where there is one, "
    "and to describe, read and write PREDICTIONS_TOPIC and CLAIMS_TOPIC; an event producer has to write EVENTS_TOPIC",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "to read and describe the group STREAM_GROUP",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "to write and describe the transactional ids <STREAM_GROUP>-0 "
    "and up, one for each of LANES",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "to create EVENTS_TOPIC, PREDICTIONS_TOPIC and CLAIMS_TOPIC where they "
    "do not exist, or somebody else has to create them",
}
# What to check if a login is refused, by its mechanism.
_LOGINS: Final = {
    "OAUTHBEARER": "Check KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_CLIENT_SECRET and "
    "KAFKA_OAUTH_SCOPE, and that the brokers trust the tokens of that server.",
    msk_iam.MECHANISM: "Allow the AWS credentials kafka-cluster:Connect on the cluster, and check AWS_DEFAULT_REGION.",
}
_NO_ANSWER: Final = frozenset(
    {KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT}
)
_UNREACHABLE: Final = frozenset({KafkaError._TRANSPORT, KafkaError._RESOLVE})
_CLIENT_STATE: Final = re.compile(r" \(after \d+ms in state [^)]*\)")


class ErrorHistory:
    """The latest errors of one client. librdkafka reports causes to a callback, and its caller gets only a time-out."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._errors: deque[tuple[float, KafkaError]] = deque(maxlen=ERROR_HISTORY_SIZE)

    def __call__(self, error: KafkaError) -> None:
        """Record an error. librdkafka calls this as its error_cb."""
        self._errors.append((time.monotonic(), error))

    def latest(self) -> float:
        """Return when the latest error occurred, in seconds of time.monotonic(); -infinity if none is remembered."""
        return self._errors[-1][0] if self._errors else -math.inf

    def cause(self, error: KafkaError) -> KafkaError:
        """Return the most specific cause: a refusal, else a failed connection, else the error itself."""
        if error.code() not in _NO_ANSWER | _UNREACHABLE:
            return error
        since = time.monotonic() - ERROR_HISTORY_SECONDS
        recent = [each for moment, each in self._errors if moment >= since]
        refusals = [each for each in recent if each.code() in _AUTHENTICATION or _is_tls_error(each)]
        connections = [each for each in recent if each.code() in _UNREACHABLE]
        return (refusals or connections or [error])[-1]


def _configuration(settings: Settings, errors: ErrorHistory) -> dict[str, Any]:
    """Return what librdkafka accepts. Settings are plain values, and tokens of AWS need a callback.

    Raises:
        KafkaSettingsError: there are no AWS credentials.
    """
    configuration: dict[str, Any] = {**settings, "error_cb": errors}
    if configuration.get("sasl.mechanism") == msk_iam.MECHANISM:
        region, profile = configuration.pop(msk_iam.REGION), configuration.pop(msk_iam.PROFILE, None)
        configuration["sasl.mechanism"] = "OAUTHBEARER"
        configuration["oauth_cb"] = msk_iam.token_source(str(region), None if profile is None else str(profile))
    return configuration


class Admin(AdminClient):
    """An admin client that remembers its errors. It logs nothing, because its errors are raised."""

    def __init__(self, settings: Settings) -> None:
        self.errors = ErrorHistory(settings)
        super().__init__({**_configuration(settings, self.errors), "log_level": 2})


class DiagnosticConsumer(Consumer):
    """A consumer that remembers its errors."""

    def __init__(self, settings: Settings) -> None:
        self.errors = ErrorHistory(settings)
        super().__init__(_configuration(settings, self.errors), logger=_log)


class DiagnosticProducer(Producer):
    """A producer that remembers its errors. It logs errors and no warnings: see PRODUCER_LOG_LEVEL."""

    def __init__(self, settings: Settings) -> None:
        self.errors = ErrorHistory(settings)
        level = min(int(settings.get("log_level", PRODUCER_LOG_LEVEL)), PRODUCER_LOG_LEVEL)
        super().__init__({**_configuration(settings, self.errors), "log_level": level}, logger=_log)


Client = Admin | DiagnosticConsumer | DiagnosticProducer
ProducerFactory = Callable[[Settings], DiagnosticProducer]


def admin(settings: Settings) -> Admin:
    """Create an admin client. Keep a reference to it until its futures are done, because they end with it.

    Raises:
        KafkaSettingsError: librdkafka rejects one of these settings.
    """
    with _rejected_settings(settings):
        return Admin(settings)


def consumer(settings: Settings) -> DiagnosticConsumer:
    """Create a consumer.

    Raises:
        KafkaSettingsError: librdkafka rejects one of these settings.
    """
    with _rejected_settings(settings):
        return DiagnosticConsumer(settings)


def producer(settings: Settings) -> DiagnosticProducer:
    """Create a producer.

    Raises:
        KafkaSettingsError: librdkafka rejects one of these settings.
    """
    with _rejected_settings(settings):
        return DiagnosticProducer(settings)


def request_seconds(client: AdminClient) -> float:
    """Return the time-out of this client's requests about topics: its `socket.timeout.ms`, or REQUEST_SECONDS."""
    milliseconds = client.errors.settings.get("socket.timeout.ms") if isinstance(client, Admin) else None
    return REQUEST_SECONDS if milliseconds is None else float(milliseconds) / 1000


@contextmanager
def translate_kafka_errors(client: AdminClient | Consumer | Producer | Settings) -> Iterator[None]:
    """Raise an error that explains why brokers refuse a client or do not answer; let other errors pass.

    Args:
        client: a client of this module; or the settings of the clients that the block creates.

    Raises:
        BrokerRefusedError: wrong password, certificate or rights.
        BrokersUnreachableError: no broker answers at the address.
    """
    try:
        yield
    except KafkaException as error:
        access_error = find_access_error(client, error.args[0])
        if access_error is None:
            raise
        raise access_error from error


def find_access_error(
    client: AdminClient | Consumer | Producer | Settings, error: KafkaError
) -> KafkaAccessError | None:
    """Return the error that explains this one; None for errors other than refusals and time-outs.

    Args: see translate_kafka_errors().
    """
    if isinstance(client, Client):
        client.poll(0)  # runs the callback for errors that are still queued
        return _access_error(client.errors.cause(error), client.errors.settings)
    return _diagnose(client, error) if isinstance(client, Mapping) else None


def group_refusal(settings: Settings, group: str) -> KafkaAccessError | None:
    """Return why the brokers refuse a client this group; None where they do not.

    A consumer without rights on its group gets no error: it looks up the group's coordinator until it times out.
    """
    client = admin(settings)
    try:
        client.describe_consumer_groups([group], request_timeout=DIAGNOSIS_SECONDS)[group].result()
    except KafkaException as error:
        access_error = find_access_error(client, error.args[0])
        return access_error if isinstance(access_error, BrokerRefusedError) else None
    return None


def _diagnose(settings: Settings, error: KafkaError) -> KafkaAccessError | None:
    """Return the error of a second client with these settings, where the first error does not give the cause."""
    if error.code() not in _NO_ANSWER | _UNREACHABLE | {KafkaError._INVALID_ARG}:
        return _access_error(error, settings)
    try:
        client = admin(settings)
        with translate_kafka_errors(client):
            client.list_topics(timeout=DIAGNOSIS_SECONDS)
    except KafkaAccessError as access_error:
        return access_error
    return _access_error(error, settings)


def _access_error(error: KafkaError, settings: Settings) -> KafkaAccessError | None:
    code, cause = error.code(), _CLIENT_STATE.sub("", error.str()).rstrip(".")
    brokers, user = settings.get("bootstrap.servers"), _user(settings)
    if code in _AUTHENTICATION:
        return BrokerRefusedError(
            f"Kafka at {brokers} refused {user}: {cause}.",
            remedy=_LOGINS.get(
                str(settings.get("sasl.mechanism")),
                "Check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM.",
            ),
        )
    if _is_tls_error(error):
        return BrokerRefusedError(
            f"No TLS connection to Kafka at {brokers} for {user}: {cause}.",
            remedy="Check KAFKA_SSL_CA_LOCATION (the CA that signed the brokers' certificate), "
            "KAFKA_SECURITY_PROTOCOL and, where brokers require a client certificate, "
            "KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION.",
        )
    if code in _RIGHTS:
        return BrokerRefusedError(
            f"Kafka at {brokers} refused {user}: {cause}.",
            remedy=f"Grant that user the right, or set KAFKA_SASL_USERNAME to one that has it. It needs the right "
            f"{_RIGHTS[code]}.",
        )
    if code in _NO_ANSWER | _UNREACHABLE:
        return BrokersUnreachableError(
            f"Kafka at {brokers} does not answer {user}: {cause}.",
            remedy="Check KAFKA_BOOTSTRAP_SERVERS, and KAFKA_SECURITY_PROTOCOL: a broker that wants TLS or a password "
            "closes the connection of a client that uses neither. 'churn status' shows whether it is up.",
        )
    return None


def _is_tls_error(error: KafkaError) -> bool:
    """Return whether an error is about TLS. A broker's own alert about a missing certificate is a transport failure."""
    return error.code() == KafkaError._SSL or (error.code() == KafkaError._TRANSPORT and "SSL routines" in error.str())


def _user(settings: Settings) -> str:
    if "SASL" in str(settings.get("security.protocol")):
        if "sasl.oauthbearer.client.id" in settings:
            return f"client {settings['sasl.oauthbearer.client.id']!r}"
        if "sasl.username" in settings:
            return f"user {settings['sasl.username']!r}"
        if settings.get("sasl.mechanism") == msk_iam.MECHANISM:
            return "the AWS credentials"
    if "ssl.certificate.location" in settings:
        return f"the client with certificate {settings['ssl.certificate.location']}"
    return "a client without a user"


@contextmanager
def _rejected_settings(settings: Settings) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaSettingsError(
            f"Cannot create a client for Kafka at {settings.get('bootstrap.servers')}: {error.args[0].str()}.",
            remedy="Check KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_*, KAFKA_OAUTH_* and KAFKA_SSL_*: is one missing, or is "
            "a file missing or not PEM?",
        ) from error
