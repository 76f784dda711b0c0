"""Generated subscribers: the committed file byte for byte, and the churn, quality and kinds that are documented."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from xgboost import XGBClassifier

from churn_platform.features.cleaning import clean
from churn_platform.schema.defaults import MAX_ROWS, SUBSCRIBERS
from churn_platform.schema.reader import CustomersFile, load_customers
from churn_platform.schema.subscribers import generate_subscribers
from churn_platform.schema.toml_file import customers_file, load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.features.customers import fitted, inputs

SCHEMA = load_schema(PROJECT_ROOT / SUBSCRIBERS.schema)
COMMITTED = Path(customers_file(PROJECT_ROOT / SUBSCRIBERS.schema))
MAX_COMMITTED_BYTES = 1_000_000


@pytest.fixture(scope="module")
def read() -> CustomersFile:
    return load_customers(str(COMMITTED), SCHEMA)


def test_the_committed_file_is_reproduced_byte_for_byte(tmp_path: Path) -> None:
    again = tmp_path / "again.csv"
    command = "from churn_platform.commands.data import app; app()"
    subprocess.run(  # in another process, so that no state of this one matters
        [sys.executable, "-c", command, "generate", "--data-set", "subscribers", "--output", str(again)],
        check=True,
        cwd=PROJECT_ROOT,
    )

    assert again.read_bytes() == COMMITTED.read_bytes()
    assert COMMITTED.stat().st_size < MAX_COMMITTED_BYTES


def test_every_row_of_the_committed_file_is_valid(read: CustomersFile) -> None:
    assert read.rows == len(read.customers) == SUBSCRIBERS.rows
    assert len(read.quarantined) == read.duplicates == 0


def test_the_columns_are_those_of_the_schema_and_of_all_kinds() -> None:
    assert tuple(generate_subscribers(10)) == SCHEMA.names
    assert len(SCHEMA.names) >= 18
    assert {column.kind for column in SCHEMA.columns} == {"whole", "number", "flag", "category", "text", "date"}
    assert {column.missing for column in SCHEMA.columns} == {
        "refuse",
        "drop",
        "median",
        "mode",
        "constant",
        "category",
        "ignore",
    }
    assert SCHEMA.id_type == "text"


def test_churn_is_exactly_the_documented_share_and_depends_on_the_contract(read: CustomersFile) -> None:
    churn = read.customers.groupby("Contract")[SCHEMA.target].mean()

    assert read.customers[SCHEMA.target].mean() == 0.19
    assert churn.to_dict() == pytest.approx({"Monthly": 0.31, "One year": 0.09, "Two years": 0.02}, abs=0.01)


def test_missing_values_have_the_documented_shares(read: CustomersFile) -> None:
    missing = read.customers.isna().mean()

    assert missing[missing > 0].to_dict() == pytest.approx(
        {
            "LastContact": 0.24,
            "Payment method": 0.05,
            "Internet": 0.03,
            "Region": 0.008,
            "Devices": 0.02,
            "DataUsage": 0.06,
            "TotalCharges": 0.015,
            "Discount": 0.82,
            "Notes": 1,
        },
        abs=0.002,
    )


def test_some_plans_are_not_listed_by_the_schema(read: CustomersFile) -> None:
    listed = read.customers["Plan"].isin(SCHEMA.column("Plan").categories)

    assert listed.mean() == pytest.approx(0.98, abs=0.001)


def test_no_subscriber_was_in_contact_before_signing_up(read: CustomersFile) -> None:
    known = read.customers.dropna(subset=["LastContact"])

    assert (known["LastContact"] >= known["SignupDate"]).all()


def test_a_model_has_the_documented_roc_auc(read: CustomersFile) -> None:
    customers = clean(read.customers, SCHEMA)
    features = fitted(customers, SCHEMA).transform(inputs(customers, SCHEMA))
    model = XGBClassifier(max_depth=3, n_estimators=200, learning_rate=0.05, subsample=0.8, random_state=42, n_jobs=1)
    scores = cross_val_predict(model, features, customers[SCHEMA.target], cv=5, method="predict_proba")[:, 1]

    assert roc_auc_score(customers[SCHEMA.target], scores) == pytest.approx(0.84, abs=0.01)


@pytest.mark.parametrize("rows", [1, 2, 7, 100, 1_234])
def test_any_number_of_rows_can_be_made(rows: int) -> None:
    made = generate_subscribers(rows, seed=3)

    assert len(made) == rows
    assert made[SCHEMA.id].is_unique
    assert (made[SCHEMA.target] == "Yes").sum() == round(0.19 * rows)


def test_another_seed_makes_other_subscribers() -> None:
    first, second = generate_subscribers(1_000, seed=1), generate_subscribers(1_000, seed=2)

    for name in set(SCHEMA.names) - {"Notes"}:
        assert not first[name].equals(second[name])


@pytest.mark.parametrize(("rows", "seed", "named"), [(0, 1, "rows"), (MAX_ROWS + 1, 1, "rows is"), (5, -1, "seed")])
def test_rows_and_seeds_out_of_range_are_an_error(rows: int, seed: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        generate_subscribers(rows, seed)


def test_charges_are_whole_cents_within_the_range_of_the_schema() -> None:
    charges = pd.to_numeric(generate_subscribers(1_000)["MonthlyCharge"])

    assert charges.between(5, 150).all()
    assert np.allclose(charges * 100, (charges * 100).round())
