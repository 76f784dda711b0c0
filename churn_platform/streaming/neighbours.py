"""Whether another environment is at work on the same database or topic. Two of them would not lose an event, but take
turns at the same batches or, with a database each, at the same marker.
"""

from datetime import UTC, datetime
from typing import Final

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.storage import environments, ledger
from churn_platform.streaming import topics
from churn_platform.streaming.config import StreamConfig
from churn_platform.streaming.exceptions import NotAloneError, TopicMissingError
from churn_platform.streaming.reader import make_consumer, marks

ANSWER_SECONDS: Final = 10


def require_alone(connection: psycopg.Connection, admin: AdminClient, config: StreamConfig) -> None:
    """Refuse to begin beside another environment.

    Args:
        connection: of a login that sees the names of others' sessions: the owner, or the platform's own.
        admin: of the brokers.
        config: of the stream that is to begin.

    Raises:
        NotAloneError: another is at work; it says which, and where.
        BrokerRefusedError, BrokersUnreachableError: see clients.explained().
    """
    found = [*_on_the_database(connection, config), *_on_the_topic(admin, config)]
    if found:
        raise NotAloneError(
            f"Another environment than {config.environment!r} is at work. {' '.join(found)}",
            remedy="Stop it ('churn down', 'docker compose stop', or its sensor's switch in the UI) and try again a "
            "minute later, or give this one a database and topics of its own: DATABASE_URL, EVENTS_TOPIC, "
            "PREDICTIONS_TOPIC and STREAM_GROUP.",
        )


def _on_the_database(connection: psycopg.Connection, config: StreamConfig) -> list[str]:
    database = connection.info.dbname
    at_work = environments.at_work(connection)
    if config.environment not in at_work:  # a live run that may be our own is not held against us
        holder, _ = ledger.lock_sessions(connection, config.events_topic)
        if holder is not None and not at_work:
            return [f"On the database {database!r} the session {holder!r} streams {config.events_topic!r}."]
    return [
        f"{name!r} works on the database {database!r}: its sensor looked for events {seconds:.0f} s ago."
        for name, seconds in at_work.items()
        if name != config.environment
    ]


def _on_the_topic(admin: AdminClient, config: StreamConfig) -> list[str]:
    try:
        events = topics.describe(admin, config.events_topic)
        written = topics.last_written(admin, topics.describe(admin, config.predictions_topic))
    except TopicMissingError:
        return []
    silent = float("inf") if written is None else (datetime.now(UTC) - written).total_seconds()
    if silent > environments.SILENT_SECONDS:
        return []
    consumer = make_consumer(config)
    try:
        authors = {author for _, author in marks(consumer, events, seconds=ANSWER_SECONDS).values()}
    finally:
        consumer.close()
    return [
        f"{name!r} publishes what it reads from the topic {config.events_topic!r}: predictions were written to "
        f"{config.predictions_topic!r} {silent:.0f} s ago."
        for name in sorted(authors - {config.environment, ""})
    ]
