"""The benchmark of many columns: its schema, its customers, and a small measurement."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import columns, wide
from churn_platform.features.cleaning import clean
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform_tests.features.customers import fitted, inputs


@pytest.fixture
def schema(tmp_path: Path) -> CustomerSchema:
    wide.write_schema(tmp_path / "schema.toml")
    return load_schema(tmp_path / "schema.toml")


def test_the_schema_has_60_columns_of_which_40_have_features(schema: CustomerSchema) -> None:
    assert len(schema.columns) == 60
    assert len(schema.feature_columns) == 40


def test_the_customers_are_those_that_a_reader_returns(schema: CustomerSchema) -> None:
    customers = wide.customers(500, seed=1)

    assert tuple(customers) == schema.names
    assert {name: str(dtype) for name, dtype in customers.dtypes.items()} == {
        column.name: "int64" if column.kind in ("whole", "flag") else column.dtype for column in schema.columns
    }
    features = fitted(clean(customers, schema), schema).transform(inputs(customers, schema))
    assert features.shape == (500, len(schema.features))
    assert np.isfinite(features).all()


@pytest.mark.slow
def test_both_schemas_are_measured_and_the_wide_one_reaches_a_quarter_of_the_rate() -> None:
    rates = columns.measure(Console(quiet=True), events=8_000, commit_events=1_000)

    assert rates["wide"] > rates["default"] / 4
