"""The asset that says whether calls help."""

import dagster as dg

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import new_team


def test_the_effect_is_computed_and_warnings_fail_its_check(assets: Assets, bank_schema: CustomerSchema) -> None:
    team = new_team(assets.connection, bank_schema)  # without a control group
    team.commit(Scored(1, 0.8), Scored(2, 0.9))

    result = assets.run("retention_effect_job")

    (metadata,) = materializations(result, "retention_effect").values()
    assert metadata["conclusion"] == (
        "Nothing to compare yet: no customer of the control arm has entered the call list. The first result can be "
        "expected OUTCOME_DAYS after customers of both arms have."
    )
    assert metadata["arms"] == [
        {"arm": "contact", "entered": 2, "open": 2, "unknown": 0, "stayed": 0, "left": 0, "contacted": 0},
        {"arm": "control", "entered": 0, "open": 0, "unknown": 0, "stayed": 0, "left": 0, "contacted": 0},
    ]
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "Set CONTROL_SHARE above 0" in (check.description or "")
