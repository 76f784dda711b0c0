"""The latest score of a customer in the stream."""

from datetime import timedelta

import numpy as np
import psycopg
import pytest

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.api.running import Api
from churn_platform_tests.dashboard.summaries import summarize
from churn_platform_tests.worker.ledger import FollowedLedger, Scored


@pytest.fixture
def ledger(connection: psycopg.Connection) -> FollowedLedger:
    """Commits predictions as the stream does."""
    return FollowedLedger(connection)


def test_a_customer_has_the_latest_score_with_its_reasons(
    api: Api, connection: psycopg.Connection, ledger: FollowedLedger, bank_schema: CustomerSchema
) -> None:
    ledger.commit([Scored(1, 0.2, timedelta(hours=2)), Scored(1, 0.9), Scored(2, 0.4, prediction=0)], explained=True)
    summarize(connection, bank_schema)

    risky, safe = api.get("/v1/customers/1"), api.get("/v1/customers/2")

    assert (risky["customer_id"], risky["risk_score"], risky["high_risk"]) == (1, float(np.float32(0.9)), True)
    assert (risky["model_version"], risky["predictions"], risky["prediction"]) == (1, 2, 1)
    assert [reason["sentence"] for reason in risky["reasons"]] == [
        "Balance of 125,510 euros raises the risk",
        "Time with the bank of 3 years lowers the risk",
        "Active member: no, which raises the risk",
    ]
    assert (safe["high_risk"], safe["reasons"]) == (False, None)
    assert "arm" not in risky, "who is in the control group is nobody's business"


@pytest.mark.parametrize("customer_id", ["99", "abc", "1.0", "9" * 19, "9" * 30, "-", "%00", "1%2F2"])
def test_other_customers_are_not_found(api: Api, customer_id: str) -> None:
    assert api.get(f"/v1/customers/{customer_id}", status=404)["title"] == "No such customer"
