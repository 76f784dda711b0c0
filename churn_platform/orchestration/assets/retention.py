"""The retention team's assets. The resident worker keeps them; Dagster shows their lineage and what it found."""

import dagster as dg

from churn_platform.database.worker_observations import CALL_LIST, CASES
from churn_platform.orchestration.assets.batches import HIGH_RISK, PREDICTIONS
from churn_platform.orchestration.assets.columns import call_list_columns, case_columns
from churn_platform.orchestration.assets.file_scores import FILE_SCORES
from churn_platform.schema.customer_schema import CustomerSchema

GROUP = "retention"
OWNERS = ["team:retention"]

_CASES_DESCRIPTION = """\
Customers at risk who may be called: one case for a customer, from the first high-risk score to the outcome.

A case is opened when the customer's latest score reaches `HIGH_RISK_THRESHOLD`. `CASES_FROM` decides whether scores of
the stream or of a [scored file](/assets/customer_file_scores) open one. A case is closed when the risk falls well below
the threshold, when somebody closes it, or when its time is over. Its priority is the expected value of a call. A share
of the customers (`CONTROL_SHARE`) is in the control arm: these are never called, which shows what calls are worth.

The resident worker (`churn worker`) keeps this table a few seconds behind the stream, also while Dagster is down.
**Observations** report how many cases are open, by status and arm. `docs/explanation/retention.md` explains the rules.

Next: [call_list](/assets/call_list)."""
_CALL_LIST_DESCRIPTION = """\
Whom to call today, best first: the cases of the contact arm with the highest priorities, at most `CASES_PER_DAY`.

`churn cases list` shows it with the reasons. The day begins at midnight in `BUSINESS_TIMEZONE`. A customer who was
called leaves the list at once. The table `retention_list_entries` records who entered it, in both arms alike.

**Observations** report the day and the length of the list."""


def retention_assets(schema: CustomerSchema) -> list[dg.AssetSpec]:
    """Return the cases and the call list.

    Args:
        schema: of the customers.
    """
    cases = dg.AssetSpec(
        CASES,
        deps=[PREDICTIONS, HIGH_RISK, FILE_SCORES],
        group_name=GROUP,
        kinds={"postgres", "table"},
        owners=OWNERS,
        metadata={**case_columns(schema), "dagster/table_name": CASES},
        description=_CASES_DESCRIPTION,
    )
    call_list = dg.AssetSpec(
        CALL_LIST,
        deps=[CASES],
        group_name=GROUP,
        kinds={"postgres", "view"},
        owners=OWNERS,
        metadata={**call_list_columns(schema), "dagster/table_name": "v_call_list"},
        description=_CALL_LIST_DESCRIPTION,
    )
    return [cases, call_list]
