"""Copies of a template database, which are reset and used again: a reset takes a fraction of a copy's time.

Copying a template writes about a thousand files, and dropping the copy deletes them. A test changes few tables, so
emptying these is quicker. A copy whose catalog a test has changed is dropped.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

# A session that does not end in this time keeps its database, which is dropped then.
END_SECONDS: Final = 10

_END_SESSIONS: Final = (
    "select pg_terminate_backend(pid, %s) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
)

# Rows of these catalogs do not change with the content of tables: their transactions tell whether anything was altered.
_CATALOGS: Final = (
    "pg_attrdef",
    "pg_constraint",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_extension",
    "pg_index",
    "pg_inherits",
    "pg_language",
    "pg_largeobject_metadata",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_statistic_ext",
    "pg_trigger",
)
_ALTERED: Final[Sequence[LiteralString]] = (
    # TRUNCATE and VACUUM change the other columns.
    """
    select string_agg(concat_ws(' ', oid, relname, relnamespace, relkind, relowner, relacl, reloptions, relchecks,
        relnatts, relrowsecurity, relforcerowsecurity, relpersistence, relreplident, relpartbound), ',' order by oid)
    from pg_class where oid >= 16384
    """,
    "select count(*), sum(xmin::text::bigint) from pg_attribute where attrelid >= 16384",
    "select count(*), sum(xmin::text::bigint) from pg_type where oid >= 16384",
    "select count(*), sum(xmin::text::bigint) from pg_description where objoid >= 16384",
    # Restarting a sequence writes its row, too.
    "select string_agg(s::text, ',' order by seqrelid) from pg_sequence s",
    # Temporary tables leave their schema behind.
    "select string_agg(concat_ws(' ', nspname, nspowner, nspacl), ',' order by oid) from pg_namespace "
    "where not starts_with(nspname, 'pg_temp_') and not starts_with(nspname, 'pg_toast_temp_')",
    "select datdba, datallowconn, datconnlimit, datacl::text from pg_database where datname = current_database()",
    "select string_agg(s::text, ',' order by s::text) from pg_db_role_setting s "
    "join pg_database d on d.oid = setdatabase where datname = current_database()",
)
_SEQUENCES: Final = "select schemaname, sequencename, last_value from pg_sequences"
# A table without a page has no rows.
_WITH_PAGES: Final = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid >= 16384 and c.relkind = 'r' and pg_relation_size(c.oid) > 0
"""

Name = tuple[str, str]  # of a table or a sequence: its schema and its own name


@dataclass(frozen=True)
class _Content:
    """What a new copy of a template holds.

    Attributes:
        catalog: its definitions.
        rows: of each table that has any, in PostgreSQL's binary format.
        sequences: last value of each sequence; None before the first.
    """

    catalog: list[object]
    rows: dict[Name, bytes]
    sequences: dict[Name, int | None]


@dataclass
class Databases:
    """Copies of the templates of one server.

    Attributes:
        owner_dsn: connection string of a superuser, to another database of the server.
        prefix: of their names.
    """

    owner_dsn: str
    prefix: str = "test"
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _contents: dict[str, _Content] = field(default_factory=dict)  # by template
    _free: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by template

    def copy(self, template: str) -> str:
        """Return the name of a database with a template's content. The template must have no connections."""
        if self._free[template]:
            return self._free[template].pop()
        name = self._new_name()
        with self._server() as server:
            server.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        if template not in self._contents:
            with self._database(name) as connection:
                self._contents[template] = _content(connection)
        return name

    def give_back(self, name: str, template: str) -> None:
        """End the sessions of a copy, and reset it for the next test under another name; if it was altered, drop it."""
        new_name = self._new_name()
        with self._server() as server:
            server.execute(_END_SESSIONS, (END_SECONDS * 1000, name))
            try:
                # Under its old name it is gone, as if it were dropped: nothing that a test left running can reach it.
                server.execute(
                    sql.SQL("alter database {} rename to {}").format(sql.Identifier(name), sql.Identifier(new_name))
                )
            except psycopg.errors.ObjectInUse:  # a client that connects again and again
                _drop(server, name)
                return
        if self._reset(new_name, self._contents[template]):
            self._free[template].append(new_name)
        else:
            with self._server() as server:
                _drop(server, new_name)

    def _reset(self, name: str, content: _Content) -> bool:
        """Give a database this content; return whether that was possible."""
        try:
            with self._database(name) as connection:
                if _catalog(connection) != content.catalog:
                    return False
                _restore(connection, content)
                return True
        except psycopg.OperationalError:  # a test has forbidden connections
            return False

    def _new_name(self) -> str:
        return f"{self.prefix}_{next(self._numbers)}"

    def _server(self) -> psycopg.Connection:
        return psycopg.connect(self.owner_dsn, autocommit=True)

    def _database(self, name: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.owner_dsn, dbname=name))


def _drop(server: psycopg.Connection, name: str) -> None:
    """Drop a database and end its sessions."""
    server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _catalog(connection: psycopg.Connection) -> list[object]:
    found: list[object] = [connection.execute(query).fetchall() for query in _ALTERED]
    transactions = sql.SQL(" union all ").join(
        sql.SQL("select count(*), sum(xmin::text::bigint) from {}").format(sql.Identifier(name)) for name in _CATALOGS
    )
    return [*found, connection.execute(transactions).fetchall()]


def _content(connection: psycopg.Connection) -> _Content:
    rows = {name: _read(connection, name) for name in _names(connection)}
    return _Content(_catalog(connection), rows, _sequences(connection))


def _names(connection: psycopg.Connection) -> list[Name]:
    return [(schema, name) for schema, name in connection.execute(_WITH_PAGES)]


def _sequences(connection: psycopg.Connection) -> dict[Name, int | None]:
    return {(schema, name): last for schema, name, last in connection.execute(_SEQUENCES)}


def _read(connection: psycopg.Connection, table: Name) -> bytes:
    query = sql.SQL("copy {} to stdout (format binary)").format(sql.Identifier(*table))
    with connection.cursor().copy(query) as copy:
        return b"".join(copy)


def _restore(connection: psycopg.Connection, content: _Content) -> None:
    """Make the content of every table and sequence what it was, without triggers or foreign keys."""
    connection.execute("set session_replication_role = replica")
    tables = sorted({*_names(connection), *content.rows})
    if tables:
        names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables)
        connection.execute(sql.SQL("truncate {} restart identity cascade").format(names))
    for table, rows in content.rows.items():
        query = sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier(*table))
        with connection.cursor().copy(query) as copy:
            copy.write(rows)
    for name, last in _sequences(connection).items():
        if last != content.sequences[name]:
            sequence = sql.Identifier(*name).as_string(connection)
            if content.sequences[name] is None:
                connection.execute(sql.SQL("alter sequence {} restart").format(sql.Identifier(*name)))
            else:
                connection.execute("select setval(%s, %s)", (sequence, content.sequences[name]))
    connection.execute("select pg_stat_reset()")
