"""Each fitted step alone: golden values, the documented JSON, and errors with a remedy."""

import json

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.binning import credit_score_band
from churn_platform.features.columns import is_null
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import MetadataError, MissingColumnError, UnknownCategoryError
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform_tests.features.customers import cleaned

BANK_SCALER = MinMaxScaler({"Balance": (0.0, 250_898.09), "EstimatedSalary": (11.58, 199_992.48), "Age": (18.0, 92.0)})


def test_band_edges_belong_to_the_lower_band() -> None:
    scores = np.array([300, 580, 581, 670, 671, 740, 741, 800, 801, 850, 900])

    assert credit_score_band(scores).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]


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


def test_encoder_json_has_the_documented_keys_and_alphabetical_categories() -> None:
    rows = pd.DataFrame({"Geography": ["Spain", "France", "Germany", "Spain"], "Gender": ["Male", "Female"] * 2})

    assert json.loads(OneHotEncoder.fit(rows).to_json()) == {
        "encoding_type": "one_hot",
        "categories": {"Geography": ["France", "Germany", "Spain"], "Gender": ["Female", "Male"]},
        "binary_columns": {
            "Geography": ["Geography_France", "Geography_Germany", "Geography_Spain"],
            "Gender": ["Gender_Female", "Gender_Male"],
        },
    }


def test_every_step_survives_a_round_trip_through_json() -> None:
    rows = cleaned()
    imputer, encoder, scaler = Imputer.fit(rows), OneHotEncoder.fit(rows), MinMaxScaler.fit(rows)

    assert Imputer.from_json(imputer.to_json()) == imputer
    assert OneHotEncoder.from_json(encoder.to_json()) == encoder
    assert MinMaxScaler.from_json(scaler.to_json()) == scaler


def test_medians_and_modes_ignore_nulls_and_the_first_of_equal_modes_wins() -> None:
    countries = np.array(["Spain", "France", None, None], dtype=object)
    rows = cleaned(4).assign(Age=[20.0, np.nan, 30.0, 70.0], Geography=countries)

    imputer = Imputer.fit(rows)

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


def test_null_is_none_or_nan_in_objects_and_nan_in_numbers() -> None:
    assert is_null(np.array(["a", None, float("nan")], dtype=object)).tolist() == [False, True, True]
    assert is_null(np.array([1.0, np.nan])).tolist() == [False, True]
    assert is_null(np.array([1, 2])).tolist() == [False, False]
    assert is_null(np.array(["a", "b"])).tolist() == [False, False]


def test_an_unknown_category_is_reported_with_its_row() -> None:
    encoder = OneHotEncoder({"Geography": ("France", "Spain")})

    with pytest.raises(UnknownCategoryError, match=r"Geography of row 1 is 'Italy', expected one of France, Spain"):
        encoder.encode({"Geography": np.array(["France", "Italy"], dtype=object)})


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match="'Geography' is missing"):
        OneHotEncoder({"Geography": ("France",)}).encode({})


def test_a_column_of_nulls_or_of_one_value_cannot_be_fitted() -> None:
    with pytest.raises(MetadataError, match="'Age' is null in all"):
        Imputer.fit(cleaned(20).assign(Age=np.nan))
    with pytest.raises(MetadataError, match=r"Age has the range 40\.0\.\.40\.0"):
        MinMaxScaler.fit(cleaned(20).assign(Age=40.0))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"encoding_type": "label", "categories": {}, "binary_columns": {}}'])
def test_other_json_is_an_error(text: str) -> None:
    for step in (Imputer, OneHotEncoder, MinMaxScaler):
        with pytest.raises(MetadataError, match="This is not"):
            step.from_json(text)
