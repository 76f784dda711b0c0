"""Cleaning drops rows without a Gender, casts the columns, and changes nothing else."""

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.features.exceptions import MissingColumnError
from churn_platform.schema.generator import generate_customers


def test_a_null_gender_drops_the_row_and_every_other_null_stays() -> None:
    raw = generate_customers(1_000, seed=3)

    cleaned = clean(raw)

    kept = raw[raw["Gender"].notna()].reset_index(drop=True)
    assert len(cleaned) < len(raw)
    pd.testing.assert_frame_equal(cleaned, kept, check_dtype=False)


def test_whole_numbers_are_int64_and_nullable_columns_float64() -> None:
    text = generate_customers(50, seed=3).astype({"Tenure": "int8", "Age": "float32", "Exited": "bool"})

    dtypes = clean(text).dtypes

    assert {name: str(dtypes[name]) for name in ("Tenure", "CreditScore", "Exited", "Age", "Balance")} == {
        "Tenure": "int64",
        "CreditScore": "int64",
        "Exited": "int64",
        "Age": "float64",
        "Balance": "float64",
    }


def test_a_column_of_whole_numbers_with_nulls_is_float64() -> None:
    raw = generate_customers(50, seed=3).assign(Tenure=np.nan)

    assert str(clean(raw)["Tenure"].dtype) == "float64"


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match="'Balance' is missing"):
        clean(generate_customers(50, seed=3).drop(columns="Balance"))
