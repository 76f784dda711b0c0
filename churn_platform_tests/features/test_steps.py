"""Each fitted step alone: golden values, the documented JSON, and errors with a remedy."""

import json
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.binning import add_bands
from churn_platform.features.columns import is_null
from churn_platform.features.dates import add_days
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import MetadataError, MissingColumnError, UnknownCategoryError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.schema.columns import Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, fitted

BANK_SCALER = MinMaxScaler({"Balance": (0.0, 250_898.09), "EstimatedSalary": (11.58, 199_992.48), "Age": (18.0, 92.0)})


def test_band_edges_belong_to_the_lower_band() -> None:
    scores = np.array([300, 580, 581, 670, 671, 740, 741, 800, 801, 850, 900])

    bands = add_bands({"CreditScore": scores}, BANK)["CreditScoreBins"]

    assert bands.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]


def test_scaling_with_the_banks_minima_and_maxima_gives_the_documented_values() -> None:
    columns = {"Age": np.array([42.0]), "EstimatedSalary": np.array([101_348.88]), "Balance": np.array([0.0])}

    scaled = BANK_SCALER.scale(columns)

    assert round(float(scaled["Age"][0]), 4) == 0.3243
    assert round(float(scaled["EstimatedSalary"][0]), 4) == 0.5067
    assert scaled["Balance"][0] == 0.0


def test_a_value_beyond_the_fitted_range_is_not_clipped() -> None:
    columns = {"Age": np.array([166.0]), "EstimatedSalary": np.array([0.0]), "Balance": np.array([0.0])}

    assert BANK_SCALER.scale(columns)["Age"][0] == 2.0


def test_scaler_json_has_the_documented_keys() -> None:
    assert json.loads(BANK_SCALER.to_json()) == {
        "columns_to_scale": ["Balance", "EstimatedSalary", "Age"],
        "data_min": [0.0, 11.58, 18.0],
        "data_max": [250_898.09, 199_992.48, 92.0],
        "scaling_type": "minmax",
        "framework": "numpy",
    }


def test_encoder_json_has_the_documented_keys_and_the_categories_of_the_schema() -> None:
    rows = pd.DataFrame({"Geography": ["Spain", "France", "Spain"], "Gender": ["Male", "Female", "Male"]})

    assert json.loads(OneHotEncoder.fit(rows, BANK).to_json()) == {
        "encoding_type": "one_hot",
        "categories": {"Geography": ["France", "Germany", "Spain"], "Gender": ["Female", "Male"]},
        "binary_columns": {
            "Geography": ["Geography_France", "Geography_Germany", "Geography_Spain"],
            "Gender": ["Gender_Female", "Gender_Male"],
        },
    }


@pytest.mark.parametrize("schema", [BANK, SUBSCRIBERS])
def test_every_step_survives_a_round_trip_through_json(schema: CustomerSchema) -> None:
    steps = fitted(any_customers(schema, 100, seed=5), schema)

    assert Imputer.from_json(steps.imputer.to_json()) == steps.imputer
    assert OneHotEncoder.from_json(steps.encoder.to_json()) == steps.encoder
    assert MinMaxScaler.from_json(steps.scaler.to_json()) == steps.scaler


def test_medians_and_modes_ignore_nulls_and_the_first_of_equal_modes_wins() -> None:
    countries = np.array(["Spain", "France", None, None], dtype=object)
    rows = cleaned(4).assign(Age=[20.0, np.nan, 30.0, 70.0], Geography=countries)

    imputer = Imputer.fit(rows, BANK)

    assert imputer.medians["Age"] == 30.0
    assert imputer.modes == {"Geography": "France"}


def test_only_nulls_are_imputed() -> None:
    rows = cleaned(3)
    columns = {str(name): rows[name].to_numpy() for name in rows}
    columns["Age"] = np.array([20.0, np.nan, 61.0])
    columns["Geography"] = np.array(["Spain", None, "France"], dtype=object)
    imputer = Imputer({"Age": 37.5, "Tenure": 5.0}, {"Geography": "Germany"})

    imputed = imputer.impute(columns)

    assert imputed["Age"].tolist() == [20.0, 37.5, 61.0]
    assert imputed["Geography"].tolist() == ["Spain", "Germany", "France"]
    assert imputed["Tenure"] is columns["Tenure"]
    assert np.isnan(columns["Age"][1]), "the caller's array is not written to"


def test_null_is_none_or_nan_in_objects_nan_in_numbers_and_nat_in_dates() -> None:
    assert is_null(np.array(["a", None, float("nan")], dtype=object)).tolist() == [False, True, True]
    assert is_null(np.array([1.0, np.nan])).tolist() == [False, True]
    assert is_null(np.array([1, 2])).tolist() == [False, False]
    assert is_null(np.array(["a", "b"])).tolist() == [False, False]
    assert is_null(np.array(["2026-11-24", "NaT"], "datetime64[s]")).tolist() == [False, True]


def test_an_unknown_category_is_reported_with_its_row() -> None:
    encoder = OneHotEncoder({"Geography": ("France", "Spain")})

    with pytest.raises(UnknownCategoryError, match=r"Geography of row 1 is 'Italy', expected one of France, Spain"):
        encoder.encode({"Geography": np.array(["France", "Italy"], dtype=object)})


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match="'Geography' is missing"):
        OneHotEncoder({"Geography": ("France",)}).encode({})


