"""The table changed_outcomes: events and customers with new outcomes, until the summaries know which customers left.

A trigger on customer_outcomes writes it.
"""

import psycopg


def exist(connection: psycopg.Connection) -> bool:
    """Return whether the table has rows."""
    return connection.execute("select exists (select from changed_outcomes)").fetchone() == (True,)


def delete(connection: psycopg.Connection) -> None:
    """Delete the rows that the caller's transaction sees."""
    connection.execute("delete from changed_outcomes")
