"""Cleaning drops rows that training cannot use, casts the columns, and changes nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.features.exceptions import MissingColumnError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers


def test_a_null_gender_drops_the_row_and_every_other_null_stays() -> None:
    raw = generate_customers(1_000, seed=3)

    cleaned = clean(raw, BANK)

    kept = raw[raw["Gender"].notna()].reset_index(drop=True)
    assert len(cleaned) < len(raw)
    pd.testing.assert_frame_equal(cleaned, kept, check_dtype=False)


def test_whole_numbers_are_int64_and_nullable_columns_float64() -> None:
    text = generate_customers(50, seed=3).astype({"Tenure": "int8", "Age": "float32", "Exited": "bool"})

    dtypes = clean(text, BANK).dtypes

    assert {name: str(dtypes[name]) for name in ("Tenure", "CreditScore", "Exited", "Age", "Balance")} == {
        "Tenure": "int64",
        "CreditScore": "int64",
        "Exited": "int64",
        "Age": "float64",
        "Balance": "float64",
    }


def test_a_column_of_whole_numbers_with_nulls_is_float64() -> None:
    raw = generate_customers(50, seed=3).assign(Tenure=np.nan)

    assert str(clean(raw, BANK)["Tenure"].dtype) == "float64"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match="'Balance' is missing"):
        clean(generate_customers(50, seed=3).drop(columns="Balance"), BANK)


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS])
def test_customers_of_any_schema_get_its_dtypes(schema: CustomerSchema) -> None:
    raw = any_customers(schema, 200, seed=5)

    cleaned = clean(raw.astype({schema.target: "float64"}), schema)

    expected = {name: schema.column(name).dtype for name in schema.inputs} | {schema.target: "int64"}
    assert {name: str(cleaned[name].dtype) for name in expected} == expected
    assert len(cleaned) == raw[list(schema.dropped)].notna().all(axis=1).sum() < len(raw)


def test_a_customer_with_an_unknown_outcome_is_dropped_if_the_schema_says_so() -> None:
    columns = tuple(replace(each, missing="drop") if each.name == BANK.target else each for each in BANK.columns)
    raw = generate_customers(50, seed=3)
    raw[BANK.target] = raw[BANK.target].astype("float64").where(raw.index != 7)

    cleaned = clean(raw, replace(BANK, columns=columns))

    assert len(cleaned) == len(clean(raw.drop(index=7), BANK))
    assert str(cleaned[BANK.target].dtype) == "int64"


def test_cleaning_may_consume_the_rows_to_save_memory() -> None:
    raw = generate_customers(50, seed=3)
    cleaned = clean(raw, BANK)

    consumed = clean(raw, BANK, consume=True)

    pd.testing.assert_frame_equal(consumed, cleaned)
    assert len(raw.columns) == 0