def test_a_column_of_nulls_or_of_one_value_cannot_be_fitted() -> None:
    with pytest.raises(MetadataError, match="'Age' is null in all"):
        Imputer.fit(cleaned(20).assign(Age=np.nan), BANK)
    with pytest.raises(MetadataError, match=r"Age has the range 40\.0\.\.40\.0"):
        MinMaxScaler.fit(cleaned(20).assign(Age=40.0), BANK)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"encoding_type": "label", "categories": {}, "binary_columns": {}}'])
def test_other_json_is_an_error(text: str) -> None:
    for step in (Imputer, OneHotEncoder, MinMaxScaler):
        with pytest.raises(MetadataError, match="This is not"):
            step.from_json(text)


PLAN = Column(
    name="Plan",
    kind="category",
    categories=("Basic", "Premium"),
    missing="category",
    unknown="other",
    transforms=("one_hot",),
)


@pytest.mark.parametrize("rows", [1, 2, 7, 400, 401])
@pytest.mark.parametrize("step", [1, 1_000_003])  # numbers in a small range are counted, others are sorted
@pytest.mark.parametrize("dtype", ["int64", "int16"])
def test_the_median_of_whole_numbers_is_that_of_numpy(rows: int, step: int, dtype: str) -> None:
    scores = (np.random.default_rng(rows).integers(-90, 90, rows) * step).astype(dtype)

    imputer = Imputer.fit(cleaned(500).head(rows).assign(CreditScore=scores), BANK)

    assert imputer.medians["CreditScore"] == float(np.median(scores))


JOINED = Column(name="Joined", kind="date", missing="median", transforms=("days_since",), since=date(2026, 1, 1))
CALLS = Column(name="Calls", kind="whole", minimum=0, missing="constant", constant=3, transforms=("value",))


def of_columns(*columns: Column) -> CustomerSchema:
    """A schema with these columns besides id and target."""
    identity, target = Column(name="Id", kind="whole"), Column(name="Left", kind="flag")
    return CustomerSchema(name="small", id="Id", target="Left", columns=(identity, *columns, target))


def objects(*values: object) -> pd.Series:
    return pd.Series(values, dtype=object)


def test_unlisted_and_missing_categories_have_columns_of_their_own() -> None:
    encoder = OneHotEncoder.of(of_columns(PLAN))

    encoded = encoder.encode({"Plan": np.array(["Basic", "Legacy", None, float("nan"), "Premium"], object)})

    assert {name: values.tolist() for name, values in encoded.items()} == {
        "Plan_Basic": [1, 0, 0, 0, 0],
        "Plan_Premium": [0, 0, 0, 0, 1],
        "Plan_other": [0, 1, 0, 0, 0],
        "Plan_missing": [0, 0, 1, 1, 0],
    }
    assert OneHotEncoder.from_json(encoder.to_json()) == encoder


@pytest.mark.parametrize(
    ("plan", "refused"), [(replace(PLAN, unknown="refuse"), "Legacy"), (replace(PLAN, missing="refuse"), None)]
)
def test_a_category_is_refused_where_the_schema_has_no_column_for_it(plan: Column, refused: str | None) -> None:
    with pytest.raises(UnknownCategoryError, match=f"Plan of row 1 is {refused!r}, expected one of Basic, Premium"):
        OneHotEncoder.of(of_columns(plan)).encode({"Plan": np.array(["Basic", refused], object)})


def test_the_mode_counts_unlisted_categories_as_one() -> None:
    plan = replace(PLAN, missing="mode")
    rows = pd.DataFrame({"Plan": objects("Basic", "Old", "Older", None, "Basic", "Oldest")})

    imputer = Imputer.fit(rows, of_columns(plan))

    assert imputer.modes == {"Plan": "other"}


def test_a_missing_date_becomes_the_median_date_and_dates_become_days() -> None:
    schema = of_columns(JOINED)
    dates = np.array(["2026-01-11", "NaT", "2026-02-01", "2025-12-31", "2026-03-01"], "datetime64[s]")

    imputer = Imputer.fit(pd.DataFrame({"Joined": dates}), schema)
    days = add_days(imputer.impute({"Joined": dates}), schema)["JoinedDays"]

    assert imputer.medians == {"Joined": "2026-01-11"}  # of four, the earlier of the two in the middle
    assert days.tolist() == [10, 10, 31, -1, 59]
    assert Imputer.from_json(imputer.to_json()) == imputer


def test_a_constant_replaces_a_missing_number_and_no_median_is_fitted() -> None:
    imputer = Imputer.fit(pd.DataFrame({"Calls": [1.0, np.nan]}), of_columns(CALLS))

    assert (imputer.medians, imputer.constants) == ({}, {"Calls": 3})
    assert imputer.impute({"Calls": np.array([np.nan, 8.0])})["Calls"].tolist() == [3.0, 8.0]
    assert Imputer.from_json(imputer.to_json()) == imputer


@pytest.mark.parametrize(
    "text", ['{"medians": {"a": "yesterday"}, "modes": {}}', '{"medians": {}, "modes": {}, "constants": {"a": []}}']
)
def test_an_imputer_with_other_values_is_an_error(text: str) -> None:
    with pytest.raises(MetadataError, match="not the JSON of an imputer"):
        Imputer.from_json(text)
