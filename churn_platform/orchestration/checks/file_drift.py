"""A warning if the customers of a new file differ from those that the champion was trained on."""

import dagster as dg
import pandas as pd
import psycopg

from churn_platform.database import model_versions
from churn_platform.database.connections import connect
from churn_platform.features.columns import columns_of
from churn_platform.files.stored_frame import Frame, StoredColumns, StoredFrame
from churn_platform.monitoring import lookups
from churn_platform.monitoring.drift import Reference, Thresholds, count_features, measure_drift
from churn_platform.monitoring.verdicts import Verdict
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import MonitoringSettings, SettingsError, settings

APPLICATION = "churn preparation"
CHECK = "drift_from_champion"


def file_drift_check(
    schema: CustomerSchema, monitoring: MonitoringSettings, *, stored: bool = False
) -> dg.AssetChecksDefinition:
    """Return a check of cleaned_customers that warns and never blocks.

    Args:
        schema: of the customers.
        monitoring: the thresholds.
        stored: whether the check reads one column after the other, because the customers may be larger than memory.
    """
    thresholds = Thresholds(
        shifted=monitoring.drift_shifted, far=monitoring.drift_far, min_rows=monitoring.drift_least_predictions
    )

    decorated = dg.asset_check(
        asset="cleaned_customers",
        name=CHECK,
        description=f"Expected: no feature has a PSI of {thresholds.shifted:g} or more against the champion's training "
        f"data. It is a warning: a model that is trained on these customers may be the remedy.",
        compute_kind="pandas",
    )

    def drift(customers: Frame) -> dg.AssetCheckResult:
        try:
            version, reference = _champion_reference()
        except (SettingsError, psycopg.Error) as error:
            return _result([f"the champion is unknown: {error}"], {})
        if version is None or reference is None:
            return _result([], {"champion": "none"}, alike="there is no champion to compare with")
        known = [name for name in schema.inputs if name in reference.features]
        compared = Reference({name: reference.features[name] for name in known})
        observed = count_features(
            compared,
            StoredColumns(customers, known) if isinstance(customers, StoredFrame) else columns_of(customers, known),
        )
        drifts = {name: measure_drift(compared.features[name], counted) for name, counted in observed.items()}
        verdicts = {name: drift.verdict(thresholds) for name, drift in drifts.items()}
        shifted = [
            f"{name} is {verdicts[name].value} (PSI {drifts[name].psi:.3f})"
            for name in sorted(known, key=lambda name: -drifts[name].psi)
            if verdicts[name] in (Verdict.SHIFTED, Verdict.FAR)
        ]
        largest = max((each.psi for each in drifts.values()), default=0.0)
        return _result(shifted, {"champion": version, "largest_psi": largest})

    def drift_from_champion(cleaned_customers: pd.DataFrame) -> dg.AssetCheckResult:
        return drift(cleaned_customers)

    def drift_of_stored(cleaned_customers: StoredFrame) -> dg.AssetCheckResult:
        return drift(cleaned_customers)

    return decorated(drift_of_stored if stored else drift_from_champion)


def _champion_reference() -> tuple[int | None, Reference | None]:
    """Return the champion's version and the distribution of its training data; None if there is none.

    It does not use the resource: with it, the preparation of a file would need a database.
    """
    with connect(settings().postgres_dsn, application_name=APPLICATION) as connection:
        champion = model_versions.champion(connection)
        if champion is None:
            return None, None
        return champion.version, lookups.references(connection, [champion.version]).get(champion.version)


def _result(
    problems: list[str], metadata: dict[str, str | int | float], *, alike: str = "customers like the champion's"
) -> dg.AssetCheckResult:
    found = "; ".join(problems) or alike
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Found: {found}.",
        metadata={"found": found, **metadata},
    )
