"""Predictions that are in the predictions topic although this database has lost their rows: see 'churn recover'."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import polars as pl
import psycopg

from churn_platform.database import recovered_predictions
from churn_platform.database.connections import connect
from churn_platform.kafka.topics import Topic


class AlreadyPublished:
    """Keeps the publisher from publishing recovered predictions again.

    A database that was never restored has none. Then this costs two queries when a publisher begins, and nothing after.
    """

    def __init__(self, dsn: str, topic: Topic) -> None:
        """Name the database and the events topic; nothing is read before the block begins.

        Args:
            dsn: connection string of the platform's database.
            topic: the events topic.
        """
        self._dsn = dsn
        self._topic = topic
        self._connection: psycopg.Connection | None = None
        self._reached: Mapping[int, int] = {}

    def __enter__(self) -> Self:
        """Read how far predictions had been published before restores. The connection stays only if it is needed."""
        connection = connect(self._dsn, autocommit=True, application_name="churn publisher")
        try:
            self._reached = recovered_predictions.reached(connection, self._topic.topic_id)
            if recovered_predictions.exist(connection):
                self._connection = connection
        finally:
            if self._connection is None:
                connection.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def may_hold_new(self) -> bool:
        """Whether new predictions may be in the topic already: the database was restored, and some were recovered."""
        return self._connection is not None

    def highest(self, partition: int) -> int:
        """Return how far this partition had been published before a restore; 0 if it was not further than now."""
        return self._reached.get(partition, 0)

    def remove_from(self, predictions: pl.DataFrame) -> pl.DataFrame:
        """Return the predictions that are not in the topic yet.

        Args:
            predictions: a frame with the columns of `message_types`.
        """
        if self._connection is None or not len(predictions):
            return predictions
        found = recovered_predictions.find(self._connection, predictions["event_id"].to_list())
        return predictions.filter(~pl.col("event_id").is_in(list(found))) if found else predictions
