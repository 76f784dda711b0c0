"""Connections to PostgreSQL, with session settings that are fixed here, whatever the environment configures.

The session settings change the meaning of a query: `datestyle` how a date is written, `timezone` which day an event
belongs to, `extra_float_digits` whether a score written as text reads back as the same number,
`default_transaction_read_only` whether anything can be written. PostgreSQL reads them from its configuration, from the
database, from the login (`alter role ... set`) and from libpq's environment variables. Settings that a
client sends when a session starts override the first three, so this module sends all of them. It does not use libpq's
variables.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

SESSION: Final[Mapping[str, str]] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",  # the shortest text that reads back as the same number
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "synchronous_commit": "on",  # a commit survives a crash of the server; offsets and topics rely on it
}
"""Settings of every session, whatever the connection string, the login, the database or the server configures."""

SCHEMA: Final = "public"
"""Schema of the platform's tables, unless the `options` of the connection string name another search path."""

IGNORED_VARIABLES: Final = frozenset(
    {
        "PGAPPNAME",
        "PGCLIENTENCODING",
        "PGCONNECT_TIMEOUT",
        "PGDATABASE",
        "PGDATESTYLE",
        "PGGEQO",
        "PGHOST",
        "PGHOSTADDR",
        "PGLOADBALANCEHOSTS",
        "PGMAXPROTOCOLVERSION",
        "PGMINPROTOCOLVERSION",
        "PGOPTIONS",
        "PGPORT",
        "PGSERVICE",
        "PGTARGETSESSIONATTRS",
        "PGTZ",
        "PGUSER",
    }
)
"""libpq's variables that choose another server or other session settings. Those for passwords, TLS and Kerberos are
used, because they only decide how a login authenticates."""


def ignore_environment() -> None:
    """Remove libpq's variables from this process, because a connection string cannot override all of them."""
    for variable in IGNORED_VARIABLES:
        os.environ.pop(variable, None)


def session_options(given: str = "") -> str:
    """Return the value of the connection parameter `options` that fixes the session settings.

    Args:
        given: options of the connection string; those that are not in SESSION are kept.
    """
    pinned = [f"-c{name}={_escaped(value)}" for name, value in SESSION.items()]
    return " ".join(filter(None, [f"-csearch_path={SCHEMA}", given, *pinned]))


def _escaped(value: str) -> str:
    """Escape a value for `options`, where a space ends an option."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def connect(
    dsn: str,
    *,
    application_name: str,
    autocommit: bool = False,
    search_path: str | None = None,
    **parameters: str | int,
) -> psycopg.Connection:
    """Open a connection. As a context manager it commits, or rolls back on an error, and closes.

    Args:
        dsn: connection string, a URL or `name=value` pairs.
        application_name: shown in pg_stat_activity.
        autocommit: whether each statement is its own transaction.
        search_path: schema for unqualified names, instead of SCHEMA.
        parameters: other connection parameters of libpq.

    Raises:
        psycopg.OperationalError: the server does not answer, or refuses the connection.
    """
    ignore_environment()
    options = str(conninfo_to_dict(dsn).get("options") or "")
    if search_path is not None:
        options += f" -csearch_path={_escaped(search_path)}"
    conninfo = make_conninfo(dsn, application_name=application_name, options=session_options(options), **parameters)
    return psycopg.connect(conninfo, autocommit=autocommit)


def pinned_url(url: str) -> str:
    """Return the URL with the session settings, for libraries that open their own connections."""
    ignore_environment()
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = session_options(query.get("options", ""))
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def program_arguments(dsn: str) -> tuple[str, dict[str, str]]:
    """Return a connection string without its password, and an environment that has it, for PostgreSQL's programs.

    Other users can read the arguments of a process, but not its environment.
    """
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    password = given.pop("password", None)
    environment = {name: value for name, value in os.environ.items() if name not in IGNORED_VARIABLES}
    return make_conninfo(**given), environment if password is None else {**environment, "PGPASSWORD": password}


def open_pool(
    dsn: str, *, application_name: str, most: int, connect_seconds: int, statement_seconds: int
) -> "ConnectionPool[psycopg.Connection]":
    """Return a pool of connections in autocommit mode. Each is opened when it is first needed.

    A connection is tested before it is used, so one that broke while PostgreSQL was away is replaced.

    Args:
        dsn: connection string, a URL or `name=value` pairs.
        application_name: shown in pg_stat_activity.
        most: connections at the same time.
        connect_seconds: how long a connection may take to open, and how long a request waits for a free one.
        statement_seconds: how long a statement may take, unless a transaction says otherwise.
    """
    from psycopg_pool import ConnectionPool  # only servers need it

    ignore_environment()
    options = str(conninfo_to_dict(dsn).get("options") or "")
    return ConnectionPool(
        dsn,
        kwargs={
            "autocommit": True,
            "application_name": application_name,
            "connect_timeout": connect_seconds,
            "options": f"{session_options(options)} -cstatement_timeout={statement_seconds}s",
        },
        check=ConnectionPool.check_connection,
        min_size=0,
        max_size=most,
        timeout=connect_seconds,
        # The pool would wait longer and longer between attempts. Each request makes an attempt of its own instead.
        reconnect_timeout=0,
        open=True,
    )
