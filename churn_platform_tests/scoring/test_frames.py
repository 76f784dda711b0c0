"""Frames of common dtypes are cast without loss, and values are validated as in the stream."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.features.exceptions import MissingColumnError
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.scoring.frames import UnscorableRowsError, scorable_columns
from churn_platform_tests.bank import CUSTOMER
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

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

    scores = bundle.score(scorable_columns(given(rows), BANK))

    np.testing.assert_array_equal(scores, bundle.score(inputs(rows)))


def test_the_training_file_as_pandas_reads_it_and_the_documented_event_are_scored(tmp_path: Path) -> None:
    write_customers(generate_customers(200, seed=7), tmp_path / "customers.csv")
    read = pd.read_csv(tmp_path / "customers.csv").dropna(subset=["Gender"])
    event = pd.DataFrame([json.loads(json.dumps(CUSTOMER))])

    assert len(small_bundle().score(scorable_columns(read, BANK))) == len(read)
    assert len(small_bundle().score(scorable_columns(event, BANK))) == 1


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_age_is_imputed_in_any_representation(missing: object) -> None:
    rows = ROWS.head(3).astype({"Age": object})
    rows["Age"] = pd.Series([missing, 40, 41], dtype=object, index=rows.index)

    ages = scorable_columns(rows, BANK)["Age"]

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
        scorable_columns(rows, BANK)

    assert f"{name} is wrong in 1 of 6 rows ({shown}" in str(raised.value)
    assert f"in row customer 5), expected {expected}" in str(raised.value)


def test_all_wrong_values_are_counted_by_column() -> None:
    rows = ROWS.head(50).reset_index(drop=True)
    rows["Age"], rows["Geography"] = 500, ["Italy", *["France"] * 49]

    with pytest.raises(UnscorableRowsError) as raised:
        scorable_columns(rows, BANK)

    assert "Age is wrong in 50 of 50 rows (500 in row 0, 500 in row 1, 500 in row 2 and 47 more)" in str(raised.value)
    assert "Geography is wrong in 1 of 50 rows ('Italy' in row 0)" in str(raised.value)


def test_a_frame_without_a_column_is_an_error() -> None:
    with pytest.raises(MissingColumnError, match="'Tenure' is missing"):
        scorable_columns(ROWS[[name for name in BANK.inputs if name != "Tenure"]], BANK)


def test_no_rows_have_no_scores() -> None:
    assert len(small_bundle().score(scorable_columns(ROWS.head(0), BANK))) == 0


SUBSCRIBED = clean(any_customers(SUBSCRIBERS, 300, seed=5), SUBSCRIBERS)


@pytest.mark.parametrize(
    "given",
    [
        lambda rows: rows,
        lambda rows: rows.astype(object),
        lambda rows: rows.convert_dtypes(),
        lambda rows: rows.assign(SignupDate=rows["SignupDate"].dt.strftime("%Y-%m-%d")),
        lambda rows: rows.assign(SignupDate=rows["SignupDate"].dt.date),
        lambda rows: rows.assign(SignupDate=rows["SignupDate"].dt.tz_localize("Europe/Berlin")),
        lambda rows: pd.DataFrame(json.loads(rows.to_json(orient="records", date_format="iso", date_unit="s"))).assign(
            **{name: rows[name].dt.strftime("%Y-%m-%d") for name in SUBSCRIBERS.date_inputs}
        ),
    ],
)
def test_dates_and_missing_values_of_any_schema_have_the_same_scores(
    given: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    bundle = bundle_of(SUBSCRIBED, SUBSCRIBERS)

    scores = bundle.score(scorable_columns(given(SUBSCRIBED), SUBSCRIBERS))

    np.testing.assert_array_equal(scores, bundle.score(inputs(SUBSCRIBED, SUBSCRIBERS)))


def test_an_optional_column_may_be_absent_and_is_missing_then() -> None:
    absent = scorable_columns(SUBSCRIBED.drop(columns="Discount"), SUBSCRIBERS)

    assert np.isnan(absent["Discount"]).all()
    with pytest.raises(MissingColumnError, match="'Devices' is missing"):
        scorable_columns(SUBSCRIBED.drop(columns="Devices"), SUBSCRIBERS)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SignupDate", "2026-02-30", "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("SignupDate", "2026-02-03T00:00:00Z", "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("SignupDate", "2009-12-31", "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("SignupDate", datetime(2026, 2, 3, 4, tzinfo=UTC), "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("SignupDate", None, "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("SignupDate", 20_260_203, "a date (YYYY-MM-DD) from 2010-01-01 to 2035-12-31"),
        ("Plan", "x" * 201, "Basic, Family, Premium, Standard or another text of at most 200 characters"),
        ("Plan", "", "Basic, Family, Premium, Standard or another text of at most 200 characters"),
        ("Plan", 7, "Basic, Family, Premium, Standard or another text of at most 200 characters"),
        ("Payment method", "Cash", "Card, Direct debit, Invoice or Wallet, or null"),
        ("Region", None, "Centre, East, North, South or West"),
        ("Devices", 2.5, "a whole number from 0 to 100 devices, or null"),
        ("TechSupport", "Yes", "0 or 1, or null"),
        ("Discount", 100.5, "a number from 0 to 100 per cent, or null"),
    ],
)
def test_wrong_values_of_any_schema_are_rejected(name: str, value: object, expected: str) -> None:
    rows = SUBSCRIBED.head(5)
    rows = rows.assign(**{name: pd.Series([*rows[name].tolist()[:4], value], dtype=object, index=rows.index)})

    with pytest.raises(UnscorableRowsError) as raised:
        scorable_columns(rows, SUBSCRIBERS)

    assert f"{name} is wrong in 1 of 5 rows" in str(raised.value)
    assert f"expected {expected}." in str(raised.value)
