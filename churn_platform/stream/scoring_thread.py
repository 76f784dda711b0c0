"""Decoding and scoring in a separate thread, while the next messages are read."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from confluent_kafka import Message

from churn_platform.database.bulk import ROWS_OF_ONE_STATEMENT, BinaryArray, Rows
from churn_platform.database.catalog import RowType
from churn_platform.database.churn_predictions import given_rows
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import DeadLetter, event_decoder
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.batch_progress import Opening
from churn_platform.stream.canary import Canary, score_with_canary
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.scoring import Champion, ScoredEvents, score


@dataclass(frozen=True)
class ScoredMessages:
    """Messages after decoding and scoring.

    Attributes:
        scored: the valid events.
        rows: their rows.
        dead_letters: the other messages.
        given: the rows as an argument, if one statement can commit them: they are few, and each is a valid event.
    """

    scored: ScoredEvents
    rows: Rows
    dead_letters: list[DeadLetter]
    given: BinaryArray | None


class Scorer:
    """Decodes and scores the messages of each commit, in order."""

    def __init__(self, source: Source, schema: CustomerSchema, row_type: RowType, *, threads: int) -> None:
        """Start no thread yet.

        Args:
            source: where the rows come from.
            schema: of the customers in the events.
            row_type: of churn_predictions.
            threads: of the model, within one commit.
        """
        self._source = source
        self._decoder = event_decoder(schema)
        self._table = prediction_table(schema)
        self._row_type = row_type
        self._threads = threads
        self._executor = ThreadPoolExecutor(1, "scorer")

    def submit(
        self, messages: Sequence[Message], opening: Opening, champion: Champion, canary: Canary | None
    ) -> Future[ScoredMessages]:
        """Decode and score messages in the thread."""
        return self._executor.submit(self._score, messages, opening, champion, canary)

    def stop(self) -> None:
        """Wait until the current messages are scored, and end the thread."""
        self._executor.shutdown()

    def _score(
        self, messages: Sequence[Message], opening: Opening, champion: Champion, canary: Canary | None
    ) -> ScoredMessages:
        events, dead_letters = self._decoder.decode(
            messages,
            topic_id=self._source.topic_id,
            accepts_from=opening.accepts_from,
            accepts_until=opening.accepts_until,
        )
        if canary is None:
            scored = score(events, champion, threads=self._threads)
        else:
            scored = score_with_canary(events, champion, canary, threads=self._threads)
        rows = prediction_rows(self._table, self._source.batch, scored)
        # Encoded here, while the previous commit is written.
        if len(scored) == len(messages) <= ROWS_OF_ONE_STATEMENT:
            return ScoredMessages(scored, rows, dead_letters, given_rows(rows, self._row_type))
        _ = rows.copied
        return ScoredMessages(scored, rows, dead_letters, None)
