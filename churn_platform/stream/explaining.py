"""Reasons of high-risk predictions, written moments after their rows: off the way of a commit, and never forgotten.

Exact contributions cost some twenty times as much as a score. Within a commit they would halve the stream's throughput,
so a commit writes the row without reasons. `reasons is null` is the list of what is to be done: whatever dies, the next
one goes on from there.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final, LiteralString

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from churn_platform.database import model_versions
from churn_platform.database.connections import connect
from churn_platform.database.model_versions import ModelVersionError
from churn_platform.model_store import load_bundle
from churn_platform.scoring.contributions import Explainer
from churn_platform.scoring.exceptions import BundleError

_python_log = logging.getLogger(__name__)

# Some 5 ms of work, the longest that a commit which comes meanwhile shares its processor with it.
AT_ONCE: Final = 32
# Afterwards nobody waits.
AT_ONCE_AFTERWARDS: Final = 512
# High-risk predictions gather so long, or each commit would have a second one of PostgreSQL behind it.
GATHER_SECONDS: Final = 1.0
# So often it looks by itself: for what others left, and whether PostgreSQL is back.
LOOK_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0
KEPT_MODELS: Final = 3

# Columns of churn_predictions, as the features call them.
_COLUMNS: Final[dict[str, LiteralString]] = {
    "CreditScore": "credit_score",
    "Age": "age",
    "Tenure": "tenure",
    "Balance": "balance",
    "NumOfProducts": "num_of_products",
    "HasCrCard": "has_cr_card",
    "IsActiveMember": "is_active_member",
    "EstimatedSalary": "estimated_salary",
    "Geography": "geography",
    "Gender": "gender",
}
# The newest first: somebody may be about to call them.
_UNEXPLAINED: Final = """
    select
        h.event_id, p.model_version, p.credit_score, p.age, p.tenure, p.balance, p.num_of_products, p.has_cr_card,
        p.is_active_member, p.estimated_salary, p.geography, p.gender
    from high_risk_customers h join churn_predictions p using (event_id)
    where h.reasons is null and (%(batch)s::text is null or h.batch = %(batch)s)
      and p.model_version <> all(%(unreadable)s)
    order by h.detected_at desc limit %(limit)s
"""
# A replay may have taken a row, or scored it anew, since it was read. It never waits for one: a replay that holds some
# of the rows and wants the others would be waiting for it.
_STORE: Final = """
    with explained as (
        select * from unnest(%s::uuid[], %s::integer[], %s::jsonb[]) as e (event_id, model_version, reasons)
    ), free as (
        select h.event_id from high_risk_customers h
        where h.event_id in (select event_id from explained) and h.reasons is null
        for update skip locked
    )
    update high_risk_customers h set reasons = e.reasons
    from explained e join free using (event_id) join churn_predictions p using (event_id, model_version)
    where h.event_id = e.event_id
"""


class Explanations:
    """Explains what is not explained, each row by the model that scored it."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._explainers: dict[int, Explainer] = {}
        self._unreadable: list[int] = []

    def explain(self, connection: psycopg.Connection, *, most: int, batch: str | None = None) -> int:
        """Explain some rows.

        Args:
            connection: in autocommit.
            most: rows at once.
            batch: of this batch only.

        Returns:
            How many rows were given their reasons; 0: there are none, or others hold them.
        """
        found = connection.execute(
            _UNEXPLAINED, {"batch": batch, "unreadable": self._unreadable, "limit": most}
        ).fetchall()
        if not found:
            return 0
        version = found[0][1]  # rows of one model at once; the others are next
        rows = [row for row in found if row[1] == version]
        explainer = self._explainer(connection, version)
        if explainer is None:
            return self.explain(connection, most=most, batch=batch)
        columns = {
            name: np.array(values, object if name in ("Geography", "Gender") else np.float64)
            for name, values in zip(_COLUMNS, zip(*(row[2:] for row in rows), strict=True), strict=True)
        }
        reasons = [Jsonb(each) for each in explainer.reasons(columns)]
        return connection.execute(_STORE, ([row[0] for row in rows], [version] * len(rows), reasons)).rowcount

    def _explainer(self, connection: psycopg.Connection, version: int) -> Explainer | None:
        """The explainer of a version; None, and said once, when its bundle cannot be read."""
        if version not in self._explainers:
            try:
                bundle = load_bundle(model_versions.get(connection, version).uri)
            except (BundleError, ModelVersionError, OSError) as error:
                self._unreadable.append(version)
                self._log(f"High-risk predictions scored by version {version} get no reasons from this run: {error}")
                return None
            while len(self._explainers) >= KEPT_MODELS:
                del self._explainers[next(iter(self._explainers))]
            self._explainers[version] = Explainer(bundle)
        return self._explainers[version]


class ExplainerThread:
    """Explains while the stream rests. What it cannot do is left for later; it never fails the stream."""

    def __init__(self, dsn: str, *, resting: threading.Event, log: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._resting = resting
        self._explanations = Explanations(log)
        self._news = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="explainer", daemon=True)

    def start(self) -> None:
        """Begin; what others left is explained first."""
        self._news.set()
        self._thread.start()

    def notice(self) -> None:
        """There are high-risk predictions."""
        self._news.set()

    def stop(self) -> None:
        """End after the rows at hand; not waited for long, where PostgreSQL does not answer. May precede start()."""
        self._stopped.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with connect(self._dsn, autocommit=True, application_name="churn reasons") as connection:
                    # What a crash of PostgreSQL takes back is unexplained again, and explained by the next run.
                    connection.execute("set synchronous_commit = off")
                    self._explain(connection)
            except Exception as error:  # whatever it is: the stream goes on, and what is missing is seen in the table
                # In the process' log: the run's own is kept in PostgreSQL, which may be what is away.
                _python_log.warning("Reasons of high-risk predictions wait, and are written later: %s", error)
                self._news.wait(LOOK_SECONDS)

    def _explain(self, connection: psycopg.Connection) -> None:
        while not self._stopped.is_set():
            self._news.wait(LOOK_SECONDS)
            self._stopped.wait(GATHER_SECONDS)
            self._news.clear()
            while not self._stopped.is_set():
                if not self._resting.wait(LOOK_SECONDS):
                    continue
                if not self._explanations.explain(connection, most=AT_ONCE):
                    break


def explain_batch(dsn: str, batch: str, log: Callable[[str], None]) -> int:
    """Explain what is left of a batch, after it was closed or replayed; how many rows that was.

    Where PostgreSQL is away, the next streaming run does it.
    """
    explanations, count = Explanations(log), 0
    try:
        with connect(dsn, autocommit=True, application_name="churn reasons") as connection:
            while explained := explanations.explain(connection, most=AT_ONCE_AFTERWARDS, batch=batch):
                count += explained
    except psycopg.OperationalError as error:
        log(f"Reasons of high-risk predictions of batch {batch} are left to the next run: {error}")
    return count
