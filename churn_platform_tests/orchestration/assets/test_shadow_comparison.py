"""The asset that compares the shadow with the champion."""

import dagster as dg
import pytest

from churn_platform.challengers import trials
from churn_platform.challengers.shadow_scoring import ShadowScoring
from churn_platform.database import model_versions
from churn_platform.orchestration.schedules import request_comparison
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.orchestration.assets.graph import Assets, materializations
from churn_platform_tests.stream.streams import event


def test_without_a_shadow_it_says_how_to_start_one(assets: Assets) -> None:
    result = assets.run("shadow_comparison_job")

    (metadata,) = materializations(result, "shadow_comparison").values()
    assert "'churn model shadow VERSION' starts one" in str(metadata["conclusion"])
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert isinstance(request_comparison(dg.build_schedule_context()), dg.SkipReason)


@pytest.mark.slow
def test_a_shadow_of_the_champions_own_model_agrees_with_it(
    assets: Assets, bundle_uri: str, bank_schema: CustomerSchema
) -> None:
    model_versions.register(assets.connection, version=8, uri=bundle_uri, run_id="another", metrics={})
    trials.start(assets.connection, "shadow", model_version=8, share=1.0, schema=bank_schema)
    assets.send(*(event(number, true_churn_label=number % 2) for number in range(40)))
    assets.stream()
    while ShadowScoring(high_risk_threshold=0.5).run(assets.connection):
        pass

    result = assets.run("shadow_comparison_job")

    (metadata,) = materializations(result, "shadow_comparison").values()
    assert (metadata["model_version"], metadata["events"], metadata["customers"]) == (8, 40, 40)
    assert (metadata["psi"], metadata["ks"]) == (0.0, 0.0)
    figures = metadata["figures"]
    assert isinstance(figures, list)
    assert all(each["challenger"] == each["champion"] for each in figures)
    assert {each["figure"] for each in figures} >= {"mean risk score", "ROC AUC", "Brier score", "log loss"}
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert isinstance(request_comparison(dg.build_schedule_context()), dg.RunRequest)
