"""Scoring of decoded events with the champion."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from churn_platform.database import model_versions
from churn_platform.decoding.events import MICROSECONDS, EventColumns
from churn_platform.model_store import load_bundle
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.exceptions import BundleError
from churn_platform.stream.exceptions import NoChampionError, SchemaDisagreementError
from churn_platform.stream.schema_agreement import require_scorable

# Pause before a champion that could not be used is loaded again.
RETRY_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Champion:
    """The model that scores: its version in `model_versions`, and its bundle."""

    version: int
    bundle: ModelBundle


@dataclass(frozen=True)
class ScoredEvents:
    """n events with their scores.

    Attributes:
        events: the events.
        risk_score: P(churn), 0 to 1, shape (n,).
        prediction: 1 where the risk score reaches the threshold of the model that scored it, else 0, shape (n,).
        model_version: version of the model that scored them; with a canary that of each event, shape (n,).
        champion_version: version of the champion.
        predicted_at: when they were scored, in microseconds since 1970.
        canary: number of the canary that failed to score some of them; None if none did.
        canary_errors: how many it failed to score.
    """

    events: EventColumns
    risk_score: NDArray[np.float32]
    prediction: NDArray[np.int16]
    model_version: int | NDArray[np.int32]
    champion_version: int
    predicted_at: int
    canary: int | None = None
    canary_errors: int = 0

    def __len__(self) -> int:
        return len(self.events)

    def select(self, keep: NDArray[np.bool_]) -> "ScoredEvents":
        """Return the events where `keep`, of shape (n,), is True."""
        return replace(
            self,
            events=self.events.select(keep),
            risk_score=self.risk_score[keep],
            prediction=self.prediction[keep],
            model_version=self.model_version if isinstance(self.model_version, int) else self.model_version[keep],
        )


def score(events: EventColumns, champion: Champion, *, threads: int) -> ScoredEvents:
    """Score the events in their order, with the same transform that training used."""
    risk = champion.bundle.score(events.customers, threads=threads) if len(events) else np.empty(0, np.float32)
    return ScoredEvents(
        events=events,
        risk_score=risk,
        prediction=(risk >= champion.bundle.threshold).astype(np.int16),
        model_version=champion.version,
        champion_version=champion.version,
        predicted_at=round(time.time() * MICROSECONDS),
    )


def load_champion(connection: psycopg.Connection) -> Champion:
    """Load the champion's bundle.

    Raises:
        NoChampionError: no model version has been promoted.
        BundleError: a part of the bundle is missing or does not match its manifest.
    """
    champion = model_versions.champion(connection)
    if champion is None:
        raise NoChampionError("No model has been promoted: materialize churn_model and champion_model to score events.")
    return Champion(champion.version, load_bundle(champion.uri))


def load_champion_for(connection: psycopg.Connection, schema: CustomerSchema) -> Champion:
    """Load the champion's bundle to score events that are decoded with this schema.

    Raises:
        NoChampionError, BundleError: see load_champion().
        SchemaDisagreementError: the champion was trained with a schema that does not fit.
    """
    champion = load_champion(connection)
    require_scorable(champion.bundle.schema, schema, model_version=champion.version, source="events")
    return champion


class ChampionFollower:
    """The champion that scores. It follows promotions; while a new champion cannot be used, the old one stays."""

    def __init__(self, champion: Champion, schema: CustomerSchema, log: Callable[[str], None]) -> None:
        """Begin with a champion.

        Args:
            champion: scores at first.
            schema: that events are decoded with.
            log: writes a line to the run's log.
        """
        self.current = champion
        self._schema = schema
        self._log = log
        self._rejected: int | None = None
        self._rejected_at = 0.0

    def follow(self, connection: psycopg.Connection, version: int | None) -> None:
        """Use this version from now on, and load it if it is a new one. None: no version is promoted."""
        if version is None or version == self.current.version:
            return
        if version == self._rejected and time.monotonic() - self._rejected_at < RETRY_SECONDS:
            return
        try:
            self.current = load_champion_for(connection, self._schema)
        except (BundleError, SchemaDisagreementError, OSError) as error:
            if version != self._rejected:
                self._log(
                    f"Champion version {version} cannot be used, so version {self.current.version} keeps scoring: "
                    f"{error} It is tried again every {RETRY_SECONDS:.0f} s."
                )
            self._rejected, self._rejected_at = version, time.monotonic()
        else:
            self._rejected = None
            self._log(f"Champion is now version {self.current.version}; it scores what is read from now on.")
