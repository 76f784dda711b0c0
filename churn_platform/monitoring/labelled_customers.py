"""Customers whose outcome is known, with their features as they were when predicted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg

from churn_platform.database import labelled_customers, retention_effect
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.modeling.outcome_rows import WEIGHT, outcome_weights
from churn_platform.retention.effect import Known, state_at_end
from churn_platform.schema.customer_schema import CustomerSchema

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LabelledCustomers:
    """Customers whose outcome is known.

    Attributes:
        customers: one row for each: id, inputs and target (0 or 1) of the schema, and WEIGHT.
        contacted: customers who are left out because they were on a call list or were called.
        unknown: customers who are left out because it is not known whether they left in time.
    """

    customers: pd.DataFrame
    contacted: int
    unknown: int


def load(
    connection: psycopg.Connection, schema: CustomerSchema, *, outcome_days: int, control_share: float, now: datetime
) -> LabelledCustomers:
    """Return the customers whose outcome is known.

    Each is there once, with the columns of the first stored prediction of which OUTCOME_DAYS have passed, and with
    whether the customer left within them. So no feature is from after the time that the outcome is about. Customers of
    the contact arm who reached a call list by then are left out, called or not; those of the control arm stand for
    them.

    Args:
        connection: to the platform's database.
        schema: of the customers.
        outcome_days: days after the prediction in which the customer has to leave to count.
        control_share: share of the control group; 0 is an error only if somebody of it is there.
        now: until when outcomes are known.
    """
    import pandas as pd

    window = timedelta(days=outcome_days)
    predicted = labelled_customers.predicted(connection, prediction_table(schema), window=window, now=now)
    uncontacted = [each for each in predicted if not each.contacted]
    known: dict[int | str, list[Known]] = defaultdict(list)
    for customer, at, left in retention_effect.known_outcomes(connection, [each.customer_id for each in uncontacted]):
        known[customer].append(Known(at, left))
    states = [state_at_end(each.event_timestamp, window, known[each.customer_id], now=now) for each in uncontacted]
    labelled = [
        (each, state == "left") for each, state in zip(uncontacted, states, strict=True) if state in ("left", "stayed")
    ]
    columns: dict[str, Any] = {schema.id: np.array([each.customer_id for each, _ in labelled], schema.id_column.dtype)}
    for name in schema.inputs:
        # None becomes NaN or NaT.
        values = np.array([each.columns[name] for each, _ in labelled], _dtype(schema, name))
        columns[name] = values.astype(schema.by_name[name].dtype)
    columns[schema.target] = np.array([left for _, left in labelled], np.int64)
    is_control = np.array([each.control for each, _ in labelled], np.bool_)
    columns[WEIGHT] = outcome_weights(is_control, control_share) if is_control.any() else np.ones(len(labelled))
    return LabelledCustomers(
        customers=pd.DataFrame(columns),
        contacted=len(predicted) - len(uncontacted),
        unknown=len(uncontacted) - len(labelled),
    )


def _dtype(schema: CustomerSchema, name: str) -> str:
    return {"category": "object", "date": "datetime64[D]"}.get(schema.by_name[name].kind, "float64")
