"""Gates stop a training on data that no useful model can be made of."""

import pandas as pd
import pytest

from churn_platform.modeling.file_attributes import file_attributes
from churn_platform.orchestration.checks.gates import (
    MIN_ROWS,
    churn_rate_rule,
    class_balance_rule,
    quarantine_rule,
    rows_rule,
)
from churn_platform_tests.features.customers import BANK


def customers(left: int, stayed: int) -> pd.DataFrame:
    return pd.DataFrame({BANK.target: [1] * left + [0] * stayed})


@pytest.mark.parametrize(("quarantined", "passes"), [(0, True), (10, True), (11, False)])
def test_more_quarantined_rows_than_the_schema_allows_are_a_violation(quarantined: int, passes: bool) -> None:
    rows = customers(10, 979)
    rows.attrs |= file_attributes(sha256="", rows=1_000, quarantined=quarantined)

    violations = quarantine_rule(BANK).violations(rows)

    assert quarantine_rule(BANK).expected == "at most 1 % of the rows are quarantined"
    assert violations == [] if passes else violations[0].startswith("11 of 1,000 rows (1.1 %) break a rule")


def test_too_few_customers_are_a_violation() -> None:
    assert rows_rule().violations(customers(10, MIN_ROWS - 10)) == []
    assert rows_rule().violations(customers(10, MIN_ROWS - 11)) == [f"{MIN_ROWS - 1} customers"]


@pytest.mark.parametrize(
    ("left", "stayed", "passes"),
    [
        (10, 90, True),
        (90, 10, True),
        (9, 91, False),
        (91, 9, False),
        (50, 9_950, True),
        (49, 9_951, False),
        (0, 0, False),
    ],
)
def test_a_rare_outcome_is_a_violation_with_both_counts(left: int, stayed: int, passes: bool) -> None:
    violations = class_balance_rule(BANK).violations(customers(left, stayed))

    assert violations == ([] if passes else [f"{left:,} customers left (Exited 1) and {stayed:,} stayed"])


def test_more_customers_who_left_than_stayed_are_a_warning() -> None:
    rule = churn_rate_rule(BANK)

    assert not rule.blocking
    assert rule.violations(customers(50, 50)) == rule.violations(customers(0, 0)) == []
    assert rule.violations(customers(60, 40)) == ["60 % left: check that Exited 1 means that a customer left"]
