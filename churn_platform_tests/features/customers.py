"""Customers for tests of features: a few by hand, many from the generator, and any at all from hypothesis."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from churn_platform.features.cleaning import clean
from churn_platform.features.columns import Columns, columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.schema.generator import generate_customers


def cleaned(rows: int = 500, seed: int = 7) -> pd.DataFrame:
    """Cleaned customers of the generator."""
    return clean(generate_customers(rows, seed))


def fitted(rows: pd.DataFrame) -> FeatureTransform:
    """All steps fitted on the same rows."""
    imputer = Imputer.fit(rows)
    imputed = pd.DataFrame(imputer.impute(columns_of(rows)))
    return FeatureTransform(imputer, OneHotEncoder.fit(imputed), MinMaxScaler.fit(imputed))


@st.composite
def raw_columns(draw: st.DrawFn) -> Columns:
    """Raw columns of any customers that a valid event may describe, as the stream's decoder types them."""
    rows = draw(st.integers(min_value=0, max_value=20))

    def numbers(least: int, greatest: int) -> list[int]:
        return draw(st.lists(st.integers(least, greatest), min_size=rows, max_size=rows))

    def amounts() -> list[float]:
        return draw(st.lists(st.floats(0, 1e9), min_size=rows, max_size=rows))

    def categories(*names: str | None) -> list[str | None]:
        return draw(st.lists(st.sampled_from(names), min_size=rows, max_size=rows))

    ages = draw(st.lists(st.one_of(st.just(np.nan), st.integers(18, 120)), min_size=rows, max_size=rows))
    return {
        "CreditScore": np.array(numbers(300, 900), np.int16),
        "Geography": np.array(categories("France", "Germany", "Spain", None), object),
        "Gender": np.array(categories("Female", "Male"), object),
        "Age": np.array(ages, np.float32),
        "Tenure": np.array(numbers(0, 50), np.int16),
        "Balance": np.array(amounts(), np.float64),
        "NumOfProducts": np.array(numbers(1, 10), np.int16),
        "HasCrCard": np.array(numbers(0, 1), np.int16),
        "IsActiveMember": np.array(numbers(0, 1), np.int16),
        "EstimatedSalary": np.array(amounts(), np.float64),
    }
