"""Views that read customers' columns: which ones a schema has, and creating them.

`v_top_risk_customers` and `v_segment_churn` follow from the schema. The views in `sql/views` are for data sets that
have certain columns. Views that read no customer's column are in the migrations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from churn_platform.database.catalog import columns_of
from churn_platform.database.exceptions import SchemaConflictError
from churn_platform.database.prediction_columns import column_list, prediction_table
from churn_platform.database.segments import segment_value
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import PROJECT_ROOT

FOLDER: Final = PROJECT_ROOT / "sql" / "views"

TOP_RISK: Final = "v_top_risk_customers"
SEGMENTS: Final = "v_segment_churn"

# A customer whose latest score is low is not listed, whatever the earlier scores were. An index returns the rows in
# the order of risk, so only a few of them are compared with later rows. A row whose alert was sent may be below the
# threshold after a replay.
_TOP_RISK: Final = sql.SQL("""
select p.customer_id, p.risk_score, {summary}p.event_timestamp, p.model_version
from high_risk_customers h
join churn_predictions p using (event_id)
join stream_batches b on b.batch = h.batch
where p.event_timestamp > now() - interval '7 days'
  and h.risk_score::double precision >= b.high_risk_threshold
  and not exists (
      select from churn_predictions later
      where later.customer_id = p.customer_id
        and (later.event_timestamp, later.kafka_offset, later.event_id)
            > (p.event_timestamp, p.kafka_offset, p.event_id)
  )
order by h.risk_score desc
limit 100
""")
# Predictions are counted once for each combination of segments, of which there are few, and these counts are added for
# each segment. So the predictions are read once, however many segments there are.
_SEGMENTS: Final = sql.SQL("""
select
    s.segment,
    s.value,
    sum(g.total_predictions)::bigint as total_predictions,
    sum(g.churn_count)::bigint as churn_count,
    100.0 * sum(g.churn_count) / sum(g.total_predictions)::double precision as churn_rate,
    sum(g.risk_sum) / sum(g.total_predictions)::double precision as avg_risk_score,
    sum(g.high_risk_count)::bigint as high_risk_count
from (
    select
        {grouped}count(*) as total_predictions,
        sum(prediction) as churn_count,
        sum(risk_score::double precision) as risk_sum,
        count(*) filter (where risk_score::double precision >= high_risk_threshold) as high_risk_count
    from churn_predictions
    left join stream_batches using (batch)
    where event_timestamp > now() - interval '30 days'
    group by {places}
) as g
cross join lateral unnest(array[{names}]::text[], array[{values}]::text[]) as s (segment, value)
group by s.segment, s.value
order by s.segment, s.value
""")

HIGH_RISK: Final = "High-risk predictions: a risk score of at least HIGH_RISK_THRESHOLD when the batch was opened"
_COUNTS: Final = {
    "total_predictions": "Number of predictions",
    "churn_count": "Predictions of churn",
    "churn_rate": "churn_count as a percentage of total_predictions, 0 to 100",
    "avg_risk_score": "Mean risk score, 0 to 1",
    "high_risk_count": HIGH_RISK,
}
_NUMBERS: Final = frozenset({"smallint", "integer", "bigint", "real", "double precision"})


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
    types = {column.name: column.type for column in columns_of(connection, "churn_predictions")}
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
        SEGMENTS: View(
            "Predictions of the last 30 days by segment and its value, which the customer schema defines",
            _segments(schema).as_string(connection).strip(),
            {
                "segment": "Column of churn_predictions",
                "value": "Its value or band; missing for null, other for a category that the schema does not list",
                **_COUNTS,
            },
        ),
    }
    for file in sorted(folder.glob("*.sql")):
        view, needed = _read(file)
        if all(_kind(types.get(name)) == kind for name, kind in needed.items()):
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


def _read(file: Path) -> tuple[View, Mapping[str, str]]:
    """Return the view of a file in sql/views, and what it needs: column of churn_predictions -> "text" or "number"."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("-- ") for line in takewhile(lambda line: line.startswith("-- "), lines)]
    notes = dict(line.partition(": ")[::2] for line in header[1:])
    if "needs" not in notes:
        raise SchemaConflictError(
            f"{file} does not begin with a comment and a line of needed columns.",
            remedy="Begin it with '-- What it shows' and '-- needs: NAME text, NAME number', as its neighbors do.",
        )
    needed = dict(column.split() for column in notes.pop("needs").split(", "))
    return View(header[0], "\n".join(lines[len(header) :]).strip(), notes), needed


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


def _segments(schema: CustomerSchema) -> sql.Composed:
    segments = schema.segments
    grouped = [
        sql.SQL("{} as {},\n        ").format(segment_value(each), sql.Identifier(each.column)) for each in segments
    ]
    places = sql.SQL(", ").join(sql.Literal(place) for place, _ in enumerate(segments, start=1))
    comma = sql.SQL(", ")
    return _SEGMENTS.format(
        grouped=sql.Composed(grouped),
        places=places if segments else sql.SQL("()"),
        names=comma.join(sql.Literal(each.column) for each in segments),
        values=comma.join(sql.Identifier("g", each.column) for each in segments),
    )


def _kind(type_: str | None) -> str | None:
    return "number" if type_ in _NUMBERS else type_
