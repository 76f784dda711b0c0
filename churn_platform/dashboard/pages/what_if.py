"""The page that shows the risk of a customer with some values changed.

It changes nothing. The retention team may not use it for customers of the control group, or with so many changes that
they describe another customer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from churn_platform.dashboard import addresses, prediction_api, what_if
from churn_platform.dashboard.customer_values import value_text
from churn_platform.dashboard.exceptions import ApiRefusedError, ApiUnavailableError, ForbiddenError, NotFoundError
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.pages.customer import known_id, may_be_control
from churn_platform.dashboard.prediction_api import Reason, Score, WhatIf
from churn_platform.dashboard.risk_bands import RiskBands
from churn_platform.dashboard.what_if import MOST_CHANGES_OF_CALLERS, Field
from churn_platform.database.pages import customer as reading
from churn_platform.database.pages.customer import Summary
from churn_platform.database.pages.customers import high_risk_threshold

MOST_REASONS: Final = 5
MOST_CASES: Final = 20


@dataclass(frozen=True)
class _Known:
    """What is known of the customer: the id, the latest event and its values, and the bands of risk."""

    customer_id: int | str
    summary: Summary
    values: Mapping[str, object]
    bands: RiskBands


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return the form with the customer's own values.

    Raises:
        NotFoundError: the customer is not known, or the values are archived.
        ForbiddenError: the user may not learn the customer's risk.
    """
    known = _known(visit, connection)
    return _view(visit, known, what_if.fields_of(visit.schema, known.values))


def calculate(visit: Visit) -> View:
    """Return the risk with the values of the form.

    Raises:
        NotFoundError: the customer is not known, or the values are archived.
        ForbiddenError: the user may not learn the customer's risk.
    """
    with visit.databases.reading() as connection:
        known = _known(visit, connection)
    fields = what_if.fields_of(visit.schema, known.values, visit.form)
    result, problem = _ask(visit, known, [each for each in fields if each.is_changed])
    return _view(visit, known, fields, result, problem)


def _known(visit: Visit, connection: psycopg.Connection) -> _Known:
    customer_id = known_id(visit)
    summary = reading.summary(connection, customer_id)
    if summary is None:
        raise NotFoundError(f"No event of customer {customer_id} was scored yet, so there are no values to change.")
    if visit.hides_controls and may_be_control(summary, reading.cases(connection, customer_id, limit=MOST_CASES)):
        raise ForbiddenError("This customer is in the control group, whose risk nobody sees who calls customers.")
    values = reading.values(connection, visit.schema, summary.event_id)
    if values is None:
        raise NotFoundError(f"The latest event of customer {customer_id} is archived, so its values are not here.")
    threshold = high_risk_threshold(connection)
    return _Known(customer_id, summary, values, RiskBands(1.0 if threshold is None else threshold))


def _view(
    visit: Visit, known: _Known, fields: Sequence[Field], result: WhatIf | None = None, problem: str = ""
) -> View:
    scores = [] if result is None else [result.base, result.alternatives[0]]
    return View(
        "what_if.html.j2",
        f"What if: customer {known.customer_id}",
        {
            "customer_id": known.customer_id,
            "fields": fields,
            "problem": problem,
            "changes": [
                (
                    each.label,
                    value_text(each.column, known.values[each.column.column]),
                    value_text(each.column, each.value),
                )
                for each in fields
                if each.is_changed
            ],
            "scores": scores,
            "reasons": [_strongest(each) for each in scores],
            "model_version": None if result is None else result.model_version,
            "summary": known.summary,
            "bands": known.bands,
            "most_changes": MOST_CHANGES_OF_CALLERS if visit.hides_controls else None,
        },
    )


def _ask(visit: Visit, known: _Known, changed: Sequence[Field]) -> tuple[WhatIf | None, str]:
    """Return the scores, or why there are none."""
    if not visit.config.api_url:
        return None, "The dashboard knows no prediction API (DASHBOARD_API_URL), so it cannot calculate."
    if not changed:
        return None, "Nothing was changed: these are the customer's own values. Change one and calculate again."
    if visit.hides_controls and len(changed) > MOST_CHANGES_OF_CALLERS:
        return None, (
            f"{len(changed)} values were changed, and at most {MOST_CHANGES_OF_CALLERS} can be: more could describe "
            "a customer of the control group. Change the others back."
        )
    try:
        return prediction_api.ask(
            visit.config,
            what_if.event_of(visit.schema, known.customer_id, known.values),
            {each.column.name: each.value for each in changed},
        ), ""
    except (ApiRefusedError, ApiUnavailableError) as error:
        return None, str(error)


def _strongest(score: Score) -> list[Reason]:
    return sorted(score.reasons, key=lambda reason: -abs(reason.contribution))[:MOST_REASONS]


PAGES: Final[Sequence[Page]] = (Page(f"{addresses.WHAT_IF}/{{customer_id:path}}", read, change=calculate),)
