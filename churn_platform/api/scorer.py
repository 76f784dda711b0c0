"""Decodes and scores the customers of requests, together with those of other requests that wait at the same time.

A call takes about 0.5 ms for one customer and 1 ms for a hundred, so requests of several clients share calls: there is
a short pause between two of them, in which requests collect. A request that is alone does not wait, and neither do
clients that have all sent their next request. Few customers are scored in the event loop and others in a thread, one
call at a time. Large requests are scored in pieces, so that small ones need not wait for the whole of them.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, groupby
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from confluent_kafka import TIMESTAMP_CREATE_TIME

from churn_platform.api.answers import IndexedPrediction, Reason, Refusal
from churn_platform.api.config import ApiConfig
from churn_platform.api.exceptions import ProblemError
from churn_platform.api.models import ServedModel
from churn_platform.decoding.events import event_decoder
from churn_platform.retention.reasons import sentence
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.scoring.high_risk import is_high_risk
from churn_platform.stream.scoring import ScoredEvents, score

Result: TypeAlias = IndexedPrediction | Refusal

SMALL: Final = 100
"""A request of at most so many customers is not made to wait for large ones."""
MOST_IN_THE_LOOP: Final = 100
"""Customers that are scored in the event loop, which waits for about 1 ms. With reasons they are not: those take
longer. The thread takes 0.2 ms of CPU more for a call, and every request for one customer waits for a call."""
MOST_AT_ONCE: Final = 1000
"""Customers that are scored at once take about 10 ms, which the next request waits for."""
MOST_EXPLAINED_AT_ONCE: Final = 100
"""The same with reasons, which take longer than the scores."""
MOST_WAITING: Final = 50_000
"""Customers that may wait, about half a second. More requests are refused instead of answered too late."""
PAUSE_SECONDS: Final = 0.012
"""Least time from the beginning of one call to that of the next, unless each client of the one has sent its next
request. At a thousand requests a second of many clients, twelve of them share a call then."""
THREADS: Final = 1  # XGBoost's: for a thousand rows, starting more threads takes longer than they save


class _Sent:
    """A customer of a request, with the methods of a Kafka message: its offset is its number, its time that of now."""

    __slots__ = ("_milliseconds", "_offset", "_value")

    def __init__(self, value: bytes, offset: int, milliseconds: int) -> None:
        self._value = value
        self._offset = offset
        self._milliseconds = milliseconds

    def value(self) -> bytes:
        return self._value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, self._milliseconds


@dataclass(frozen=True)
class _Piece:
    """Customers who are scored together.

    Attributes:
        values: the customers as they were sent.
        first: index of the first one in its request.
        model: the one that scored when the request arrived.
        explained: whether reasons are wanted.
        client: the connection that the request came from.
        results: receives a result for each value, in their order.
    """

    values: Sequence[bytes]
    first: int
    model: ServedModel
    explained: bool
    client: object
    results: asyncio.Future[list[Result]]


class Scorer:
    """Scores customers, one call at a time. All methods are called in the event loop."""

    def __init__(self, config: ApiConfig) -> None:
        """Create it.

        Args:
            config: says which customers are valid and who is at high risk.
        """
        self._config = config
        self._decoder = event_decoder(config.schema)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._small: deque[_Piece] = deque()
        self._large: deque[_Piece] = deque()
        self._waiting = 0
        self._is_working = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_start = -PAUSE_SECONDS
        self._last_clients: set[object] = set()
        self._small_clients: set[object] = set()

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()

    async def score(
        self, values: Sequence[bytes], model: ServedModel, *, explained: bool, client: object
    ) -> list[Result]:
        """Return a score or a refusal for each customer, in their order.

        Args:
            values: the customers, each an event as the stream takes it.
            model: scores them.
            explained: whether reasons are wanted.
            client: the connection that the request came from.

        Raises:
            ProblemError: too many customers wait already.
        """
        if self._waiting + len(values) > MOST_WAITING:
            raise ProblemError(
                503, "Too many requests at once", f"{self._waiting} customers wait to be scored.", retry_after=1
            )
        size = MOST_EXPLAINED_AT_ONCE if explained else MOST_AT_ONCE
        loop = asyncio.get_running_loop()
        pieces = [
            _Piece(values[first : first + size], first, model, explained, client, loop.create_future())
            for first in range(0, len(values), size)
        ]
        if len(values) <= SMALL:
            self._small.extend(pieces)
            self._small_clients.add(client)
        else:
            self._large.extend(pieces)
        self._waiting += len(values)
        if not self._is_working:
            self._start_soon()
        found = [await piece.results for piece in pieces]
        return found[0] if len(found) == 1 else [result for each in found for result in each]

    def _start_soon(self) -> None:
        """Score what waits: now, or after the pause if other clients may send requests meanwhile."""
        loop = asyncio.get_running_loop()
        pause = self._last_start + PAUSE_SECONDS - loop.time()
        if self._large or pause <= 0 or self._last_clients <= self._small_clients:
            self._start_next()
        elif self._timer is None:
            self._timer = loop.call_later(pause, self._start_next)

    def _start_next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pieces = self._take()
        self._is_working = bool(pieces)
        if pieces:
            self._last_start = asyncio.get_running_loop().time()
            self._last_clients = {piece.client for piece in pieces}
            self._start(pieces).add_done_callback(partial(self._deliver, pieces))

    def _start(self, pieces: Sequence[_Piece]) -> asyncio.Future[list[list[Result]]]:
        """Score pieces. The results of a few customers are there at once."""
        loop = asyncio.get_running_loop()
        if sum(len(each.values) for each in pieces) > MOST_IN_THE_LOOP or any(each.explained for each in pieces):
            return loop.run_in_executor(self._executor, self._score_pieces, pieces)
        scored: asyncio.Future[list[list[Result]]] = loop.create_future()
        try:
            scored.set_result(self._score_pieces(pieces))
        except Exception as error:
            scored.set_exception(error)
        return scored

    def _take(self) -> list[_Piece]:
        """Take what is scored next: small requests, and one piece of a large one."""
        taken: list[_Piece] = []
        count = 0
        while self._small and count + len(self._small[0].values) <= MOST_AT_ONCE:
            taken.append(self._small.popleft())
            count += len(taken[-1].values)
        self._small_clients = {piece.client for piece in self._small}
        if self._large:
            taken.append(self._large.popleft())
        self._waiting -= sum(len(piece.values) for piece in taken)
        return [piece for piece in taken if not piece.results.cancelled()] or (self._take() if taken else [])

    def _deliver(self, pieces: Sequence[_Piece], running: asyncio.Future[list[list[Result]]]) -> None:
        self._is_working = False
        if self._small or self._large:
            self._start_soon()  # first, so that the thread works while answers are written
        error = running.exception()
        for number, piece in enumerate(pieces):
            if piece.results.cancelled():
                continue
            if error is not None:
                piece.results.set_exception(error)
            else:
                piece.results.set_result(running.result()[number])

    # What follows runs in the thread, too, while no other call does.

    def _score_pieces(self, pieces: Sequence[_Piece]) -> list[list[Result]]:
        """Return the results of each piece. Usually all have the same model."""
        ordered: list[list[Result]] = []
        for _, group in groupby(pieces, key=lambda piece: piece.model.champion.version):
            ordered += self._score_together(list(group))
        return ordered

    def _score_together(self, pieces: Sequence[_Piece]) -> list[list[Result]]:
        now = datetime.now(UTC)
        milliseconds = int(now.timestamp() * 1000)
        values = [value for piece in pieces for value in piece.values]
        indices = [index for piece in pieces for index in range(piece.first, piece.first + len(piece.values))]
        events, dead = self._decoder.decode(
            [_Sent(value, number, milliseconds) for number, value in enumerate(values)],
            topic_id="",
            accepts_from=self._config.accepts_from,
            accepts_until=now + self._config.accepts_ahead,
        )
        model = pieces[0].model
        scored = score(events, model.champion, threads=THREADS)
        reasons = self._reasons(scored, pieces)
        numbers = events.kafka_offset.tolist()
        found: dict[int, Result] = {
            number: IndexedPrediction(
                index=indices[number],
                customer_id=customer_id,
                risk_score=risk,
                prediction=prediction,
                high_risk=high_risk,
                reasons=reasons.get(number, msgspec.UNSET),
            )
            for number, customer_id, risk, prediction, high_risk in zip(
                numbers,
                events.customer_id.tolist(),
                scored.risk_score.tolist(),
                scored.prediction.tolist(),
                is_high_risk(scored.risk_score, self._config.high_risk_threshold).tolist(),
                strict=True,
            )
        }
        for letter in dead:
            found[letter.kafka_offset] = Refusal(indices[letter.kafka_offset], letter.reason)
        ends = accumulate(len(piece.values) for piece in pieces)
        return [
            [found[number] for number in range(end - len(piece.values), end)]
            for piece, end in zip(pieces, ends, strict=True)
        ]

    def _reasons(self, scored: ScoredEvents, pieces: Sequence[_Piece]) -> dict[int, list[Reason]]:
        """Return the reasons of the events whose requests want them, by the number of the event."""
        if not len(scored) or not any(piece.explained for piece in pieces):
            return {}
        wanted = np.repeat([piece.explained for piece in pieces], [len(piece.values) for piece in pieces])
        events = scored.events.select(wanted[scored.events.kafka_offset])
        if not len(events):
            return {}
        explained = pieces[0].model.explainer.reasons(events.customers)
        return {
            number: with_sentences(reasons, self._config.schema)
            for number, reasons in zip(events.kafka_offset.tolist(), explained, strict=True)
        }


def with_sentences(reasons: Sequence[Mapping[str, Any]], schema: CustomerSchema) -> list[Reason]:
    """Return reasons as the API answers them.

    Args:
        reasons: feature (name of a column), value and contribution to the log-odds of each.
        schema: names the columns' kinds and units.
    """
    return [
        Reason(reason["feature"], reason["value"], reason["contribution"], sentence(reason, schema))
        for reason in reasons
    ]
