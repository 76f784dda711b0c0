"""A check says what it saw where something is wrong, and nothing where all is well."""

import numpy as np
import pandas as pd
import pytest

from churn_platform.checks.frames import (
    Rule,
    categories_rule,
    column_order_rule,
    nulls_rule,
    ranges_rule,
    schema_rule,
)

FRAME = pd.DataFrame({"Age": [18.0, np.nan, 130.0], "Tenure": [1, 2, 3], "Gender": ["Male", None, "male"]})


@pytest.mark.parametrize(
    ("rule", "violations"),
    [
        (schema_rule({"Age": "float64", "Tenure": "int64"}), []),
        (
            schema_rule({"Age": "int64", "Balance": "float64"}),
            ["Age is float64, not int64", "Balance is missing, not float64"],
        ),
        (nulls_rule(["Tenure"]), []),
        (nulls_rule(["Age", "Balance"]), ["Age is null in 1 of 3 rows", "Balance is null in 3 of 3 rows"]),
        (ranges_rule({"Age": (18, 130), "Tenure": (1, 3)}), []),
        (ranges_rule({"Age": (19, 120), "Balance": (0, 1)}), ["Balance is missing", "Age is 18..130 in 2 of 3 rows"]),
        (categories_rule({"Gender": ("Male", "male")}), []),
        (categories_rule({"Gender": ("Female", "Male")}), ["Gender is 'male' in 1 of 3 rows"]),
        (column_order_rule(["Age", "Tenure", "Gender"]), []),
        (column_order_rule(["Tenure", "Age", "Gender"]), ["the columns are Age, Tenure, Gender"]),
    ],
)
def test_violations_are_named(rule: Rule, violations: list[str]) -> None:
    assert rule.violations(FRAME) == violations


def test_the_expectation_is_stated_in_words() -> None:
    assert ranges_rule({"Age": (18, 120)}).expected == "Age 18..120"
    assert categories_rule({"Gender": ("Female", "Male")}).expected == "Gender Female or Male"
