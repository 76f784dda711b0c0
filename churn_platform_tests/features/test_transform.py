"""Training (step by step) and scoring (all at once) make the same features."""

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from churn_platform.features.binning import add_credit_score_band
from churn_platform.features.columns import BAND_COLUMN, FEATURES, Columns, columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.exceptions import FeatureError, MetadataError, MissingColumnError, UnknownCategoryError
from churn_platform.features.transform import FeatureTransform, assemble
from churn_platform_tests.features.customers import cleaned, fitted, raw_columns

CUSTOMERS = cleaned()
TRANSFORM = fitted(CUSTOMERS)


def step_by_step(columns: Columns) -> NDArray[np.float32]:
    """Return the features as the assets make them, with a frame between two steps."""
    imputed = pd.DataFrame(TRANSFORM.imputer.impute(columns))
    encoded = pd.DataFrame(TRANSFORM.encoder.encode(columns_of(imputed)))
    unbinned = tuple(name for name in FEATURES if name != BAND_COLUMN)
    binned = pd.DataFrame(add_credit_score_band(columns_of(encoded, unbinned)))
    scaled = pd.DataFrame(TRANSFORM.scaler.scale(columns_of(binned, FEATURES)))
    return assemble(columns_of(scaled, FEATURES))


def test_the_features_are_these_fourteen_in_this_order() -> None:
    assert FEATURES == (
        "CreditScore",
        "Age",
        "Tenure",
        "Balance",
        "NumOfProducts",
        "HasCrCard",
        "IsActiveMember",
        "EstimatedSalary",
        "CreditScoreBins",
        "Geography_France",
        "Geography_Germany",
        "Geography_Spain",
        "Gender_Female",
        "Gender_Male",
    )


@pytest.mark.slow
@settings(deadline=None)  # the machine may be busy
@given(columns=raw_columns())
def test_training_and_scoring_transform_any_customers_identically(columns: Columns) -> None:
    np.testing.assert_array_equal(TRANSFORM.transform(columns), step_by_step(columns), strict=True)


@settings(deadline=None)
@given(columns=raw_columns())
def test_the_features_of_a_row_do_not_depend_on_other_rows(columns: Columns) -> None:
    together = TRANSFORM.transform(columns)

    for row in range(len(together)):
        alone = TRANSFORM.transform({name: values[row : row + 1] for name, values in columns.items()})
        np.testing.assert_array_equal(alone[0], together[row])


def test_the_streams_narrow_dtypes_give_the_same_features_as_wide_ones() -> None:
    wide = columns_of(CUSTOMERS)
    narrow = {**wide, "Age": wide["Age"].astype(np.float32), "CreditScore": wide["CreditScore"].astype(np.int16)}

    np.testing.assert_array_equal(TRANSFORM.transform(narrow), TRANSFORM.transform(wide), strict=True)


def test_categories_may_be_str_arrays_and_other_columns_are_ignored() -> None:
    columns = columns_of(CUSTOMERS)
    text = {**columns, "Gender": columns["Gender"].astype(str), "Lastname": np.zeros(1)}

    np.testing.assert_array_equal(TRANSFORM.transform(text), TRANSFORM.transform(columns))


def test_training_features_have_no_null_and_scaled_ones_are_in_0_to_1() -> None:
    matrix = TRANSFORM.transform(columns_of(CUSTOMERS))

    assert matrix.dtype == np.float32
    assert matrix.shape == (len(CUSTOMERS), 14)
    assert matrix.flags.c_contiguous
    assert not np.isnan(matrix).any()
    for name in ("Balance", "EstimatedSalary", "Age"):
        scaled = matrix[:, FEATURES.index(name)]
        assert (scaled.min(), scaled.max()) == (0.0, 1.0)


def test_a_null_gender_is_never_imputed() -> None:
    columns = columns_of(CUSTOMERS.head(2)) | {"Gender": np.array(["Male", None], dtype=object)}

    with pytest.raises(UnknownCategoryError, match="Gender of row 1 is None"):
        TRANSFORM.transform(columns)


def test_columns_of_different_lengths_and_missing_columns_are_an_error() -> None:
    columns = columns_of(CUSTOMERS)

    with pytest.raises(FeatureError, match="different lengths"):
        TRANSFORM.transform({**columns, "Age": np.array([40.0])})
    with pytest.raises(MissingColumnError, match="'Age' is missing"):
        TRANSFORM.transform({name: values for name, values in columns.items() if name != "Age"})


def test_an_encoder_of_other_categories_is_an_error() -> None:
    encoder = OneHotEncoder({"Geography": ("France", "Italy"), "Gender": ("Female", "Male")})

    with pytest.raises(MetadataError, match="Geography_Italy"):
        dataclasses.replace(TRANSFORM, encoder=encoder)


def test_a_hundred_thousand_rows_are_transformed_within_the_streams_budget() -> None:
    columns = columns_of(CUSTOMERS.sample(100_000, replace=True, random_state=1))
    transform = FeatureTransform(TRANSFORM.imputer, TRANSFORM.encoder, TRANSFORM.scaler)

    def seconds() -> float:
        started = time.process_time()
        transform.transform(columns)
        return time.process_time() - started

    assert (
        min(seconds() for _ in range(5)) < 0.06
    )  # measured: 0.016 s of CPU, of the 1.2 s that the stream has for as many rows
