"""Create and change logins of the database, with a login that may create roles."""

import psycopg
from psycopg import sql

from churn_platform.database.connections import connect


def ensure_login(connection: psycopg.Connection, *, name: str, password: str, role: str | None) -> None:
    """Create the login if it does not exist, set its password, and make it a member of the role.

    Args:
        connection: of a login that may create roles.
        name: of the login.
        password: in plain text. Only its SCRAM verifier is sent, because the server may log the statement.
        role: one that the migrations created; None for a login without a role.
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
    """Return whether the login of this connection string can connect and has the rights of the role."""
    try:
        with connect(dsn, connect_timeout=10, application_name="churn logins") as connection:
            known = connection.execute("SELECT pg_has_role(%s, 'usage')", (role,)).fetchone()
    except psycopg.OperationalError:
        return False
    return known == (True,)
