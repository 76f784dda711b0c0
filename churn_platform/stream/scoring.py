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
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.scoring.exceptions import BundleError
from churn_platform.stream.exceptions import NoChampionError

# A champion that could not be loaded is tried again after so long.
TRY_AGAIN_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Champion:
    """The model that scores: its version in `model_versions` and its bundle."""

    version: int
    bundle: ModelBundle


@dataclass(frozen=True)
class ScoredEvents:
    """n events with their scores.

    risk_score is P(churn), 0 to 1; prediction is 1 where it reaches the bundle's threshold; predicted_at is in
    microseconds since 1970 and one moment for all of them.
    """

    events: EventColumns
    risk_score: NDArray[np.float32]
    prediction: NDArray[np.int16]
    model_version: int
    predicted_at: int

    def __len__(self) -> int:
        return len(self.events)

    def select(self, keep: NDArray[np.bool_]) -> "ScoredEvents":
        """The events where `keep`, of shape (n,), is True."""
        return replace(
            self,
            events=self.events.select(keep),
            risk_score=self.risk_score[keep],
            prediction=self.prediction[keep],
        )


def score(events: EventColumns, champion: Champion, *, threads: int) -> ScoredEvents:
    """Scores of the events, in their order, by the same transform that training used."""
    risk = champion.bundle.score(events.customers, threads=threads) if len(events) else np.empty(0, np.float32)
    return ScoredEvents(
        events=events,
        risk_score=risk,
        prediction=(risk >= champion.bundle.threshold).astype(np.int16),
        model_version=champion.version,
        predicted_at=round(time.time() * MICROSECONDS),
    )


def load_champion(connection: psycopg.Connection) -> Champion:
    """The champion's bundle.

    Raises:
        NoChampionError: no model version has been promoted.
        BundleError: a part of the bundle is missing or is not what its manifest says.
    """
    champion = model_versions.champion(connection)
    if champion is None:
        raise NoChampionError("No model has been promoted: materialize churn_model and champion_model to score events.")
    return Champion(champion.version, load_bundle(champion.uri))


class ChampionFollower:
    """The champion that scores. It follows promotions; one that cannot be loaded leaves the former at work."""

    def __init__(self, champion: Champion, log: Callable[[str], None]) -> None:
        self.current = champion
        self._log = log
        self._refused: int | None = None
        self._refused_at = 0.0

    def follow(self, connection: psycopg.Connection, version: int | None) -> None:
        """Score from now on with this version, if it is another one; None, and without a promotion nothing changes."""
        if version is None or version == self.current.version:
            return
        if version == self._refused and time.monotonic() - self._refused_at < TRY_AGAIN_SECONDS:
            return
        try:
            self.current = load_champion(connection)
        except (BundleError, OSError) as error:
            if version != self._refused:
                self._log(
                    f"Champion version {version} cannot be loaded, so version {self.current.version} goes on scoring: "
                    f"{error} It is tried again every {TRY_AGAIN_SECONDS:.0f} s."
                )
            self._refused, self._refused_at = version, time.monotonic()
        else:
            self._refused = None
            self._log(f"Champion is now version {self.current.version}; what is read from now on is scored with it.")
