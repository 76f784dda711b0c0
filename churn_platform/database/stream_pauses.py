"""The table stream_pauses: topics whose stream an operator has paused."""

from datetime import datetime
from typing import Final

import psycopg

# For statements that know the id of the topic.
IS_PAUSED_BY_ID: Final = """
    exists (select from stream_pauses join stream_topics using (topic) where topic_id = %(topic_id)s)
"""
IS_PAUSED: Final = "exists (select from stream_pauses where topic = %(topic)s)"


def pause(connection: psycopg.Connection, topic: str) -> None:
    """Pause the stream: the live run ends after its current commit, and the sensor launches no other."""
    connection.execute("insert into stream_pauses (topic) values (%s) on conflict do nothing", (topic,))


def resume(connection: psycopg.Connection, topic: str) -> bool:
    """Resume a paused stream; return whether it was paused."""
    return connection.execute("delete from stream_pauses where topic = %s", (topic,)).rowcount > 0


def paused_since(connection: psycopg.Connection, topic: str) -> datetime | None:
    """Return when the stream was paused, or None if it is not."""
    row = connection.execute("select since from stream_pauses where topic = %s", (topic,)).fetchone()
    return None if row is None else row[0]
