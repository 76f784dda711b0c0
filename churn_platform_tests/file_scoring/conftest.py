"""Fixtures of scoring a file: a model that finds some customers at high risk, and customers of a file."""

from pathlib import Path

import pandas as pd
import pytest

from churn_platform.schema.generator import generate_customers
from churn_platform.stream.scoring import Champion
from churn_platform_tests.scoring.bundles import small_bundle

THRESHOLD = 0.6


@pytest.fixture(scope="session")
def champion() -> Champion:
    """A champion for the bank's customers."""
    return Champion(7, small_bundle())


@pytest.fixture(scope="session")
def customers() -> pd.DataFrame:
    """Customers of the bank, as its file has them."""
    return generate_customers(2_000, 11)


@pytest.fixture
def file(customers: pd.DataFrame, tmp_path: Path) -> Path:
    """The customers' file."""
    place = tmp_path / "customers.csv"
    customers.to_csv(place, index=False)
    return place
