"""The asset of customers whose outcome is known, which training may use."""

from datetime import UTC, datetime
from typing import Final

import dagster as dg
import pandas as pd

from churn_platform.orchestration.assets.columns import labelled_columns
from churn_platform.orchestration.assets.training_inputs import OUTCOMES_HASH
from churn_platform.orchestration.assets.ui_metadata import distributions, next_asset
from churn_platform.orchestration.resources.postgres import PostgresResource
from churn_platform.orchestration.retries import retry_transient_errors
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import SettingsError, settings

LABELLED_CUSTOMERS: Final = "labelled_customers"


def labelled_assets(schema: CustomerSchema, *, train_on_outcomes: bool) -> list[dg.AssetsDefinition]:
    """Return the customers whose outcome is known.

    Args:
        schema: of the customers.
        train_on_outcomes: whether training uses them. Then they are part of data preparation, and of its job.
    """

    @dg.asset(
        name=LABELLED_CUSTOMERS,
        group_name="preparation" if train_on_outcomes else "retention",
        owners=["team:ml-platform"],
        kinds={"postgres", "pandas"},
        deps=[
            dg.AssetDep("churn_predictions", partition_mapping=dg.AllPartitionMapping()),
            "customer_outcomes",
            "retention_cases",
        ],
        metadata=labelled_columns(schema),
        description=_DESCRIPTION,
    )
    def labelled_customers(postgres: PostgresResource) -> dg.MaterializeResult[pd.DataFrame]:
        from churn_platform.modeling.outcome_rows import WEIGHT
        from churn_platform.modeling.training import data_hash
        from churn_platform.monitoring import labelled_customers as labelled

        days, archive_days = settings().retention.outcome_days, settings().lifecycle.archive_days
        if days >= archive_days:
            raise SettingsError(
                f"OUTCOME_DAYS is {days} and ARCHIVE_DAYS is {archive_days}: predictions leave the table before their "
                f"outcome is known.",
                remedy="Set ARCHIVE_DAYS above OUTCOME_DAYS.",
            )
        with retry_transient_errors(), postgres.connect("churn labelled customers") as connection:
            found = labelled.load(
                connection,
                schema,
                outcome_days=days,
                control_share=settings().retention.control_share,
                now=datetime.now(UTC),
            )
        customers = found.customers
        customers.attrs = {OUTCOMES_HASH: data_hash(customers)}
        return dg.MaterializeResult(
            value=customers,
            metadata={
                "dagster/row_count": len(customers),
                "left": int(customers[schema.target].sum()),
                "controls": int((customers[WEIGHT] > 1).sum()),
                "left_out_contacted": found.contacted,
                "left_out_unknown": found.unknown,
                OUTCOMES_HASH: customers.attrs[OUTCOMES_HASH],
                **distributions(customers, schema.target),
                **(next_asset("train_test_split") if train_on_outcomes else {}),
            },
        )

    return [labelled_customers]


_DESCRIPTION: Final = """\
Customers whose outcome is known, each once, with the features as they were when the customer was first predicted.

The outcome is whether the customer left within `OUTCOME_DAYS` of the prediction, so no feature is from after the time
that it is about. Customers who were on a call list are left out, called or not; those of the control group stand for
them, with a weight of 1 / `CONTROL_SHARE`.

With `TRAIN_ON_OUTCOMES` they join the training split. It is off by default; `docs/explanation/outcomes.md` says why."""
