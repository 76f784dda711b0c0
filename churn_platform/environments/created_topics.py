"""Creation of the platform's topics, and the record of those that it created: it may delete only these."""

import psycopg
from confluent_kafka.admin import AdminClient

from churn_platform.database import environments
from churn_platform.database.connections import connect
from churn_platform.environments.config import EnvironmentConfig
from churn_platform.environments.exceptions import DatabaseNotMigratedError
from churn_platform.kafka import topics


def create_missing(admin: AdminClient, config: EnvironmentConfig, *names: str) -> list[str]:
    """Create topics that do not exist, and record that the platform created them.

    Topics that exist are left as they are. If all of them exist, neither the right to create topics nor a
    database is needed.

    Args:
        admin: client of the brokers.
        config: how many partitions and replicas a new topic has, and where it is recorded.
        names: names of the topics; without any, the events and predictions topics.

    Returns:
        Names of the topics created.

    Raises:
        BrokerRefusedError, BrokersUnreachableError: see clients.translate_kafka_errors().
        DatabaseNotMigratedError: the database has no table to record them in; nothing was created.
    """
    wanted = names or (config.events_topic, config.predictions_topic)
    if not topics.missing(admin, wanted):
        return []
    with connect(config.dsn, autocommit=True, application_name="churn topics") as connection:
        try:
            environments.created_topics(connection)
        except psycopg.errors.UndefinedTable as error:
            raise DatabaseNotMigratedError(
                "Topics that the platform creates are recorded in the table created_topics, which the database does "
                "not have.",
                remedy="Apply the migrations first: 'churn db upgrade'.",
            ) from error
        created = topics.create_missing(admin, config.kafka, wanted)
        for name in created:
            environments.record_created_topic(
                connection, topic_id=topics.describe_new(admin, name).topic_id, topic=name
            )
    return created
