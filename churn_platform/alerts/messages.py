"""The texts of messages. Pure; nothing is sent here.

A message holds what a person needs to act: for a customer to call the id, the reasons and the priority. The platform
knows no names and no contact data, and a message has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final, Literal
from uuid import UUID

from churn_platform.database.alert_outbox import Kind, StoredMessage

State = Literal["began", "lasts", "ended"]
"""Of an operator condition."""
SEE_LIST: Final = "'churn cases list' shows the current list."


@dataclass(frozen=True)
class Message:
    """A message as senders get it.

    Attributes:
        key: the same in every attempt, so that a receiver can recognize a repetition.
        kind: case, digest or operator.
        reference: what it is about.
        subject: one line.
        text: lines of plain text.
        created_at: when it was written.
        data: the same for programs; JSON.
    """

    key: UUID
    kind: Kind
    reference: str
    subject: str
    text: str
    created_at: datetime
    data: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return it as the body of a webhook."""
        return {
            "idempotency_key": str(self.key),
            "kind": self.kind,
            "reference": self.reference,
            "created_at": self.created_at.astimezone(UTC).isoformat(),
            "subject": self.subject,
            "text": self.text,
            **self.data,
        }


def of_stored(stored: StoredMessage) -> Message:
    """Return the message of a row of the outbox."""
    return of_payload(
        stored.payload,
        key=stored.idempotency_key,
        kind=stored.kind,
        reference=stored.reference,
        created_at=stored.created_at,
    )


def of_payload(
    payload: Mapping[str, object], *, key: UUID, kind: Kind, reference: str, created_at: datetime
) -> Message:
    """Return the message of a payload: its subject, its text, and all else as data. See Message for the arguments."""
    data = {name: value for name, value in payload.items() if name not in ("subject", "text")}
    return Message(key, kind, reference, str(payload["subject"]), str(payload["text"]), created_at, data)


def shortened(text: str, limit: int) -> str:
    """Return as many whole lines of a text as fit, with a note about the others.

    Args:
        text: lines.
        limit: most characters of the result; at least 200.
    """
    if len(text) <= limit:
        return text
    lines = text.splitlines()
    kept: list[str] = []
    room = limit - 100  # for the note
    for line in lines:
        if sum(len(each) + 1 for each in kept) + len(line) > room:
            break
        kept.append(line)
    return "\n".join([*kept, f"... and {len(lines) - len(kept)} more lines. {SEE_LIST}"])


def case_payload(day: date, *, rank: int, case_id: int, priority: float, text: str, link: str) -> dict[str, object]:
    """Return the payload of a message about one customer."""
    lines = [text, _about_case(case_id, priority), *([link] if link else []), SEE_LIST]
    return {
        "subject": f"Customer to call: number {rank} of {day.isoformat()}",
        "text": "\n".join(lines),
        "day": day.isoformat(),
        "cases": [_case(rank, case_id, priority, text, link)],
    }


def digest_payload(day: date, cases: Sequence[tuple[int, int, float, str, str]]) -> dict[str, object]:
    """Return the payload of a digest.

    Args:
        day: of the call list.
        cases: rank, id, priority, text and link of each, in the order of the message.
    """
    lines = []
    for number, (_, case_id, priority, text, link) in enumerate(cases, start=1):
        lines += [f"{number}. {text}", f"   {_about_case(case_id, priority)}", *([f"   {link}"] if link else [])]
    return {
        "subject": f"{len(cases):,} {'customer' if len(cases) == 1 else 'customers'} to call ({day.isoformat()})",
        "text": "\n".join([*lines, "", SEE_LIST]),
        "day": day.isoformat(),
        "cases": [_case(*each) for each in cases],
    }


def condition_payload(
    *,
    name: str,
    subject: str,
    state: State,
    details: str,
    advice: Sequence[str],
    began: datetime,
    at: datetime,
    environment: str,
) -> dict[str, object]:
    """Return the payload of a message about an operator condition.

    Args:
        name: of the condition.
        subject: what it is about, such as a partition; empty if it can be about one thing only.
        state: whether it began, still lasts, or has ended.
        details: the latest measurement.
        advice: what the condition means and what to do; not shown once it has ended.
        began: when it began.
        at: when it got this state.
        environment: name of the environment.
    """
    about = f"{name} ({subject})" if subject else name
    lines = {
        "began": [f"Since {_time(began)}: {details}", *advice],
        "lasts": [f"Still, since {_time(began)}: {details}", *advice],
        "ended": [f"From {_time(began)} to {_time(at)}. The latest measurement was: {details}"],
    }[state]
    return {
        "subject": f"{about} {state}, on {environment}",
        "text": "\n".join(lines),
        "condition": {
            "name": name,
            "subject": subject,
            "state": state,
            "details": details,
            "began": began.astimezone(UTC).isoformat(),
            "ended": at.astimezone(UTC).isoformat() if state == "ended" else None,
            "environment": environment,
        },
    }


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _about_case(case_id: int, priority: float) -> str:
    return f"Case {case_id}, priority {priority:,.0f}."


def _case(rank: int, case_id: int, priority: float, text: str, link: str) -> dict[str, object]:
    about = {"case_id": case_id, "rank": rank, "priority": priority, "text": text}
    return {**about, "link": link} if link else about
