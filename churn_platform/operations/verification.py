"""Every invariant of the stream, checked against Kafka and PostgreSQL as they are. It changes and stops nothing."""

import psycopg

from churn_platform.database.connections import connect
from churn_platform.operations import ledger_invariants, metrics_invariants, published_invariants
from churn_platform.operations.event_log import read_event_log
from churn_platform.operations.extracts import Progress, read_tables
from churn_platform.operations.invariant import Invariant
from churn_platform.stream.config import StreamConfig


def verify(config: StreamConfig, progress: Progress = lambda _stage, _count: None) -> list[Invariant]:
    """Check every invariant, also while the stream is live: changes meanwhile are not reported as violations.

    The published positions are looked up before the snapshot of the tables is taken, and the predictions topic is read
    after it. So everything below those positions is in both, and what only the topic holds must be in the
    tables by then.

    Args:
        config: of the stream.
        progress: called with the stage, and how many rows it has handled.

    Returns:
        Every invariant, whether it holds or not.

    Raises:
        psycopg.Error, KafkaException: a server does not answer.
        RangeLostError: the predictions topic was cut while it was read.
    """
    before = read_event_log(config)
    with connect(config.dsn, autocommit=True, application_name="churn verify") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            extract = read_tables(connection, progress)
            return [
                ledger_invariants.conservation(extract),
                ledger_invariants.rows_of_batches(extract),
                *ledger_invariants.unique(extract, progress),
                ledger_invariants.ledger_tiles(connection, config, extract, before, progress),
                ledger_invariants.log(connection, config, before),
                ledger_invariants.lag(config, extract, before),
                *metrics_invariants.hours(connection, config, progress),
                published_invariants.published(connection, config, extract, before, progress),
                metrics_invariants.high_risk(connection, config, progress),
                *ledger_invariants.singles(connection),
            ]
