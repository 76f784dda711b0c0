"""What a duty of the resident worker is. The loop that runs duties is in loop.py; each duty has its own module."""

from typing import Protocol

import psycopg


class Duty(Protocol):
    """One task of the worker, such as following the commits of the stream or sending alerts.

    Each duty has its own thread and its own connection, so a slow one does not delay the others. An error ends the
    connection; the duty runs again after a pause, with a new one.
    """

    @property
    def name(self) -> str:
        """A short name in lower case, for logs, locks and the session in pg_stat_activity."""

    @property
    def interval(self) -> float:
        """Seconds until the next run. The loop reads it after each run, so it may change."""

    @property
    def exclusive(self) -> bool:
        """Whether only one worker may run the duty at a time.

        The others wait until that worker ends or is silent for a minute. A duty that is not exclusive has to be safe in
        several workers at the same time, for example with `for update skip locked`.
        """

    def run(self, connection: psycopg.Connection) -> bool:
        """Do what there is to do now.

        Args:
            connection: in autocommit mode. The duty opens its own transactions and leaves none open.

        Returns:
            Whether there is more to do. If so, the duty runs again at once; otherwise after `interval`.
        """
