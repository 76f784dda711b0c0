"""The canary: a challenger that scores a fixed share of the customers instead of the champion.

A keyed hash of their ids decides which customers these are. The key is the canary's own, so its share is independent of
the control group. Each prediction has the version that scored it. What a canary cannot score, the champion scores.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import challengers, model_versions
from churn_platform.decoding.events import EventColumns
from churn_platform.keyed_shares import is_in_share
from churn_platform.model_store import load_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.exceptions import BundleError
from churn_platform.stream.exceptions import SchemaDisagreementError
from churn_platform.stream.schema_agreement import require_scorable
from churn_platform.stream.scoring import RETRY_SECONDS, Champion, ScoredEvents, score


@dataclass(frozen=True)
class Canary:
    """An active canary.

    Attributes:
        challenger: its number in `challengers`.
        model: its version and bundle.
        share: of the customers, 0..1.
        key: decides which customers.
    """

    challenger: int
    model: Champion
    share: float
    key: bytes

    def scores(self, customer_ids: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of these customers the canary scores, shape (n,)."""
        return np.fromiter(
            (is_in_share(each, key=self.key, share=self.share) for each in customer_ids.tolist()),
            np.bool_,
            len(customer_ids),
        )


def score_with_canary(events: EventColumns, champion: Champion, canary: Canary, *, threads: int) -> ScoredEvents:
    """Score the events in their order: those of the canary's customers with the canary, the others with the champion.

    If the canary fails or returns a score that is no probability, the champion scores its events, too, and they count
    as errors.
    """
    by_canary = canary.scores(events.customer_id)
    if not by_canary.any():
        return score(events, champion, threads=threads)
    tried = _try_score(events.select(by_canary), canary.model, threads=threads)
    if tried is None:
        scored = score(events, champion, threads=threads)
        return replace(scored, canary=canary.challenger, canary_errors=int(by_canary.sum()))
    others = score(events.select(~by_canary), champion, threads=threads)
    risk_score, prediction = np.empty(len(events), np.float32), np.empty(len(events), np.int16)
    model_version = np.empty(len(events), np.int32)
    for mask, part, version in ((by_canary, tried, canary.model.version), (~by_canary, others, champion.version)):
        risk_score[mask], prediction[mask], model_version[mask] = part.risk_score, part.prediction, version
    return ScoredEvents(
        events=events,
        risk_score=risk_score,
        prediction=prediction,
        model_version=model_version,
        champion_version=champion.version,
        predicted_at=others.predicted_at,
    )


def _try_score(events: EventColumns, model: Champion, *, threads: int) -> ScoredEvents | None:
    """Score events; None if the model fails, or returns a score that is no probability."""
    try:
        scored = score(events, model, threads=threads)
    except Exception:  # whatever a challenger does, the stream goes on
        return None
    return scored if bool(((scored.risk_score >= 0) & (scored.risk_score <= 1)).all()) else None


class CanaryFollower:
    """The active canary, if there is one. It follows what the database records.

    A canary whose bundle cannot be used ends with the reason. While its files cannot be reached, the champion scores.
    """

    def __init__(self, schema: CustomerSchema, log: Callable[[str], None]) -> None:
        """Begin without a canary.

        Args:
            schema: that events are decoded with.
            log: writes a line to the run's log.
        """
        self.current: Canary | None = None
        self._schema = schema
        self._log = log
        self._retry_at = float("-inf")

    def follow(self, connection: psycopg.Connection, challenger: int | None) -> None:
        """Use this canary from now on, and load it if it is a new one. None: there is no canary.

        Args:
            connection: in autocommit mode.
            challenger: its number in `challengers`.
        """
        if challenger == (None if self.current is None else self.current.challenger):
            return
        if self.current is not None:
            self._log(f"Version {self.current.model.version} is no canary any more.")
            self.current = None
        if challenger is not None and time.monotonic() >= self._retry_at:
            self._load(connection, challenger)

    def _load(self, connection: psycopg.Connection, challenger: int) -> None:
        found = challengers.get(connection, challenger)
        if found is None or found.ended_at is not None:
            return
        version = model_versions.get(connection, found.model_version)
        try:
            bundle = load_bundle(version.uri)
            require_scorable(bundle.schema, self._schema, model_version=version.version, source="events")
        except (BundleError, SchemaDisagreementError) as error:
            challengers.end(connection, found, by="failure", reason=f"It cannot score: {error}")
            self._log(f"Version {version.version} cannot be used, so it is no canary any more: {error}")
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._log(f"The canary's bundle cannot be read, so the champion scores all customers: {error}")
        else:
            key = challengers.ensure_key(connection, "canary")
            self.current = Canary(challenger, Champion(version.version, bundle), found.share, key)
            self._log(f"Version {version.version} is a canary for {found.share:g} of the customers from now on.")
