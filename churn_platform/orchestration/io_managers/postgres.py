"""The PostgreSQL IO manager: stores frames of partitioned assets in tables and loads them."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
from psycopg import sql

from churn_platform.database import stream_batches
from churn_platform.database.connections import connect
from churn_platform.orchestration.retries import in_io_manager, retry_transient_errors
from churn_platform.settings import settings

COLUMN_TYPES = {"i": "bigint", "u": "bigint", "f": "double precision", "b": "boolean"}


class PostgresIOManagerError(Exception):
    """A frame cannot be stored, or a table cannot be loaded."""


class Slice:
    """The rows of a table that belong to a run's partitions: a time window, or a set of keys, of one column.

    Raises:
        PostgresIOManagerError: the asset is partitioned but does not name the column.
    """

    def __init__(self, context: dg.OutputContext | dg.InputContext) -> None:
        upstream = context.upstream_output if isinstance(context, dg.InputContext) else context
        metadata = (upstream.definition_metadata if upstream else None) or {}
        self.asset = context.asset_key.to_user_string()
        self.table = str(metadata.get("dagster/table_name", context.asset_key.path[-1]))
        self.column: str | None = metadata.get("partition_expr")
        self.window: tuple[datetime, datetime] | None = None
        self.keys: list[str] | None = None
        if not context.has_asset_partitions:
            return
        if self.column is None:
            raise PostgresIOManagerError(
                f"Asset {self.asset} is partitioned, but does not name the column of {self.table}. Name it in the "
                f'asset\'s metadata: metadata={{"partition_expr": "hour_timestamp"}}.'
            )
        if isinstance(context.asset_partitions_def, dg.TimeWindowPartitionsDefinition):
            window = context.asset_partitions_time_window
            self.window = (window.start, window.end)
        else:
            self.keys = list(context.asset_partition_keys)

    @property
    def description(self) -> str:
        """The slice as text, for messages."""
        if self.window is not None:
            return f"{self.column} from {self.window[0].isoformat()} until before {self.window[1].isoformat()}"
        if self.keys is not None:
            return f"{self.column} in {', '.join(self.keys)}"
        return "the whole table"

    def condition(self, column_type: str) -> tuple[sql.Composable, Sequence[object]]:
        """Return an SQL condition and its parameters that select the slice."""
        if self.column is None or (self.window is None and self.keys is None):
            return sql.SQL("true"), ()
        column = sql.Identifier(self.column)
        if self.window is not None:
            bounds: Sequence[object] = self.window
            if column_type == "date":
                bounds = [moment.date() for moment in self.window]
            return sql.SQL("{0} >= %s and {0} < %s").format(column), bounds
        return sql.SQL("{}::text = any(%s)").format(column), (self.keys,)

    def outside(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the frame that do not belong to the slice.

        Raises:
            PostgresIOManagerError: the frame lacks the partition column.
        """
        if self.window is None and self.keys is None:
            return frame.iloc[:0]
        if self.column not in frame:
            raise PostgresIOManagerError(
                f"The frame of {self.asset} has no column {self.column!r}, by which {self.table} is partitioned: "
                f"it has {', '.join(map(str, frame.columns))}."
            )
        values = frame[self.column]
        if self.window is not None:
            moments = pd.to_datetime(values, utc=True)
            return frame[~((moments >= self.window[0]) & (moments < self.window[1]))]
        return frame[~values.astype(str).isin(self.keys or [])]


