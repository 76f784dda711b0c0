"""Views that read customers' columns: which ones a schema has, and creating them.

`v_top_risk_customers` follows from the schema. The views in `sql/views` are for data sets that have certain columns.
Views that read no customer's column are in the migrations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database.averages import averages
from churn_platform.database.exceptions import SchemaConflictError
from churn_platform.database.prediction_columns import column_list, prediction_table
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import PROJECT_ROOT

FOLDER: Final = PROJECT_ROOT / "sql" / "views"

TOP_RISK: Final = "v_top_risk_customers"

# The worker keeps customer_summary, so only the rows of the listed events are read for the customers' columns.
_TOP_RISK: Final = sql.SQL("""
select c.customer_id, c.risk_score, {summary}c.event_timestamp, c.model_version
from (
    select customer_id, event_id, risk_score, event_timestamp, model_version
    from customer_summary
    where high_risk and event_timestamp > now() - interval '7 days'
    order by risk_score desc, customer_id desc
    limit 100
) as c
left join churn_predictions p using (event_id)
order by c.risk_score desc, c.customer_id desc
""")
SEGMENT, AVERAGE = "segment", "average"
"""What a view's file may need of a column in prediction_summary: that it is in `segments`, or has a sum and a count."""


@dataclass(frozen=True)
class View:
    """A view: its comment, its query, and the comments of its columns."""

    comment: str
    query: str
    columns: Mapping[str, str]

    @property
    def definition(self) -> str:
        """What the table customer_views has of it. A view is replaced when this changes."""
        comments = "".join(f"-- {name}: {text}\n" for name, text in self.columns.items())
        return f"-- {self.comment}\n{comments}{self.query}"


def customer_views(connection: psycopg.Connection, schema: CustomerSchema, folder: Path = FOLDER) -> dict[str, View]:
    """Return the views of this schema by name.

    Args:
        connection: to a database whose tables have the columns of the schema.
        schema: of the customers.
        folder: with `<name>.sql` for each view that only some data sets have.
    """
    found = {
        TOP_RISK: View(
            "The 100 customers of the last 7 days with the highest risk, each by the latest event",
            _top_risk(schema).as_string(connection).strip(),
            {
                "customer_id": "Id of the customer",
                "risk_score": "Probability of churn, from the threshold of the batch to 1",
                **{column.column: column.meaning for column in schema.summary},
                "event_timestamp": "Time of the customer's latest event",
                "model_version": "Model version that scored the event",
            },
        ),
    }
    given = {(each.column, SEGMENT) for each in schema.segments}
    given |= {(each.column, AVERAGE) for each in averages(schema)}
    for file in sorted(folder.glob("*.sql")):
        view, needed = _read(file)
        if needed <= given:
            found[file.stem] = view
    return found


def outdated_views(connection: psycopg.Connection, views: Mapping[str, View]) -> list[str]:
    """Return the names of views that are missing, have another definition, or are no longer wanted."""
    recorded: dict[str, str] = dict(
        connection.execute(
            "select name, definition from customer_views where to_regclass(quote_ident(name)) is not null"
        ).fetchall()
    )
    changed = [name for name, view in views.items() if recorded.get(name) != view.definition]
    return changed + [name for name in recorded if name not in views]


def replace_view(connection: psycopg.Connection, name: str, view: View | None) -> str:
    """Create, replace or drop a view in the caller's transaction, and return what was done, for people.

    A view that only changes how it computes its columns is replaced, so that views which read it stay.

    Raises:
        SchemaConflictError: its columns change, and other views read it. The caller rolls back.
    """
    identifier = sql.Identifier(name)
    if view is None:
        _drop(connection, identifier, name)
        connection.execute("delete from customer_views where name = %s", (name,))
        return f"Dropped the view {name}, because the schema lacks columns that it read"
    statement = sql.SQL("create or replace view {} as {}").format(identifier, sql.SQL(view.query))
    known = connection.execute("select exists (select from customer_views where name = %s)", (name,)).fetchone()
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.errors.InvalidTableDefinition:  # a view cannot lose a column or change its name
        _drop(connection, identifier, name)
        connection.execute(statement)
    connection.execute(sql.SQL("comment on view {} is {}").format(identifier, sql.Literal(view.comment)))
    for column, text in view.columns.items():
        connection.execute(
            sql.SQL("comment on column {} is {}").format(sql.Identifier(name, column), sql.Literal(text))
        )
    connection.execute(
        "insert into customer_views (name, definition) values (%s, %s) "
        "on conflict (name) do update set definition = excluded.definition",
        (name, view.definition),
    )
    return f"{'Replaced' if known == (True,) else 'Created'} the view {name}"


def _read(file: Path) -> tuple[View, set[tuple[str, str]]]:
    """Return the view of a file in sql/views, and what it needs: columns, and whether as a segment or an average."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("-- ") for line in takewhile(lambda line: line.startswith("-- "), lines)]
    notes = dict(line.partition(": ")[::2] for line in header[1:])
    needed = [tuple(column.split()) for column in notes.pop("needs", "").split(", ")]
    wrong = [each for each in needed if len(each) != 2 or each[1] not in {SEGMENT, AVERAGE}]
    if wrong:
        raise SchemaConflictError(
            f"{file} does not begin with a comment and a line of needed columns.",
            remedy="Begin it with '-- What it shows' and '-- needs: NAME segment, NAME average', as its neighbors do.",
        )
    return View(header[0], "\n".join(lines[len(header) :]).strip(), notes), {(name, use) for name, use in needed}


def _drop(connection: psycopg.Connection, identifier: sql.Identifier, name: str) -> None:
    try:
        connection.execute(sql.SQL("drop view if exists {}").format(identifier))
    except psycopg.errors.DependentObjectsStillExist as error:
        raise SchemaConflictError(
            f"The view {name} cannot be replaced, because others read it: {error.diag.message_detail}.",
            remedy="Drop those, run 'churn db upgrade', and create them again.",
        ) from error


def _top_risk(schema: CustomerSchema) -> sql.Composed:
    return _TOP_RISK.format(summary=column_list(prediction_table(schema).summary, table="p", end=True))
