"""Columns, lineage and checks of the stream's assets for any customer schema."""

from collections.abc import Iterable

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn_platform.database.customer_columns import customer_columns
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.monitoring.drift import monitored
from churn_platform.orchestration.assets import columns
from churn_platform.orchestration.assets.check_names import check_names
from churn_platform.orchestration.assets.monitoring.drift_checks import drift_checks
from churn_platform.orchestration.assets.predictions import prediction_assets
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS

ANY_SCHEMA = pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS], ids=lambda schema: schema.name)


def names(metadata: columns.Metadata) -> list[str]:
    found = metadata["dagster/column_schema"]
    assert isinstance(found, dg.TableSchema)
    return [column.name for column in found.columns]


def sources(metadata: columns.Metadata) -> dict[str, set[tuple[str, str]]]:
    found = metadata["dagster/column_lineage"]
    assert isinstance(found, dg.TableColumnLineage)
    return {
        name: {(each.asset_key.to_user_string(), each.column_name) for each in dependencies}
        for name, dependencies in found.deps_by_column.items()
    }


@ANY_SCHEMA
def test_the_columns_of_each_table_are_those_of_the_database(schema: CustomerSchema) -> None:
    table = prediction_table(schema)
    tables = customer_columns(schema)

    assert names(columns.prediction_columns(schema)) == [column.name for column in table.columns]
    assert names(columns.published_fields(schema)) == [column.name for column in table.published]
    for metadata, name in (
        (columns.high_risk_columns(schema), "high_risk_customers"),
        (columns.hourly_columns(schema), "churn_metrics_hourly"),
        (columns.daily_columns(schema), "churn_metrics_daily"),
    ):
        assert {column.name for column in tables[name]} <= set(names(metadata))


@ANY_SCHEMA
def test_every_column_comes_from_a_column_of_the_asset_before(schema: CustomerSchema) -> None:
    events = set(names(columns.event_fields(schema)))
    assert set(schema.event_fields) <= events

    lineage = sources(columns.prediction_columns(schema))

    assert {column for found in lineage.values() for _, column in found} <= events
    assert {column for _, column in lineage["risk_score"]} == set(schema.feature_columns)
    predictions = set(names(columns.prediction_columns(schema)))
    for metadata in (columns.hourly_columns(schema), columns.high_risk_columns(schema)):
        assert {column for found in sources(metadata).values() for _, column in found} <= predictions
    outcomes = sources(columns.outcome_columns(schema))
    assert outcomes["customer_id"] == {("customer_outcomes_topic", schema.id)}


@ANY_SCHEMA
def test_the_assets_of_the_stream_are_the_same_for_every_schema(schema: CustomerSchema) -> None:
    keys = [each.key.to_user_string() for each in prediction_assets(schema)]

    assert keys == [
        "customer_events",
        "churn_predictions_topic",
        "dead_letter_events",
        "high_risk_customers",
        "churn_predictions",
    ]


@ANY_SCHEMA
def test_every_monitored_feature_has_a_check_of_its_own(schema: CustomerSchema) -> None:
    checks = drift_checks(schema)

    assert tuple(sorted(checks)) == tuple(sorted(monitored(schema)))
    assert_are_check_names(checks.values())


def test_the_checks_of_plain_names_have_those_names() -> None:
    assert drift_checks(BANK)["CreditScore"] == "drift_CreditScore"
    assert check_names(["Café visits", "Cafe_visits", "顧客"]) == {
        "Cafe_visits": "Cafe_visits",
        "Café visits": "Cafe_visits_2",
        "顧客": "_",
    }


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=20))
def test_any_names_give_different_names_of_checks(given_names: list[str]) -> None:
    found = check_names(given_names)

    assert set(found) == set(given_names)
    assert_are_check_names(found.values())


def assert_are_check_names(found: Iterable[str]) -> None:
    found = list(found)
    assert len(set(found)) == len(found)
    for name in found:
        assert dg.AssetCheckSpec(name, asset="any").name