class PostgresIOManager(dg.ConfigurableIOManager):
    """Replaces the rows of a partition with a frame, in one transaction, and loads rows by partition or window.

    The asset's metadata names the table (`dagster/table_name`, by default the last part of its key) and the partition
    column (`partition_expr`). Columns that the frame does not have take the defaults of the table. A table that does
    not exist is created with the types of the frame.
    """

    db_schema: str = "public"

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Store a frame.

        Raises:
            PostgresIOManagerError: the value is not a frame, has rows outside the partition, or has unknown columns.
        """
        if not isinstance(obj, pd.DataFrame):
            raise PostgresIOManagerError(
                f"Asset {context.asset_key.to_user_string()} returned {type(obj).__name__}; this IO manager stores "
                f"pandas DataFrames. Return a frame, or a MaterializeResult without a value."
            )
        target = Slice(context)
        stray = target.outside(obj)
        if len(stray):
            raise PostgresIOManagerError(
                f"{len(stray)} of {len(obj)} rows of {target.asset} are outside its partition ({target.description}); "
                f"the first: {stray.iloc[0].to_dict()}. Nothing was written."
            )
        with (
            retry_transient_errors(attempts_before=in_io_manager(context)),
            connect(settings().postgres_dsn, application_name="churn io manager") as connection,
        ):
            name = f"{self.db_schema}.{target.table}"
            # Without this lock two runs could delete the same rows, and then both insert them.
            connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 1))", (name,))
            types = self._column_types(connection, target.table)
            if not types:
                self._create(connection, target, obj)
                types = self._column_types(connection, target.table)
            unknown = [name for name in obj.columns if name not in types]
            if unknown:
                raise PostgresIOManagerError(
                    f"Table {name} has no column {', '.join(map(repr, unknown))}, which the frame "
                    f"of {target.asset} has. It has {', '.join(types)}. "
                    f"Add the column in a migration, or remove it from the frame."
                )
            condition, parameters = target.condition(types.get(target.column or "", ""))
            deleted = connection.execute(
                sql.SQL("delete from {} where {}").format(self._identifier(target.table), condition), parameters
            ).rowcount
            self._copy(connection, target.table, obj)
        rows = {"dagster/partition_row_count" if context.has_asset_partitions else "dagster/row_count": len(obj)}
        context.add_output_metadata({**rows, "dagster/table_name": name, "rows_replaced": deleted})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Load the rows of the upstream asset's partitions, or all rows if it has no partitions.

        Raises:
            PostgresIOManagerError: there is no such table, or a batch of predictions has been archived.
        """
        source = Slice(context)
        with (
            retry_transient_errors(attempts_before=in_io_manager(context)),
            connect(settings().postgres_dsn, application_name="churn io manager") as connection,
        ):
            types = self._column_types(connection, source.table)
            if not types:
                raise PostgresIOManagerError(
                    f"Table {self.db_schema}.{source.table} does not exist: materialize {source.asset} first, "
                    f"or apply the migrations with 'churn db upgrade'."
                )
            if source.table == "churn_predictions":
                _refuse_archived(connection, source.keys or [])
            condition, parameters = source.condition(types.get(source.column or "", ""))
            columns = sql.SQL(", ").join(map(sql.Identifier, types))
            query = sql.SQL("select {} from {} where {}").format(columns, self._identifier(source.table), condition)
            if source.column:
                query = sql.SQL("{} order by {}").format(query, sql.Identifier(source.column))
            rows = connection.execute(query, parameters).fetchall()
        frame = pd.DataFrame(rows, columns=list(types))
        for name, type_ in types.items():
            if type_.startswith("timestamp with"):
                frame[name] = pd.to_datetime(frame[name], utc=True)
            elif type_ in ("double precision", "real"):
                frame[name] = frame[name].astype("float64")
        return frame

    def _identifier(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.db_schema, table)

    def _column_types(self, connection: psycopg.Connection, table: str) -> dict[str, str]:
        """Return column -> PostgreSQL type; empty if there is no such table."""
        rows = connection.execute(
            "select column_name, data_type from information_schema.columns "
            "where table_schema = %s and table_name = %s order by ordinal_position",
            (self.db_schema, table),
        )
        return dict(rows.fetchall())

    def _create(self, connection: psycopg.Connection, target: Slice, frame: pd.DataFrame) -> None:
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(str(name)), sql.SQL(_column_type(values)))
            for name, values in frame.items()
        )
        table = self._identifier(target.table)
        try:
            connection.execute(sql.SQL("create table {} ({})").format(table, columns))
        except psycopg.errors.InsufficientPrivilege as error:
            raise PostgresIOManagerError(
                f"Table {self.db_schema}.{target.table} does not exist, and the login of DATABASE_URL may not create "
                f"tables in the schema {self.db_schema}. Add the table by a migration in sql/migrations and apply it "
                f"with 'churn db upgrade'."
            ) from error
        if target.column:
            connection.execute(sql.SQL("create index on {} ({})").format(table, sql.Identifier(target.column)))

    def _copy(self, connection: psycopg.Connection, table: str, frame: pd.DataFrame) -> None:
        names = sql.SQL(", ").join(sql.Identifier(str(name)) for name in frame.columns)
        statement = sql.SQL("copy {} ({}) from stdin").format(self._identifier(table), names)
        values = frame.astype(object).mask(frame.isna(), None)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in values.itertuples(index=False, name=None):
                copy.write_row(row)


def _refuse_archived(connection: psycopg.Connection, batches: Sequence[str]) -> None:
    """Raise an error if a batch is archived, because loading it would return too few rows, or none."""
    for batch, file in stream_batches.archived_among(connection, batches):
        raise PostgresIOManagerError(
            f"Batch {batch} has been archived: its predictions are in {file}. Read that file instead."
        )


def _column_type(values: "pd.Series[Any]") -> str:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return "timestamptz"
    if values.dtype.kind == "M":
        return "timestamp"
    if values.dtype.kind in COLUMN_TYPES:
        return COLUMN_TYPES[values.dtype.kind]
    known = values.dropna()
    if len(known) and all(type(value) is date for value in known):
        return "date"
    return "text"
