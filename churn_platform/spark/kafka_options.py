"""Options of Spark's Kafka source: which offsets it reads, and the login to the brokers. Pure; no I/O."""

import json
from collections.abc import Callable, Mapping
from typing import Final

from churn_platform.errors import PlatformError
from churn_platform.kafka.clients import Settings

# Settings with secrets in them, which Spark's plans, logs and web pages replace: see spark.sql.redaction.options.regex.
SECRET_OPTIONS: Final = r"(?i)secret|password|token|jaas|keystore\.key"  # noqa: S105  names of options, not a password
OAUTH: Final = "OAUTHBEARER"
_OAUTH_HANDLER: Final = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler"
_LOGIN_MODULES: Final = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
    OAUTH: "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule",
}


class SparkKafkaError(PlatformError):
    """Spark cannot log in to Kafka with these settings."""


def offsets_json(topic: str, offsets: Mapping[int, int]) -> str:
    """Return offsets as the options startingOffsets and endingOffsets take them.

    Args:
        topic: name of the topic.
        offsets: by Kafka partition.
    """
    return json.dumps({topic: {str(partition): offset for partition, offset in sorted(offsets.items())}})


def source_options(
    topic: str, ranges: Mapping[int, tuple[int, int]], kafka: Mapping[str, str], *, task_events: int
) -> dict[str, str]:
    """Return the options of a batch read of exactly these ranges, committed messages only.

    Args:
        topic: name of the topic.
        ranges: offsets [start, end), by Kafka partition; none is empty.
        kafka: configuration of Java's Kafka clients.
        task_events: most offsets of one task.
    """
    return {
        **{f"kafka.{name}": value for name, value in kafka.items()},
        "kafka.isolation.level": "read_committed",
        "assign": json.dumps({topic: sorted(ranges)}),
        "startingOffsets": offsets_json(topic, {partition: start for partition, (start, _) in ranges.items()}),
        "endingOffsets": offsets_json(topic, {partition: end for partition, (_, end) in ranges.items()}),
        "failOnDataLoss": "true",
        "maxRecordsPerPartition": str(task_events),
    }


def java_client(settings: Settings, *, read: Callable[[str], str]) -> dict[str, str]:
    """Return librdkafka's settings as those of Java's clients. Certificates are copied, so executors need no files.

    Args:
        settings: as Settings.kafka_client returns them.
        read: returns the text of a PEM file.

    Raises:
        SparkKafkaError: the login has no equivalent here.
    """
    given = {name: str(value) for name, value in settings.items()}
    found = {
        "bootstrap.servers": given["bootstrap.servers"],
        "security.protocol": given.get("security.protocol", "PLAINTEXT"),
    }
    if "sasl.mechanism" in given:
        found |= _login(given, read)
    if "ssl.ca.location" in given:
        found |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": read(given["ssl.ca.location"])}
    if "ssl.certificate.location" in given and "ssl.key.location" in given:
        found |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": read(given["ssl.certificate.location"]),
            "ssl.keystore.key": read(given["ssl.key.location"]),
        }
    return found


def _login(given: Mapping[str, str], read: Callable[[str], str]) -> dict[str, str]:
    """Return the settings of a login.

    Raises:
        SparkKafkaError: it has no equivalent here.
    """
    mechanism = given["sasl.mechanism"]
    if mechanism not in _LOGIN_MODULES:
        raise SparkKafkaError(
            f"KAFKA_SASL_MECHANISM is {mechanism}, with which Spark cannot log in: expected "
            f"{', '.join(_LOGIN_MODULES)}, or no SASL.",
            remedy="Score this batch without Spark, or give the platform a login with one of these mechanisms.",
        )
    found = {"sasl.mechanism": mechanism}
    if mechanism != OAUTH:
        options = {name: given.get(f"sasl.{name}", "") for name in ("username", "password")}
    else:
        options = _oauth_options(given, read)
        found["sasl.login.callback.handler.class"] = _OAUTH_HANDLER
        found["sasl.oauthbearer.token.endpoint.url"] = given["sasl.oauthbearer.token.endpoint.url"]
    texts = " ".join(f"{name}={_quoted(value)}" for name, value in options.items())
    return {**found, "sasl.jaas.config": f"{_LOGIN_MODULES[mechanism]} required {texts};"}


def _oauth_options(given: Mapping[str, str], read: Callable[[str], str]) -> dict[str, str]:
    """Return the options of a login with tokens that an OAuth server issues."""
    options = {
        "clientId": given["sasl.oauthbearer.client.id"],
        "clientSecret": given["sasl.oauthbearer.client.secret"],
    }
    if "sasl.oauthbearer.scope" in given:
        options["scope"] = given["sasl.oauthbearer.scope"]
    for extension in filter(None, given.get("sasl.oauthbearer.extensions", "").split(",")):
        name, _, value = extension.strip().partition("=")
        options[f"extension_{name}"] = value
    if "https.ca.location" in given:
        options |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": read(given["https.ca.location"])}
    return options


def _quoted(text: str) -> str:
    """Return a value as JAAS reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
