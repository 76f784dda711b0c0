"""The page of one customer: scores and their reasons, values, cases and outcomes.

Whoever calls customers sees no risk of a customer in the control group: neither scores nor reasons nor cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import psycopg

from churn_platform.dashboard import addresses
from churn_platform.dashboard.charts import Axis, Chart, Heading, Note, Series, line_chart, waterfall_chart
from churn_platform.dashboard.customer_values import column_label, typed_id, value_text
from churn_platform.dashboard.exceptions import NotFoundError
from churn_platform.dashboard.formats import number, percent
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.dashboard.risk_bands import RiskBands, trend
from churn_platform.dashboard.segments import segment_name, value_name
from churn_platform.dashboard.what_if import MOST_CHANGES_OF_CALLERS, fields_of
from churn_platform.database.pages import customer as reading
from churn_platform.database.pages.customer import Case, CaseChange, Event, Explained, Summary
from churn_platform.database.pages.customers import Reason, high_risk_threshold
from churn_platform.retention.reasons import sentences
from churn_platform.settings import customer_link

REFRESH_SECONDS: Final = 15
MOST_SCORES: Final = 1_000
"""Scores that the chart shows."""
EVENTS: Final = 100
"""Events that the table shows."""
MOST_CASES: Final = 20
MOST_CHANGES: Final = 200
MOST_OUTCOMES: Final = 100
MOST_NOTES: Final = 5
"""Changes of the model version that the chart names. More texts would cover each other."""


@dataclass(frozen=True)
class EventRow:
    """An event, and where the Dagster UI shows its batch; empty if pages do not link to it."""

    event: Event
    batch_address: str


@dataclass(frozen=True)
class ValueRow:
    """A column of the customer: its name and value for people, and what it means."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class CaseOfCustomer:
    """A case and its changes, the latest one first."""

    case: Case
    changes: Sequence[CaseChange]


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return what is known of a customer.

    Raises:
        NotFoundError: there is no such customer.
    """
    text = visit.place["customer_id"]
    customer_id = known_id(visit)
    summary = reading.summary(connection, customer_id)
    file_score = reading.file_score(connection, customer_id)
    cases = reading.cases(connection, customer_id, limit=MOST_CASES)
    events = reading.events(connection, customer_id, limit=MOST_SCORES)
    if summary is None and file_score is None and not cases and not events:
        raise NotFoundError(
            f"No customer {text} is known: no event with this id was scored, and there is no case. An event that was "
            f"sent just now is here within seconds."
        )
    threshold = high_risk_threshold(connection)
    bands = RiskBands(1.0 if threshold is None else threshold)
    hides_risk = visit.hides_controls and may_be_control(summary, cases)
    values = None if summary is None else reading.values(connection, visit.schema, summary.event_id)
    explained = None if summary is None else reading.explained(connection, customer_id, event_id=summary.event_id)
    return View(
        "customer.html.j2",
        f"Customer {customer_id}",
        {
            "customer_id": customer_id,
            "summary": summary,
            "bands": bands,
            "band": None if summary is None else bands.of(summary.risk_score),
            "trend": None if summary is None else trend(summary.risk_score, summary.previous_risk_score),
            "segments": []
            if summary is None
            else [
                ValueRow(segment_name(column), value_name(column, value), "")
                for column in visit.schema.segments
                if (value := summary.segments.get(column.column)) is not None
            ],
            "has_money": visit.schema.money_at_risk is not None,
            "hides_risk": hides_risk,
            "is_viewer": not visit.hides_controls,
            "crm": customer_link(visit.config.customer_url, customer_id),
            "file_score": file_score,
            "file_reasons": [] if file_score is None else sentences(file_score.reasons, visit.schema),
            "history_chart": None if hides_risk or not events else _history_chart(events, bands),
            "reasons_chart": None if hides_risk or explained is None else _reasons_chart(visit, explained),
            "explained": explained,
            "values": [] if values is None else _values(visit, values),
            "fields": [] if hides_risk or values is None else fields_of(visit.schema, values),
            "can_ask": bool(visit.config.api_url),
            "most_changes": MOST_CHANGES_OF_CALLERS if visit.hides_controls else None,
            "events": [
                EventRow(each, addresses.batch(visit.config.dagster_url, each.batch)) for each in events[:EVENTS]
            ],
            "known_events": len(events),
            "most_scores": MOST_SCORES,
            "cases": [] if hides_risk else _cases(visit, connection, cases),
            "outcomes": reading.outcomes(
                connection, customer_id, event_ids=[each.event_id for each in events], limit=MOST_OUTCOMES
            ),
        },
        refresh=REFRESH_SECONDS,
    )


def known_id(visit: Visit) -> int | str:
    """Return the id of the customer that the path names.

    Raises:
        NotFoundError: no customer can have it.
    """
    text = visit.place["customer_id"]
    customer_id = typed_id(visit.schema, text)
    if customer_id is None:
        expected = "a whole number" if visit.schema.id_type == "bigint" else "a text of at most 200 characters"
        raise NotFoundError(f"{text[:100]!r} cannot be the id of a customer: {visit.schema.id} is {expected}.")
    return customer_id


def may_be_control(summary: Summary | None, cases: Sequence[Case]) -> bool:
    """Return whether the customer is in the control group, or that is not known.

    A case keeps its arm when CONTROL_SHARE changes, so an open case of the control group counts as well.
    """
    if any(case.arm == "control" and case.closed_at is None for case in cases):
        return True
    if summary is not None:
        return summary.arm == "control"
    return not cases or cases[0].arm == "control"


def _history_chart(events: Sequence[Event], bands: RiskBands) -> Chart:
    in_order = events[::-1]
    scores = [each.risk_score for each in in_order]
    notes = [
        Note(after.event_timestamp, f"model {after.model_version}")
        for before, after in pairwise(in_order)
        if before.model_version != after.model_version
    ]
    high = sum(bands.of(score) == "high" for score in scores)
    summary = (
        f"{number(len(scores))} score{'s' if len(scores) != 1 else ''} from {percent(min(scores))} to "
        f"{percent(max(scores))}; {number(high) if high else 'none'} of them high risk."
    )
    return line_chart(
        Heading("history", "Risk score over time", summary),
        [each.event_timestamp for each in in_order],
        [
            Series("Risk score", scores),
            Series("High-risk threshold", [bands.threshold] * len(scores), "bad", is_dashed=True),
        ],
        x_title="Time of the event",
        y=Axis("risk score", ticks=".0%", range=(0, 1), digits=3),
        notes=notes[-MOST_NOTES:],
    )


def _reasons_chart(visit: Visit, explained: Explained) -> Chart:
    texts = sentences(explained.reasons, visit.schema)
    summary = f"{'. '.join(texts)}." if texts else "None of the stored reasons raises the risk."
    return waterfall_chart(
        Heading("reasons", "Reasons for the score", summary),
        [_reason_name(visit, each) for each in explained.reasons],
        [each["contribution"] for each in explained.reasons],
        total_name="All of these",
        x_title="Reason",
        y=Axis("change of the log-odds of leaving", digits=2),
    )


def _reason_name(visit: Visit, reason: Reason) -> str:
    name = reason["feature"]
    return f"{column_label(visit.schema, name)}: {value_text(visit.schema.by_name.get(name), reason['value'])}"


def _values(visit: Visit, values: Mapping[str, object]) -> list[ValueRow]:
    """Return the customer's columns at the latest event."""
    return [
        ValueRow(column_label(visit.schema, each.name), value_text(each, values[each.column]), each.description)
        for each in visit.schema.stored
    ]


def _cases(visit: Visit, connection: psycopg.Connection, cases: Sequence[Case]) -> list[CaseOfCustomer]:
    shown = [case for case in cases if case.arm == "contact" or not visit.hides_controls]
    changes = reading.case_history(connection, [case.case_id for case in shown], limit=MOST_CHANGES)
    return [CaseOfCustomer(case, [each for each in changes if each.case_id == case.case_id]) for case in shown]


PAGES: Final[Sequence[Page]] = (Page(f"{addresses.CUSTOMERS}/{{customer_id:path}}", read),)
