"""The table stream_layouts: into how many lanes the partitions of each events topic are split."""

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

# For statements that know the id of the topic, or its name. `lanes` is the number of lanes of the run's batch.
IS_CHANGED_BY_ID: Final = """
    exists (
        select from stream_layouts join stream_topics using (topic)
        where topic_id = %(topic_id)s and wanted <> %(lanes)s
    )
"""
IS_CHANGED: Final = "exists (select from stream_layouts where topic = %(topic)s and wanted <> %(lanes)s)"
_WANT: Final = """
    insert into stream_layouts as l (topic, lanes, wanted) values (%(topic)s, 1, %(lanes)s)
    on conflict (topic) do update set wanted = excluded.wanted, changed_at = now()
    where l.wanted = %(seen)s
"""
_PUT_IN_EFFECT: Final = """
    update stream_layouts set lanes = wanted, changed_at = now() where topic = %s and lanes = %s and wanted = %s
"""


@dataclass(frozen=True)
class Layout:
    """The number of lanes in effect, and the number that is wanted. They differ while the number changes."""

    lanes: int = 1
    wanted: int = 1

    @property
    def most(self) -> int:
        """The greater of both numbers: no producer of another lane can have an open transaction."""
        return max(self.lanes, self.wanted)


def layout(connection: psycopg.Connection, topic: str) -> Layout:
    """Return the layout of a topic. A topic whose number was never changed has one lane."""
    with connection.cursor(row_factory=class_row(Layout)) as cursor:
        found = cursor.execute("select lanes, wanted from stream_layouts where topic = %s", (topic,)).fetchone()
    return found or Layout()


def want(connection: psycopg.Connection, topic: str, lanes: int, *, seen: Layout) -> bool:
    """Record that this number of lanes is wanted, if what was wanted has not changed since `seen`.

    Live runs of another number end after their current commit.

    Returns:
        Whether it was recorded.
    """
    return connection.execute(_WANT, {"topic": topic, "lanes": lanes, "seen": seen.wanted}).rowcount == 1


def put_in_effect(connection: psycopg.Connection, topic: str, *, seen: Layout) -> bool:
    """Put the wanted number of lanes in effect, if neither number has changed since `seen`; return whether it was.

    Only the session that holds the stream's lock alone may call this, when no run of the former lanes can commit or
    publish any more.
    """
    return connection.execute(_PUT_IN_EFFECT, (topic, seen.lanes, seen.wanted)).rowcount == 1
