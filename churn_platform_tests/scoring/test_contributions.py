"""Contributions add up to the log-odds of the score."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from churn_platform.features.cleaning import clean
from churn_platform.scoring.booster import import_xgboost
from churn_platform.scoring.calibration import Platt
from churn_platform.scoring.contributions import Explainer, Reason, reason_as_text
from churn_platform_tests.features.customers import BANK, SUBSCRIBERS, any_customers, cleaned, inputs
from churn_platform_tests.scoring.bundles import bundle_of, small_bundle

CUSTOMERS = inputs(cleaned(300, seed=11))


def test_contributions_and_bias_are_the_log_odds() -> None:
    bundle = small_bundle()

    contributions, bias = Explainer(bundle).contributions(CUSTOMERS)

    rows = import_xgboost().DMatrix(bundle.transform.transform(CUSTOMERS), feature_names=list(BANK.feature_names))
    log_odds = bundle.booster.predict(rows, output_margin=True)
    np.testing.assert_allclose(contributions.sum(axis=1) + bias, log_odds, atol=1e-5)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-(contributions.sum(axis=1) + bias))), bundle.score(CUSTOMERS), atol=1e-6
    )
    assert contributions.shape == (len(log_odds), len(BANK.feature_names))


def test_all_reasons_add_up_to_the_log_odds() -> None:
    explainer = Explainer(small_bundle())
    contributions, _ = explainer.contributions(CUSTOMERS)

    reasons = explainer.reasons(CUSTOMERS, limit=len(BANK.feature_columns))

    sums = [sum(reason["contribution"] for reason in each) for each in reasons]
    np.testing.assert_allclose(sums, contributions.sum(axis=1), atol=1e-3)  # each is rounded to four decimals
    assert all({reason["feature"] for reason in each} == set(BANK.feature_columns) for each in reasons)


def test_the_greatest_reasons_come_first_with_the_original_values() -> None:
    raw = {name: values[:3] for name, values in CUSTOMERS.items()}
    raw["Age"] = np.array([np.nan, 58.0, 33.0])

    reasons = Explainer(small_bundle()).reasons(raw)

    for row, each in enumerate(reasons):
        assert len(each) == 5
        sizes = [abs(reason["contribution"]) for reason in each]
        assert sizes == sorted(sizes, reverse=True)
        for reason in each:
            given = raw[reason["feature"]][row]
            assert reason["value"] == (None if given != given else given)
    assert any(reason["feature"] == "Age" for reason in reasons[0])


def test_reasons_of_any_schema_are_its_columns_with_dates_and_texts_as_json_has_them() -> None:
    rows = clean(any_customers(SUBSCRIBERS, 400, seed=5), SUBSCRIBERS)
    columns = inputs(rows, SUBSCRIBERS)

    reasons = Explainer(bundle_of(rows, SUBSCRIBERS)).reasons(columns, limit=len(SUBSCRIBERS.feature_columns))

    assert json.loads(json.dumps(reasons)) == reasons
    for row, each in enumerate(reasons):
        values = {reason["feature"]: reason["value"] for reason in each}
        assert set(values) == set(SUBSCRIBERS.feature_columns)
        assert values["Plan"] == rows["Plan"][row]
        contact = rows["LastContact"][row]
        assert values["LastContact"] == (None if pd.isna(contact) else contact.date().isoformat())


def test_a_calibrated_bundle_has_the_same_reasons() -> None:
    bundle = small_bundle()

    calibrated = Explainer(replace(bundle, calibration=Platt(0.8, 0.1)))

    assert calibrated.reasons(CUSTOMERS) == Explainer(bundle).reasons(CUSTOMERS)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason(feature="Age", value=58.0, contribution=1.234), "Age 58 raises the risk (+1.23)"),
        (Reason(feature="Geography", value="Spain", contribution=-0.2), "Geography Spain lowers the risk (-0.20)"),
        (Reason(feature="Balance", value=125000.5, contribution=0.1), "Balance 125,000.5 raises the risk (+0.10)"),
        (Reason(feature="Age", value=None, contribution=0.1), "Age unknown raises the risk (+0.10)"),
    ],
)
def test_a_reason_as_text(reason: Reason, text: str) -> None:
    assert reason_as_text(reason) == text
