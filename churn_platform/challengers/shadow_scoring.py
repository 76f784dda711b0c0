"""Scores the events of new commits with a shadow, and stores its scores beside those of the predictions.

A shadow reads the raw values of the customers that churn_predictions stores. One transaction stores the scores and
moves the worker's positions, so each event is scored once, whichever process dies. A replay moves no position: a shadow
is compared with what the stream predicted when it committed the event.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.challengers.reading import compare_shadow
from churn_platform.database import challengers, erased_customers, model_versions, shadow_predictions, worker_positions
from churn_platform.database.challengers import Challenger
from churn_platform.database.new_rows import NewRows
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.database.shadow_predictions import FOLLOWER, ChampionsRow, ShareKey
from churn_platform.features.columns import stored_columns
from churn_platform.features.exceptions import FeatureError
from churn_platform.keyed_shares import padded_keys, share_bound
from churn_platform.model_store import load_bundle
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.exceptions import BundleError

# Offsets that one run follows at most. Their rows take up to 60 MB while they are scored.
MOST_OFFSETS: Final = 20_000
# Seconds between two comparisons at least. The pause is also this many times as long as a comparison takes.
COMPARE_SECONDS: Final = 30.0
REST: Final = 20.0


@dataclass(frozen=True)
class _Loaded:
    challenger: Challenger
    bundle: ModelBundle
    key: ShareKey


class ShadowScoring:
    """Follows the stream for the active shadow. Keeps its bundle in memory."""

    def __init__(
        self,
        *,
        high_risk_threshold: float,
        most_offsets: int = MOST_OFFSETS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load nothing yet.

        Args:
            high_risk_threshold: risk score from which a customer is at high risk, 0..1.
            most_offsets: offsets that one run follows at most.
            monotonic: seconds, for pauses.
        """
        self._threshold = high_risk_threshold
        self._most_offsets = most_offsets
        self._monotonic = monotonic
        self._loaded: _Loaded | None = None
        self._new_rows = NewRows()
        self._compare_at = float("-inf")
        self._compared = -1  # events of the shadow at the latest comparison

    def run(self, connection: psycopg.Connection) -> bool:
        """Score what was committed since the last run; return whether there is more.

        A shadow whose bundle cannot be read, or that cannot score a stored customer, ends with the reason.

        Args:
            connection: in autocommit mode.
        """
        current = challengers.active(connection, "shadow")
        if current is None:
            self._loaded = None
            return False
        try:
            loaded = self._load(connection, current)
            more = self._follow(connection, loaded)
        except (BundleError, FeatureError) as error:
            challengers.end(connection, current, by="failure", reason=f"It cannot score: {error}")
            return False
        if not more:
            self._compare(connection, current)
        return more

    def _load(self, connection: psycopg.Connection, current: Challenger) -> _Loaded:
        if self._loaded is None or self._loaded.challenger.challenger != current.challenger:
            bundle = load_bundle(model_versions.get(connection, current.model_version).uri)
            inner, outer = padded_keys(challengers.ensure_key(connection, "shadow"))
            self._loaded = _Loaded(current, bundle, ShareKey(inner, outer, share_bound(current.share)))
            self._new_rows = NewRows()
            self._compare_at, self._compared = float("-inf"), -1
        return self._loaded

    def _follow(self, connection: psycopg.Connection, loaded: _Loaded) -> bool:
        """Score one portion in one transaction; return whether there is more."""
        bundle = loaded.bundle
        table = prediction_table(bundle.schema)
        columns = [table.of_field(name) for name in bundle.schema.feature_columns]
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            erased_customers.hold_off(connection)
            current = challengers.lock_active(connection, "shadow")
            if current is None or current.challenger != loaded.challenger.challenger:
                return True  # it was stopped or replaced meanwhile
            behind = worker_positions.behind(connection, FOLLOWER)
            if not behind:
                challengers.record_followed(connection, current, events=0)
                return False
            following = worker_positions.first_offsets(behind, self._most_offsets)
            is_all = following == behind
            ranges = worker_positions.row_ranges(connection, following)
            first_block, new_rows = self._new_rows.read(connection, ranges) if is_all else (None, NewRows())
            rows = shadow_predictions.rows_in_share(connection, columns, ranges, loaded.key, first_block=first_block)
            scores = self._score(bundle, rows)
            shadow_predictions.add(connection, rows, scores.tolist(), model_version=current.model_version)
            worker_positions.advance(connection, FOLLOWER, following)
            challengers.record_followed(connection, current, events=len(rows))
        self._new_rows = new_rows  # only now: after an error, the same rows are read again
        return not is_all

    def _score(self, bundle: ModelBundle, rows: Sequence[ChampionsRow]) -> NDArray[np.float32]:
        if not rows:
            return np.empty(0, np.float32)
        names = bundle.schema.feature_columns
        return bundle.score(
            stored_columns(bundle.schema, [dict(zip(names, each.values, strict=True)) for each in rows])
        )

    def _compare(self, connection: psycopg.Connection, current: Challenger) -> None:
        """Store a comparison for the dashboard, now and then, if there are new events."""
        began = self._monotonic()
        latest = challengers.get(connection, current.challenger)
        if began < self._compare_at or latest is None or latest.events == self._compared:
            return
        compare_shadow(connection, current.model_version, threshold=self._threshold)
        self._compared = latest.events
        now = self._monotonic()
        self._compare_at = now + max(COMPARE_SECONDS, REST * (now - began))
