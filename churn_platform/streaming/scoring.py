"""Scoring of decoded events with the champion."""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from churn_platform.modeling.bundle import ModelBundle
from churn_platform.streaming.events import MICROSECONDS, EventColumns


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
