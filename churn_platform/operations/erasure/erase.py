"""Erase one customer everywhere, and say what is left.

The steps are in an order in which an interruption at any point is harmless: each can be repeated, and the first one
adds the customer to the list that keeps the stream from storing new rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg

from churn_platform.database import advisory_locks, dagster_documents, dagster_tables, erasures
from churn_platform.database.connections import connect
from churn_platform.kafka import clients
from churn_platform.operations.erasure import (
    archived,
    dagster_metadata,
    erased_list,
    kafka_topics,
    stored_files,
    tables,
)
from churn_platform.operations.erasure.config import ErasureConfig
from churn_platform.operations.erasure.mentions import Mentions
from churn_platform.operations.erasure.report import Remains, Report
from churn_platform.operations.exceptions import ErasureError

SESSION = "churn erasure"
Progress = Callable[[str], None]


def plan(config: ErasureConfig, customer_id: int | str, progress: Progress = lambda _: None) -> Report:
    """Return how much each place holds about a customer, and what an erasure would not reach. Nothing is changed.

    Raises:
        psycopg.Error, KafkaException: a server does not answer.
    """
    environment = config.environment
    mentions = Mentions(environment.schema, customer_id)
    with connect(environment.dsn, autocommit=True, application_name=SESSION) as connection:
        progress("Reading the archive")
        event_ids = [str(row["event_id"]) for row in archived.read(config.artifacts_root, customer_id)]
        progress("Reading the tables")
        counts = tables.count(connection, environment.schema, customer_id, event_ids=event_ids)
        counts["archive"] = len(event_ids)
        progress("Reading files")
        counts |= {f"file {file.uri}": len(file.rows) for file in stored_files.find(config.artifacts_root, mentions)}
        progress("Reading Dagster's metadata")
        counts["Dagster's metadata"] = sum(count for _, _, count in dagster_metadata.find(connection, mentions))
        return Report(counts, _remaining(connection, config))


def erase(
    config: ErasureConfig, customer_id: int | str, *, erased_by: str, progress: Progress = lambda _: None
) -> Report:
    """Erase a customer. It can be repeated at any time, also after it was killed.

    Args:
        config: where to look.
        customer_id: of the type that the customer schema says.
        erased_by: who does it, for the audit trail.
        progress: called with the current step.

    Raises:
        ErasureError: something held off the erasure, or the artifacts have the erased customers of another database,
            and nothing was changed; or it is not complete.
        psycopg.Error, KafkaException: a server does not answer. Repeat it.
    """
    environment = config.environment
    mentions = Mentions(environment.schema, customer_id)
    with connect(environment.dsn, autocommit=True, application_name=SESSION) as connection:
        # A database that was restored to an earlier state lacks later erasures. Only this file has them.
        erased_list.restore(connection, config.artifacts_root)
        with _no_archiving(connection):
            progress("Reading the archive")
            rows = archived.separate(connection, customer_id)
            progress("Erasing rows")
            number, counts = tables.erase(
                connection,
                environment.schema,
                customer_id,
                erased_by=erased_by,
                archived=rows,
            )
            progress("Deleting former files of the archive")
            archived.remove_former(connection, config.artifacts_root, customer_id)
        erased_list.save(connection, config.artifacts_root)
        progress("Rewriting files")
        for file in stored_files.find(config.artifacts_root, mentions):
            stored_files.erase(file, mentions)
            counts[f"file {file.uri}"] = len(file.rows)
        progress("Erasing Dagster's metadata")
        counts["Dagster's metadata"] = dagster_metadata.erase(connection, mentions)
        counts["tombstones"] = kafka_topics.send_tombstone(clients.admin(environment.kafka.client), config, customer_id)
        erasures.finish(connection, number, _without_paths(counts))
        return Report(counts, _remaining(connection, config), number)


@contextmanager
def _no_archiving(connection: psycopg.Connection) -> Iterator[None]:
    with advisory_locks.archive_lock(connection) as held:
        if not held:
            raise ErasureError(
                "Nothing was erased: predictions are being archived, or another customer is being erased.",
                remedy="Wait until the run of maintenance_job or the other command has ended, and repeat this one.",
            )
        yield


def _remaining(connection: psycopg.Connection, config: ErasureConfig) -> list[Remains]:
    """Return what an erasure does not reach, and until when."""
    admin = clients.admin(config.environment.kafka.client)
    found = list(kafka_topics.remaining(admin, config, now=datetime.now(UTC)))
    found.append(
        Remains(
            f"customers file {config.customers}",
            "It belongs to you. Remove the customer there, too: until then, each reading leaves the customer out.",
        )
    )
    found.append(
        Remains(
            "features without ids, from the training data",
            "Rows without ids are in the tables of features (imputed_features to test_features), until the next "
            "data_preparation_job replaces these, and in MLflow, in the input examples of earlier models.",
        )
    )
    found.append(
        Remains(
            "backups, exports, and reports of restores",
            "The platform does not know where they are. After a restore, run 'churn customer erase-again', and delete "
            "the rolled-back-*.json in CHURN_LOCAL when you have read it: it names customers with cases.",
        )
    )
    if not dagster_documents.exist(connection):
        found.append(
            Remains("your own Dagster instance", "Its storage is not in this database, so its previews were not read.")
        )
        return found
    found.extend(
        Remains(
            f"run {run_id} of {job}",
            "It was running, and may write what it had read before. Repeat the command when it has ended.",
        )
        for run_id, job, _ in dagster_tables.unfinished_runs(connection)
        if job != dagster_tables.STREAM_JOB
    )
    return found


def _without_paths(counts: dict[str, int]) -> dict[str, int]:
    """Return counts with one entry for all files."""
    of_files = sum(count for place, count in counts.items() if place.startswith("file "))
    return {**{place: count for place, count in counts.items() if not place.startswith("file ")}, "files": of_files}
