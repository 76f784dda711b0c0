"""What the resident worker does for operators: messages that are sent, and problems that were found.

Dagster shows their lineage and what the worker found; it computes neither.
"""

import dagster as dg

from churn_platform.alerts.operator_duty import ASSET as CONDITIONS
from churn_platform.alerts.outbox import ASSET as OUTBOX
from churn_platform.database.worker_observations import CALL_LIST
from churn_platform.orchestration.assets.batches import PREDICTIONS
from churn_platform.orchestration.assets.columns import alert_outbox_columns, operator_condition_columns

OWNERS = ["team:platform"]

_CONDITIONS_DESCRIPTION = """\
Problems of the platform, from when they began until they ended: a stream that stands still, a failed run or check, a
full disk and others. `docs/reference/operator-conditions.md` lists them with their bounds and what to do.

The resident worker (`churn worker`) looks for them every 10 s, also while Dagster's daemon is down, and tells
`OPERATOR_TARGETS` when one begins, lasts and ends. **Observations** report which are open.

Next: [alert_outbox](/assets/alert_outbox)."""
_OUTBOX_DESCRIPTION = """\
Messages to the retention team and to operators: one row for each message and target.

A message is `pending`, `sending`, `sent`, `in_doubt` or `failed`. One is in doubt if its sender died, or lost the
connection, after the receiver may have taken it: it is never repeated by itself. `churn alerts list` shows the
messages, and `churn alerts retry|confirm|dismiss` settles them. The resident worker sends them. **Observations** count
them by status."""


def operator_assets() -> list[dg.AssetSpec]:
    """Return the operator conditions and the outbox."""
    conditions = dg.AssetSpec(
        CONDITIONS,
        deps=[PREDICTIONS],
        group_name="monitoring",
        kinds={"postgres", "table"},
        owners=OWNERS,
        metadata={**operator_condition_columns(), "dagster/table_name": CONDITIONS},
        description=_CONDITIONS_DESCRIPTION,
    )
    outbox = dg.AssetSpec(
        OUTBOX,
        deps=[CALL_LIST, CONDITIONS],
        group_name="retention",
        kinds={"postgres", "table"},
        owners=OWNERS,
        metadata={**alert_outbox_columns(), "dagster/table_name": OUTBOX},
        description=_OUTBOX_DESCRIPTION,
    )
    return [conditions, outbox]
