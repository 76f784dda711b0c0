"""Decoding and scoring in a separate thread, while the next messages are read."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from confluent_kafka import Message

from churn_platform.database.bulk import ROWS_OF_ONE_STATEMENT, BinaryArray, Rows
from churn_platform.database.catalog import RowType
from churn_platform.database.churn_predictions import given_rows
from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.decoding.events import DeadLetter, event_decoder
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.stream.batch_progress import Opening
from churn_platform.stream.canary import Canary, score_with_canary
from churn_platform.stream.commit_rows import Source
from churn_platform.stream.erasure import without_erased
from churn_platform.stream.prediction_values import prediction_rows
from churn_platform.stream.scoring import Champion, ScoredEvents, score


@dataclass(frozen=True)
class ScoredMessages:
    """Messages after decoding and scoring.

    Attributes:
        scored: the valid events.
        rows: their rows.
        dead_letters: the other messages.
        given: the rows as an argument, if one statement can commit them: they are few, and there is no dead letter.
        erased: number of messages about erased customers, of which nothing is stored.
        erasures: version of the list of these customers.
    """

    scored: ScoredEvents
    rows: Rows
    dead_letters: list[DeadLetter]
    given: BinaryArray | None
    erased: int
    erasures: int


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
        self._schema = schema
        self._decoder = event_decoder(schema)
        self._table = prediction_table(schema)
        self._row_type = row_type
        self._threads = threads
        self._executor = ThreadPoolExecutor(1, "scorer")

    def submit(
        self,
        messages: Sequence[Message],
        opening: Opening,
        champion: Champion,
        canary: Canary | None,
        erased: ErasedCustomers,
    ) -> Future[ScoredMessages]:
        """Decode and score messages in the thread, without those about erased customers."""
        return self._executor.submit(self._score, messages, opening, champion, canary, erased)

    def stop(self) -> None:
        """Wait until the current messages are scored, and end the thread."""
        self._executor.shutdown()

    def _score(
        self,
        messages: Sequence[Message],
        opening: Opening,
        champion: Champion,
        canary: Canary | None,
        erased: ErasedCustomers,
    ) -> ScoredMessages:
        events, dead_letters = self._decoder.decode(
            messages,
            topic_id=self._source.topic_id,
            accepts_from=opening.accepts_from,
            accepts_until=opening.accepts_until,
        )
        events, dead_letters, left_out = without_erased(self._schema, events, dead_letters, erased)
        if canary is None:
            scored = score(events, champion, threads=self._threads)
        else:
            scored = score_with_canary(events, champion, canary, threads=self._threads)
        rows = prediction_rows(self._table, self._source.batch, scored)
        # Encoded here, while the previous commit is written.
        given = None
        if scored and not dead_letters and len(scored) <= ROWS_OF_ONE_STATEMENT:
            given = given_rows(rows, self._row_type)
        else:
            _ = rows.copied
        return ScoredMessages(scored, rows, dead_letters, given, left_out, erased.version)
