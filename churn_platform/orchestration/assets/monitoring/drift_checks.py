"""Checks of the drift assets: one for each monitored feature, one for each rate."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import dagster as dg

from churn_platform.monitoring import verdicts
from churn_platform.monitoring.drift import Reference, monitored
from churn_platform.monitoring.verdicts import Verdict
from churn_platform.orchestration.assets.check_names import check_names
from churn_platform.orchestration.assets.monitoring.common import verdict_result
from churn_platform.orchestration.assets.partition_checks import partition_check
from churn_platform.orchestration.assets.ui_metadata import significant
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import MonitoringSettings, settings

MISSING_VALUES: Final = "missing_values"
OUT_OF_RANGE: Final = "out_of_range"
DEAD_LETTERS: Final = "dead_letters"


@cache
def drift_checks(schema: CustomerSchema) -> Mapping[str, str]:
    """Return the name of the check of each monitored feature's drift."""
    return {feature: f"drift_{name}" for feature, name in check_names(monitored(schema)).items()}


def drift_check_specs(
    asset: str, partitions: dg.PartitionsDefinition, period: str, limits: MonitoringSettings, schema: CustomerSchema
) -> list[dg.AssetCheckSpec]:
    """Return the checks that a drift asset has for each partition, an hour or a day (`period`)."""
    shifted, far = limits.drift_shifted, limits.drift_far
    expected = {
        **{
            check: f"{feature} of the {period} has the same distribution as in the training data. The "
            f"check warns from a PSI of {shifted:g} and fails from {far:g}, unless chance explains the difference."
            for feature, check in drift_checks(schema).items()
        },
        MISSING_VALUES: "about as many nulls as in the training data.",
        OUT_OF_RANGE: "hardly any values that the training data did not contain.",
    }
    return [partition_check(name, asset, partitions, f"Expected: {text}") for name, text in expected.items()]


def dead_letters_check_spec(asset: str, partitions: dg.PartitionsDefinition) -> dg.AssetCheckSpec:
    """Return the check of the share of dead letters per hour."""
    return partition_check(
        DEAD_LETTERS,
        asset,
        partitions,
        "Expected: hardly any dead letters among the events that batches opened in the hour have read.",
    )


def drift_check_results(
    rows: Sequence[Mapping[str, Any]], references: Mapping[int, Reference], period: str, schema: CustomerSchema
) -> list[dg.AssetCheckResult]:
    """Return the results of a drift asset's checks.

    Args:
        rows: drift rows of one hour or day and one model version, by feature.
        references: references by model version.
        period: the hour or day, as the results name it.
        schema: of the customers. Rows of columns that left it have no check any more.
    """
    checks = drift_checks(schema)
    if not rows or rows[0]["psi"] is None:
        reason = (
            f"model version {rows[0]['model_version']} has no reference; train a new model"
            if rows
            else "no predictions"
        )
        return [_not_evaluated(name, period, reason) for name in (*checks.values(), MISSING_VALUES, OUT_OF_RANGE)]
    reference = references[rows[0]["model_version"]]
    missing_increase = {
        row["feature"]: row["missing_rate"] - reference.features[row["feature"]].missing_rate for row in rows
    }
    outside = {row["feature"]: row["out_of_range_rate"] for row in rows}
    has_missing = any(row["missing_rate"] > 0 for row in rows)
    nothing_missing = "no more values are missing than in training" if has_missing else "no values are missing"
    enough = rows[0]["sampled"] >= settings().monitoring.drift_least_predictions
    by_feature = {row["feature"]: row for row in rows}
    too_new = f"model version {rows[0]['model_version']} was trained without it; train a new model"
    return [
        *(
            _drift_result(check, by_feature[feature], period)
            if feature in by_feature
            else _not_evaluated(check, period, too_new)
            for feature, check in checks.items()
        ),
        _rate_result(
            MISSING_VALUES,
            missing_increase,
            verdicts.MISSING_RATE_INCREASE,
            period,
            nothing_found=nothing_missing,
            enough=enough,
        ),
        _rate_result(
            OUT_OF_RANGE,
            outside,
            verdicts.OUT_OF_RANGE_RATE,
            period,
            nothing_found="no values are out of range",
            enough=enough,
        ),
    ]


def dead_letters_result(read: int, dead: int, period: str) -> dg.AssetCheckResult:
    """Return the result of the check of dead letters, given the numbers of events read and of dead letters."""
    rate = dead / read if read else 0.0
    enough = read >= settings().monitoring.drift_least_predictions
    warns, fails = verdicts.DEAD_LETTER_RATE
    return verdict_result(
        DEAD_LETTERS,
        verdicts.rate_verdict(rate, verdicts.DEAD_LETTER_RATE) if enough else Verdict.TOO_FEW,
        f"Found, in batches opened {period}: {dead:,} dead letters among {read:,} events. Expected: less than "
        f"{100 * warns:g} %; the check fails from {100 * fails:g} %.",
        {"events": read, "dead_letters": dead, **significant({"rate": rate}), "period": period},
    )


def _not_evaluated(check: str, period: str, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=check, passed=True, description=f"Not evaluated, {period}: {reason}.")


def _drift_result(check: str, row: Mapping[str, Any], period: str) -> dg.AssetCheckResult:
    verdict = Verdict(row["verdict"])
    return verdict_result(
        check,
        verdict,
        f"Found, {period}, model version {row['model_version']}: {verdict.value}, PSI {row['psi']:.3f} over "
        f"{row['sampled']:,} predictions (p {row['p_value']:.2g}). Expected: a PSI below "
        f"{settings().monitoring.drift_shifted:g}, or one that chance explains.",
        {
            **significant({"psi": row["psi"], "p_value": row["p_value"]}),
            "predictions": row["sampled"],
            "period": period,
        },
    )


def _rate_result(
    name: str,
    rates: Mapping[str, float],
    thresholds: tuple[float, float],
    period: str,
    *,
    nothing_found: str,
    enough: bool,
) -> dg.AssetCheckResult:
    """Return the result of the check of a rate, for the feature with the highest one.

    Args:
        name: name of the check.
        rates: rate by feature, 0..1.
        thresholds: rates from which the check warns and fails.
        period: the hour or day, as the result names it.
        nothing_found: the finding if no rate is above 0.
        enough: whether there are enough predictions for a verdict.
    """
    worst = max(rates, key=lambda feature: rates[feature])
    highest = f"the highest rate is that of {worst}, {100 * rates[worst]:.2f} % of the predictions"
    return verdict_result(
        name,
        verdicts.rate_verdict(rates[worst], thresholds) if enough else Verdict.TOO_FEW,
        f"Found, {period}: {highest if rates[worst] > 0 else nothing_found}. Expected: less than "
        f"{100 * thresholds[0]:g} %; the check fails from {100 * thresholds[1]:g} %.",
        {"feature": worst, **significant({"rate": rates[worst]}), "period": period},
    )
