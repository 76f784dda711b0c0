"""The duty that watches the canary, and rolls it back if it leaves a bound: the champion then scores all customers.

It follows the stream's commits at a short distance, and counts the predictions of both models by risk score. Which
customers a canary scores is random, so both models score alike customers, and a difference is due to the models.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.database import canary_scores, challengers, worker_positions
from churn_platform.database.canary_scores import Scores
from churn_platform.database.challengers import Challenger
from churn_platform.database.new_rows import NewRows

_log = logging.getLogger("churn.worker")

NAME: Final = "canary"
PAUSE: Final = 2.0
"""Seconds between two looks at the stream's positions."""
# Offsets that one run follows at most. Counting their rows takes a second or two.
MOST_OFFSETS: Final = 500_000
# Fewer events say little about a share of errors.
LEAST_EVENTS: Final = 100
GROUPS: Final = 10  # of about equal count in the champion's scores; the usual PSI thresholds assume ten
SMOOTHING: Final = 0.5  # predictions added to every group, because an empty one would make the PSI infinite


@dataclass(frozen=True)
class CanaryBounds:
    """When a canary is rolled back.

    Attributes:
        max_psi: of its scores against the champion's.
        max_errors: share of its events that it fails to score, 0..1.
        least_predictions: of each model, from which their scores are compared.
    """

    max_psi: float
    max_errors: float
    least_predictions: int


class CanaryDuty:
    """Counts the predictions of the active canary and of the champion. Without a canary it costs a look at an index."""

    name = NAME
    exclusive = True
    interval = PAUSE

    def __init__(self, bounds: CanaryBounds, *, most_offsets: int = MOST_OFFSETS) -> None:
        """Create the duty.

        Args:
            bounds: when a canary is rolled back.
            most_offsets: offsets that one run follows at most.
        """
        self._bounds = bounds
        self._most_offsets = most_offsets
        self._new_rows = NewRows()

    def run(self, connection: psycopg.Connection) -> bool:
        """Count what was committed since the last run, and roll the canary back if it leaves a bound.

        Returns:
            Whether there is more to count.
        """
        if challengers.active(connection, "canary") is None:
            self._new_rows = NewRows()
            return False
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            current = challengers.lock_active(connection, "canary")
            if current is None:
                return False
            errors = challengers.take_errors(connection, current.challenger)
            more, new_rows = self._count(connection, current, errors)
            found = canary_scores.scores(connection, current.challenger)
            objection = self._objection(found, errors=current.errors + errors)
            if objection is not None:
                challengers.end(connection, current, by="rollback", reason=objection)
        self._new_rows = new_rows  # only now: after an error, the same rows are read again
        if objection is not None:
            _log.warning("The canary, model version %s, was rolled back. %s", current.model_version, objection)
        return more and objection is None

    def _count(self, connection: psycopg.Connection, current: Challenger, errors: int) -> tuple[bool, NewRows]:
        """Count the predictions of one portion; return whether there is more, and what is known of the table then."""
        behind = worker_positions.behind(connection, NAME)
        if not behind:
            challengers.record_followed(connection, current, events=0, errors=errors)
            return False, self._new_rows
        following = worker_positions.first_offsets(behind, self._most_offsets)
        is_all = following == behind
        ranges = worker_positions.row_ranges(connection, following)
        first_block, new_rows = self._new_rows.read(connection, ranges) if is_all else (None, NewRows())
        before = sum(canary_scores.scores(connection, current.challenger).canary)
        canary_scores.add(
            connection,
            ranges,
            challenger=current.challenger,
            model_version=current.model_version,
            first_block=first_block,
        )
        worker_positions.advance(connection, NAME, following)
        after = sum(canary_scores.scores(connection, current.challenger).canary)
        challengers.record_followed(connection, current, events=after - before, errors=errors)
        return not is_all, new_rows

    def _objection(self, found: Scores, *, errors: int) -> str | None:
        """Return why the canary has to be rolled back, as a sentence; None if it stays."""
        bounds, scored, of_champion = self._bounds, sum(found.canary), sum(found.champion)
        events = scored + errors
        if events >= LEAST_EVENTS and errors / events > bounds.max_errors:
            return (
                f"It failed to score {errors:,} of its {events:,} events, {errors / events:.1%}; CANARY_MAX_ERRORS is "
                f"{bounds.max_errors:.1%}. The champion has scored them."
            )
        if min(scored, of_champion) >= bounds.least_predictions:
            distance = psi(found.canary, found.champion)
            if distance > bounds.max_psi:
                return (
                    f"The PSI of its {scored:,} scores against {of_champion:,} of the champion is {distance:.3f}; "
                    f"CANARY_MAX_PSI is {bounds.max_psi:g}."
                )
        return None


def psi(counts: Sequence[int], expected: Sequence[int]) -> float:
    """Return the population stability index of scores against the expected ones, in about ten groups of equal count.

    Args:
        counts: scores in bins of equal width.
        expected: the other scores in the same bins, of which there is at least one.
    """
    groups: list[tuple[int, int]] = []
    size, total = 0, sum(expected)
    for count, other in zip(counts, expected, strict=True):
        if not groups or size >= total / GROUPS:
            groups.append((0, 0))
            size = 0
        groups[-1] = (groups[-1][0] + count, groups[-1][1] + other)
        size += other
    return _distance(*zip(*groups, strict=True))


def _distance(counts: Sequence[int], expected: Sequence[int]) -> float:
    shares: list[list[float]] = []
    for values in (counts, expected):
        smoothed = [value + SMOOTHING for value in values]
        shares.append([value / sum(smoothed) for value in smoothed])
    return math.fsum((found - wanted) * math.log(found / wanted) for found, wanted in zip(*shares, strict=True))
