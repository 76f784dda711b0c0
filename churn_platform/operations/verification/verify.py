"""Check the invariants of the stream against Kafka and PostgreSQL, without changing or stopping anything."""

import psycopg

from churn_platform.database import erased_customers
from churn_platform.database.connections import connect
from churn_platform.operations.verification import counts, ledger, published, sums
from churn_platform.operations.verification.extracts import Progress, read_tables
from churn_platform.operations.verification.invariants import Invariant
from churn_platform.stream.config import StreamConfig


def check_invariants(config: StreamConfig, progress: Progress = lambda _stage, _count: None) -> list[Invariant]:
    """Check every invariant, also while the stream is live.

    The published offsets are read before the snapshot of the tables is taken, and the predictions topic is read after
    it. So everything below those offsets is in both. Rows of messages that are only in the topic must be in the tables
    by then.

    Args:
        config: of the stream.
        progress: called with the current step and the number of rows that it has processed.

    Returns:
        All invariants, whether they hold or not.

    Raises:
        psycopg.Error, KafkaException: a server does not answer.
        RangeLostError: the predictions topic was truncated while it was read.
    """
    before = ledger.collect_kafka_status(config)
    with connect(config.dsn, autocommit=True, application_name="churn verify") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            erased_customers.hold_off(connection)
            extract = read_tables(connection, progress)
            return [
                counts.conservation(extract),
                counts.rows_of_batches(extract),
                *counts.unique(extract, progress),
                ledger.coverage(connection, config, extract, before, progress),
                ledger.log(connection, config, before),
                ledger.lag(config, extract, before),
                *sums.hours(connection, config, progress),
                published.published(connection, config, extract, before, progress),
                sums.high_risk(connection, progress),
                *sums.summaries(connection, progress),
                *sums.at_most_one(connection),
            ]
