"""The asset that compares the shadow with the champion."""

from churn_platform_tests.orchestration.assets.graph import Assets, materializations


def test_without_a_shadow_it_says_how_to_start_one(assets: Assets) -> None:
    result = assets.run("shadow_comparison_job")

    (metadata,) = materializations(result, "shadow_comparison").values()
    assert "'churn model shadow VERSION' starts one" in str(metadata["conclusion"])
    assert all(check.passed for check in result.get_asset_check_evaluations())
