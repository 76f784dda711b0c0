"""Reasons for high-risk predictions, written shortly after their rows.

Exact contributions cost about twenty times as much as a score. Within a commit they would halve the stream's
throughput, so a commit writes the rows without reasons. Rows whose `reasons` are null still have to be explained. After
a crash, the next run explains them.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, Self

import psycopg

from churn_platform.database import high_risk_customers, model_versions
from churn_platform.database.connections import connect
from churn_platform.database.high_risk_customers import Unexplained
from churn_platform.database.model_versions import ModelVersionError
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.features.columns import stored_columns
from churn_platform.model_store import load_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.contributions import Explainer
from churn_platform.scoring.exceptions import BundleError
from churn_platform.stream.config import StreamConfig
from churn_platform.stream.run_context import RunContext

_python_log = logging.getLogger(__name__)

# About 5 ms of work. A commit that starts meanwhile shares the processor for at most that long.
ROWS_AT_ONCE: Final = 32
# After a batch is closed, nothing else needs the processor.
ROWS_AT_ONCE_AFTER_CLOSING: Final = 512
KEPT_MODELS: Final = 3


class Explanations:
    """Explains rows that have no reasons yet, each with the model that scored it."""

    def __init__(self, schema: CustomerSchema, log: Callable[[str], None]) -> None:
        """Load no model yet.

        Args:
            schema: of the customers, whose columns the table has.
            log: writes a line to the run's log.
        """
        self._schema = schema
        self._log = log
        self._explainers: dict[int, tuple[CustomerSchema, Explainer]] = {}
        self._unreadable: list[int] = []

    def explain(self, connection: psycopg.Connection, *, most: int, batch: str | None = None) -> int:
        """Explain some rows.

        Args:
            connection: in autocommit.
            most: rows at once.
            batch: only rows of this batch.

        Returns:
            How many rows were given their reasons. 0: there are none, or others have locked them.
        """
        found = self._unexplained(connection, self._schema, most, batch)
        if not found:
            return 0
        version = found[0].model_version  # rows of one model at once; the next call explains the others
        loaded = self._explainer(connection, version)
        if loaded is None:
            return self.explain(connection, most=most, batch=batch)
        schema, explainer = loaded
        if not found[0].columns.keys() >= set(schema.feature_columns):  # the model reads columns that left the schema
            found = self._unexplained(connection, schema, most, batch)
        rows = [row for row in found if row.model_version == version]
        reasons = explainer.reasons(stored_columns(schema, [row.columns for row in rows]))
        return high_risk_customers.store_reasons(
            connection, [row.event_id for row in rows], reasons, model_version=version
        )

    def _unexplained(
        self, connection: psycopg.Connection, schema: CustomerSchema, most: int, batch: str | None
    ) -> list[Unexplained]:
        """Return rows with the columns of a schema."""
        return high_risk_customers.unexplained(
            connection, prediction_table(schema), limit=most, batch=batch, excluded_versions=self._unreadable
        )

    def _explainer(self, connection: psycopg.Connection, version: int) -> tuple[CustomerSchema, Explainer] | None:
        """Return the schema and the explainer of a version; None, and logged once, if its bundle cannot be read."""
        if version not in self._explainers:
            try:
                bundle = load_bundle(model_versions.get(connection, version).uri)
            except (BundleError, ModelVersionError, OSError) as error:
                self._unreadable.append(version)
                self._log(f"High-risk predictions scored by version {version} get no reasons from this run: {error}")
                return None
            while len(self._explainers) >= KEPT_MODELS:
                del self._explainers[next(iter(self._explainers))]
            self._explainers[version] = bundle.schema, Explainer(bundle)
        return self._explainers[version]


class ExplainerThread:
    """Explains rows while the stream is idle. Its errors never fail the stream: rows stay unexplained until later.

    As a context manager it ends the thread, which start() starts.
    """

    def __init__(self, run: RunContext) -> None:
        self._dsn = run.config.dsn
        self._limits = run.limits
        self._explanations = Explanations(run.config.schema, run.log)
        # Set while the writer is idle and no event waits that the interpreter could be used for.
        self._idle = threading.Event()
        self._unexplained = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="explainer", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the thread. It first explains the rows that earlier runs left unexplained."""
        self._unexplained.set()
        self._thread.start()

    def notify(self) -> None:
        """Tell the thread that there are high-risk predictions to explain."""
        self._unexplained.set()

    def set_idle(self, idle: bool) -> None:
        """Tell the thread whether the stream is idle, so that it may use the interpreter."""
        if idle:
            self._idle.set()
        else:
            self._idle.clear()

    def stop(self) -> None:
        """End the thread after the rows that it is explaining. May be called before start().

        The wait is short, in case PostgreSQL does not answer.
        """
        self._stopped.set()
        self._unexplained.set()
        if self._thread.is_alive():
            self._thread.join(self._limits.explain_stop_seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with connect(self._dsn, autocommit=True, application_name="churn reasons") as connection:
                    # Rows whose reasons a crash of PostgreSQL loses are unexplained again. The next run explains them.
                    connection.execute("set synchronous_commit = off")
                    self._explain(connection)
            except Exception as error:  # no error may stop the stream; the table shows which reasons are missing
                # To the process' log: the run's own log is kept in PostgreSQL, which may be down.
                _python_log.warning("Reasons of high-risk predictions are delayed: %s", error)
                self._unexplained.wait(self._limits.explain_poll_seconds)

    def _explain(self, connection: psycopg.Connection) -> None:
        while not self._stopped.is_set():
            self._unexplained.wait(self._limits.explain_poll_seconds)
            self._stopped.wait(self._limits.explain_gather_seconds)
            self._unexplained.clear()
            while not self._stopped.is_set():
                if not self._idle.wait(self._limits.explain_poll_seconds):
                    continue
                if not self._explanations.explain(connection, most=ROWS_AT_ONCE):
                    break


def explain_batch(config: StreamConfig, batch: str, log: Callable[[str], None]) -> int:
    """Explain what is left of a batch, after it was closed or replayed; return the number of rows.

    If PostgreSQL does not answer, the next streaming run explains them.
    """
    explanations, count = Explanations(config.schema, log), 0
    try:
        with connect(config.dsn, autocommit=True, application_name="churn reasons") as connection:
            while explained := explanations.explain(connection, most=ROWS_AT_ONCE_AFTER_CLOSING, batch=batch):
                count += explained
    except psycopg.OperationalError as error:
        log(f"Reasons of high-risk predictions of batch {batch} are left to the next run: {error}")
    return count
