"""Frames of common dtypes are cast without loss, and values are validated as in the stream."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.columns import INPUT_COLUMNS, columns_of
from churn_platform.features.exceptions import MissingColumnError
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.scoring.frames import UnscorableRowsError, scorable_columns
from churn_platform_tests.features.customers import cleaned
from churn_platform_tests.scoring.bundles import small_bundle
from churn_platform_tests.stream.streams import CUSTOMER

ROWS = cleaned(200)
WHOLE = ("CreditScore", "Tenure", "NumOfProducts", "HasCrCard", "IsActiveMember")


def known_ages(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows that have an Age, whole euros and an unusual index."""
    return rows.dropna(subset=["Age"]).assign(Balance=lambda known: known["Balance"].round()).reset_index(drop=True)


@pytest.mark.parametrize(
    "given",
    [
        lambda rows: rows.astype({"Age": "int64", "Balance": "int64"}),
        lambda rows: rows.astype({"Age": "int8", "Balance": "int32", "CreditScore": "uint16"}),
        lambda rows: rows.astype(dict.fromkeys(WHOLE, "float64")),
        lambda rows: rows.astype({"HasCrCard": "bool", "IsActiveMember": "boolean"}),
        lambda rows: rows.convert_dtypes(),
        lambda rows: rows.convert_dtypes(dtype_backend="pyarrow"),
        lambda rows: rows.astype({"Geography": "category", "Gender": "category", "NumOfProducts": "category"}),
        lambda rows: rows.astype(object),
        lambda rows: rows.assign(Balance=[Decimal(str(balance)) for balance in rows["Balance"]]),
        lambda rows: rows[list(reversed(rows.columns))],
    ],
)
def test_dtypes_without_loss_have_the_same_scores(given: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    rows, bundle = known_ages(ROWS), small_bundle()

    scores = bundle.score(scorable_columns(given(rows)))

    np.testing.assert_array_equal(scores, bundle.score(columns_of(rows)))


def test_the_training_file_as_pandas_reads_it_and_the_documented_event_are_scored(tmp_path: Path) -> None:
    write_customers(generate_customers(200, seed=7), tmp_path / "customers.csv")
    read = pd.read_csv(tmp_path / "customers.csv").dropna(subset=["Gender"])
    event = pd.DataFrame([json.loads(json.dumps(CUSTOMER))])

    assert len(small_bundle().score(scorable_columns(read))) == len(read)
    assert len(small_bundle().score(scorable_columns(event))) == 1


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_age_is_imputed_in_any_representation(missing: object) -> None:
    rows = ROWS.head(3).astype({"Age": object})
    rows["Age"] = pd.Series([missing, 40, 41], dtype=object, index=rows.index)

    ages = scorable_columns(rows)["Age"]

    assert np.isnan(ages[0])
    assert ages[1:].tolist() == [40, 41]


@pytest.mark.parametrize(
    ("name", "value", "shown", "expected"),
    [
        ("Age", 500, "500", "a number from 18 to 120 years, or null"),
        ("Age", 17.9, "17.9", "a number from 18 to 120 years, or null"),
        ("Age", "old", "a text", "a number from 18 to 120 years, or null"),
        ("Age", True, "True", "a number from 18 to 120 years, or null"),
        ("Balance", np.inf, "inf", "a number from 0 to 1,000,000,000 euros"),
        ("Balance", -0.01, "-0.01", "a number from 0 to 1,000,000,000 euros"),
        ("Balance", np.nan, "missing", "a number from 0 to 1,000,000,000 euros"),
        ("CreditScore", 545.5, "545.5", "a whole number from 300 to 900 points"),
        ("CreditScore", 10**400, "1000", "a whole number from 300 to 900 points"),
        ("CreditScore", 1 + 2j, "(1+2j)", "a whole number from 300 to 900 points"),
        ("NumOfProducts", True, "True", "a whole number from 1 to 10 products"),
        ("HasCrCard", 2, "2", "0 or 1"),
        ("Tenure", None, "missing", "a whole number from 0 to 50 years"),
        ("Geography", "Italy", "'Italy'", "France, Germany or Spain"),
        ("Geography", None, "missing", "France, Germany or Spain"),
        ("Gender", "female", "'female'", "Female or Male"),
        ("Gender", pd.NA, "missing", "Female or Male"),
    ],
)
def test_what_the_stream_rejects_is_rejected_with_its_row_and_what_was_expected(
    name: str, value: object, shown: str, expected: str
) -> None:
    rows = known_ages(ROWS).head(6)
    rows.index = pd.Index([f"customer {number}" for number in range(6)])
    rows[name] = pd.Series([*rows[name].tolist()[:5], value], dtype=object, index=rows.index)

    with pytest.raises(UnscorableRowsError) as raised:
        scorable_columns(rows)

    assert f"{name} is wrong in 1 of 6 rows ({shown}" in str(raised.value)
    assert f"in row customer 5), expected {expected}" in str(raised.value)


def test_all_wrong_values_are_counted_by_column() -> None:
    rows = ROWS.head(50).reset_index(drop=True)
    rows["Age"], rows["Geography"] = 500, ["Italy", *["France"] * 49]

    with pytest.raises(UnscorableRowsError) as raised:
        scorable_columns(rows)

    assert "Age is wrong in 50 of 50 rows (500 in row 0, 500 in row 1, 500 in row 2 and 47 more)" in str(raised.value)
    assert "Geography is wrong in 1 of 50 rows ('Italy' in row 0)" in str(raised.value)


def test_a_frame_without_a_column_is_an_error() -> None:
    with pytest.raises(MissingColumnError, match="'Tenure' is missing"):
        scorable_columns(ROWS[[name for name in INPUT_COLUMNS if name != "Tenure"]])


def test_no_rows_have_no_scores() -> None:
    assert len(small_bundle().score(scorable_columns(ROWS.head(0)))) == 0
