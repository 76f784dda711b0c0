"""Logins of the database: made, or given another password, by whoever may make roles."""

import psycopg
from psycopg import sql

from churn_platform.database.connections import connect


def ensure_login(connection: psycopg.Connection, *, name: str, password: str, role: str | None) -> None:
    """Make the login if it is missing, with this password and a member of the role.

    Args:
        connection: of a login that may create roles.
        name: of the login.
        password: in plain; what is sent is the verifier that the server keeps, for a statement may end up in its log.
        role: that the migrations made; None leaves the login on its own.
    """
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).rowcount:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    connection.execute(
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(verifier.decode()))
    )
    if role is not None:
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))


def can_log_in(dsn: str, *, role: str) -> bool:
    """Whether the login of this connection string is let in, and has the rights of the role."""
    try:
        with connect(dsn, connect_timeout=10, application_name="churn logins") as connection:
            known = connection.execute("SELECT pg_has_role(%s, 'usage')", (role,)).fetchone()
    except psycopg.OperationalError:
        return False
    return known == (True,)
