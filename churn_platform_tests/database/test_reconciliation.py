"""Tables and views follow the customer schema, when they are created and when the schema changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from churn_platform.database import customer_schemas
from churn_platform.database.catalog import TableColumn, columns_of
from churn_platform.database.connections import connect
from churn_platform.database.customer_columns import customer_columns
from churn_platform.database.customer_views import customer_views
from churn_platform.database.exceptions import SchemaConflictError, TableInUseError
from churn_platform.database.migrations import MigrationError, upgrade
from churn_platform.database.prediction_columns import Origin, prediction_table
from churn_platform.database.reconciliation import WAITS, reconcile
from churn_platform.local.stack import Stack
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.database.conftest import Database, new_database

VISITS = Column(name="Visits", kind="whole", minimum=0, maximum=1000, missing="median", averaged=True, summary=True)


def with_columns(schema: CustomerSchema, *columns: Column) -> CustomerSchema:
    return replace(schema, columns=(*schema.columns, *columns))


def without(schema: CustomerSchema, *names: str) -> CustomerSchema:
    return replace(schema, columns=tuple(column for column in schema.columns if column.name not in names))


def changed(schema: CustomerSchema, name: str, **changes: object) -> CustomerSchema:
    columns = tuple(replace(each, **changes) if each.name == name else each for each in schema.columns)  # type: ignore[arg-type]  # any field
    return replace(schema, columns=columns)


def table(dsn: str, name: str = "churn_predictions") -> dict[str, TableColumn]:
    with connect(dsn, application_name="test") as connection:
        return {column.name: column for column in columns_of(connection, name)}


def everything(dsn: str) -> Sequence[tuple[object, ...]]:
    """Columns, their types, and what null is allowed in, of all tables and views."""
    with connect(dsn, application_name="test") as connection:
        return connection.execute(
            "select attrelid::regclass::text, attname, atttypid, attnotnull, col_description(attrelid, attnum) "
            "from pg_attribute join pg_class c on c.oid = attrelid "
            "where relnamespace = 'public'::regnamespace and attnum > 0 order by 1, attnum"
        ).fetchall()


def test_a_new_table_has_the_columns_of_the_schema_in_order(any_database: Database, any_schema: CustomerSchema) -> None:
    with connect(any_database.writer, application_name="test") as connection:
        found = columns_of(connection, "churn_predictions")

    assert [(each.name, each.type, each.nullable and not each.generated, each.generated) for each in found] == [
        (column.name, column.type, column.nullable, column.origin is Origin.GENERATED)
        for column in prediction_table(any_schema).columns
    ]


def test_every_table_has_its_customers_columns(any_database: Database, any_schema: CustomerSchema) -> None:
    for name, wanted in customer_columns(any_schema).items():
        found = table(any_database.writer, name)
        assert [found[column.name] for column in wanted] == list(wanted)
    for name in ("churn_predictions", "high_risk_customers", "customer_outcomes"):
        assert table(any_database.writer, name)["customer_id"].type == any_schema.id_type


def test_a_second_upgrade_changes_nothing_and_needs_no_owner(
    any_database: Database, any_schema: CustomerSchema
) -> None:
    again = upgrade(any_database.writer, any_schema)

    assert (again.migrations, again.changes) == ([], [])
    assert "Created the view v_top_risk_customers" in any_database.created.changes


def test_the_schema_is_recorded_as_it_is(any_database: Database, any_schema: CustomerSchema) -> None:
    with connect(any_database.writer, application_name="test") as connection:
        found = customer_schemas.get(connection, any_schema.fingerprint)
        unknown = customer_schemas.get(connection, "0" * 64)

    assert found == any_schema
    assert found.fingerprint == any_schema.fingerprint
    assert unknown is None


def test_only_data_sets_with_a_country_an_age_and_a_balance_have_the_view_by_country(
    any_database: Database, any_schema: CustomerSchema
) -> None:
    with connect(any_database.writer, application_name="test") as connection:
        views = customer_views(connection, any_schema)

    assert ("v_geography_churn" in views) == ("Geography" in any_schema.by_name)
    assert bool(table(any_database.writer, "v_geography_churn")) == ("Geography" in any_schema.by_name)


def test_a_column_that_joins_the_schema_is_added_everywhere_and_may_be_null(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    before = table(bank_database.writer)

    done = bank_database.upgrade(with_columns(bank_schema, VISITS))

    after = table(bank_database.writer)
    assert {name: after[name] for name in before} == before
    assert after["visits"] == TableColumn(name="visits", type="smallint", nullable=True, comment=VISITS.meaning)
    assert "Added the column churn_predictions.visits (smallint)" in done.changes
    assert table(bank_database.writer, "high_risk_customers")["visits"].nullable
    assert {"visits_sum", "visits_count"} <= set(table(bank_database.writer, "churn_batch_hours"))
    assert {"avg_visits", "visits_count"} <= set(table(bank_database.writer, "churn_metrics_daily"))
    assert "visits" in table(bank_database.writer, "v_top_risk_customers")
    assert bank_database.upgrade(with_columns(bank_schema, VISITS)).changes == []


def test_a_column_that_leaves_the_schema_stays_and_becomes_nullable(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    before = table(bank_database.writer)

    done = bank_database.upgrade(without(bank_schema, "Balance"))

    after = table(bank_database.writer)
    assert list(after) == list(before)
    assert [name for name in after if after[name] != before[name]] == ["balance"]
    assert after["balance"].nullable
    assert table(bank_database.writer, "churn_batch_hours")["balance_sum"].nullable
    assert "Made churn_predictions.balance nullable: the column left the schema, and its values stay" in done.changes
    assert "balance" not in table(bank_database.writer, "v_top_risk_customers")

    bank_database.upgrade(bank_schema)

    assert "balance" in table(bank_database.writer, "v_top_risk_customers")


def test_columns_that_somebody_else_added_stay_as_they_are(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    with psycopg.connect(bank_database.owner) as connection:
        connection.execute("alter table churn_predictions add column note text not null default ''")

    bank_database.upgrade(without(bank_schema, "Balance"))

    assert not table(bank_database.writer)["note"].nullable


def test_a_value_that_may_be_missing_from_now_on_may_be_null(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    done = bank_database.upgrade(changed(bank_schema, "Tenure", missing="median"))

    assert table(bank_database.writer)["tenure"].nullable
    assert "Made churn_predictions.tenure nullable: the schema allows missing values" in done.changes
    assert "tenure_count" in table(bank_database.writer, "churn_batch_hours")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Tenure", {"maximum": 100_000}, r"churn_predictions\.tenure is smallint, and the schema needs integer"),
        ("Geography", {"kind": "whole", "categories": ()}, r"churn_predictions\.geography is text, and .* bigint"),
        ("Age", {"single_precision": False}, r"churn_predictions\.age is real, .* high_risk_customers\.age is real"),
        ("CustomerId", {"kind": "text", "max_length": 20}, r"churn_predictions\.customer_id is bigint, .* are text"),
    ],
)
def test_another_type_is_refused_by_name_and_nothing_changes(
    bank_database: Database, bank_schema: CustomerSchema, name: str, changes: dict[str, object], message: str
) -> None:
    before = everything(bank_database.writer)

    with pytest.raises(SchemaConflictError, match=message):
        bank_database.upgrade(with_columns(changed(bank_schema, name, **changes), VISITS))

    assert everything(bank_database.writer) == before


def test_another_data_set_is_refused(bank_database: Database, bank_schema: CustomerSchema) -> None:
    before = everything(bank_database.writer)

    with pytest.raises(SchemaConflictError, match=r"holds the data set bank_customers, .* describes shop"):
        bank_database.upgrade(replace(bank_schema, name="shop"))

    assert everything(bank_database.writer) == before


@pytest.mark.parametrize(
    "name",
    ["order", "größe", "顧客の年齢", "user", "select", "table", "a" * 52, "value", "segment", "null"],
)
def test_any_name_that_a_schema_accepts_is_a_column(stack: Stack, bank_schema: CustomerSchema, name: str) -> None:
    column = replace(VISITS, name="Field", sql_name=name, segment=True, description="100 % 'quoted' {braces} \\")
    schema = with_columns(bank_schema, column)

    database = new_database(stack, schema)

    assert table(database.writer)[name].comment == column.meaning
    with psycopg.connect(database.writer, autocommit=True) as connection:
        connection.execute("select * from v_top_risk_customers")
        assert SummariesDuty(SummariesConfig(schema, control_share=0.1)).run(connection) is False


def test_a_login_that_may_not_change_tables_is_told_so(bank_database: Database, bank_schema: CustomerSchema) -> None:
    with pytest.raises(MigrationError, match=r"do not fit the customer schema, .* DATABASE_OWNER_URL"):
        upgrade(bank_database.writer, with_columns(bank_schema, VISITS))


def test_a_table_in_use_is_tried_again_and_then_named_with_its_users(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    waits: list[float] = []
    schema = with_columns(bank_schema, VISITS)
    with (
        psycopg.connect(bank_database.writer, application_name="an analyst") as analyst,
        connect(bank_database.owner, autocommit=True, application_name="test") as connection,
    ):
        analyst.execute("select count(*) from churn_predictions")
        with pytest.raises(TableInUseError, match=r"churn_predictions could not be changed, .* \(an analyst\)"):
            reconcile(connection, schema, pause=waits.append)
        assert "visits" not in table(bank_database.writer)

        done = reconcile(connection, schema, pause=lambda _: analyst.rollback())

    assert waits == list(WAITS)
    assert "Added the column churn_predictions.visits (smallint)" in done
    assert "visits" in table(bank_database.writer)


def test_commits_go_on_while_an_analyst_reads_and_a_column_waits(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    """Between the attempts, what waited behind the change goes on."""
    written: list[int] = []
    with (
        psycopg.connect(bank_database.writer) as analyst,
        psycopg.connect(bank_database.writer, autocommit=True) as stream,
        connect(bank_database.owner, autocommit=True, application_name="test") as connection,
    ):
        analyst.execute("select count(*) from churn_predictions")

        def commit(_: float) -> None:
            written.append(stream.execute("update churn_predictions set batch = batch").rowcount)

        with pytest.raises(TableInUseError):
            reconcile(connection, with_columns(bank_schema, VISITS), pause=commit)

    assert written == [0] * len(WAITS)


def test_a_view_that_others_read_is_replaced_while_its_columns_stay(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    with psycopg.connect(bank_database.owner) as connection:
        connection.execute("create view mine as select * from v_top_risk_customers")
        connection.execute("update customer_views set definition = 'of an earlier version'")

    done = bank_database.upgrade(bank_schema)

    assert done.changes == ["Replaced the view v_top_risk_customers", "Replaced the view v_geography_churn"]


def test_a_view_that_others_read_is_named_when_its_columns_change(
    bank_database: Database, bank_schema: CustomerSchema
) -> None:
    with psycopg.connect(bank_database.owner) as connection:
        connection.execute("create view mine as select * from v_top_risk_customers")

    with pytest.raises(SchemaConflictError, match=r"v_top_risk_customers cannot .*view mine depends on"):
        bank_database.upgrade(changed(bank_schema, "Balance", summary=False))

    assert "balance" in table(bank_database.writer, "v_top_risk_customers")


def test_a_view_file_says_what_it_needs(bank_database: Database, bank_schema: CustomerSchema, tmp_path: Path) -> None:
    (tmp_path / "v_mine.sql").write_text("select 1\n")

    with (
        connect(bank_database.writer, application_name="test") as connection,
        pytest.raises(SchemaConflictError, match=r"v_mine\.sql does not begin with a comment"),
    ):
        customer_views(connection, bank_schema, tmp_path)
