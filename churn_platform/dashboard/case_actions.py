"""What a person may do to a case by the buttons and forms of the pages."""

from collections.abc import Callable
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
from starlette.responses import RedirectResponse, Response

from churn_platform.dashboard.case_history import steps_of
from churn_platform.dashboard.exceptions import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from churn_platform.dashboard.page import Visit
from churn_platform.database import case_reading, retention_cases
from churn_platform.database.case_reading import Case
from churn_platform.database.retention_cases import CaseChangedError, CaseError
from churn_platform.retention.transitions import CLOSED, Status, is_allowed

MOST_NOTE: Final = 2_000
MOST_OWNER: Final = 64
"""Characters of a note and of a name."""
DONE: Final = "done"
"""The parameter of an address that says which change was made: the case and the number of the change."""

Action = Literal["assign-to-me", "assign", "contacted", "kept", "lost", "dismissed", "note"]


def possible_actions(case: Case) -> list[Action]:
    """Return what a person may do to a case in its status. A case that the platform has closed does not change."""
    status = cast(Status, case.status)
    if status == "expired":
        return []
    own: list[Action] = [] if status in CLOSED else ["assign-to-me", "assign"]
    closing: tuple[Action, ...] = ("contacted", "kept", "lost", "dismissed")
    return [*own, *(each for each in closing if is_allowed(status, cast(Status, each))), "note"]


def change(visit: Visit) -> Response:
    """Do what a form asks for, and lead back to its page, which then says what was done.

    Raises:
        ForbiddenError: the user may not change cases.
        NotFoundError: there is no such case or action.
        InvalidInputError: a field is empty or too long, or a name has invisible characters.
        ConflictError: the case was changed meanwhile, or cannot change in this way.
    """
    if not visit.may_change_cases:
        raise ForbiddenError("Your role sees cases and does not change them. Log in with the role 'retention'.")
    case_id = case_number(visit)
    with visit.databases.changing() as connection:
        case = case_reading.get(connection, case_id)
        if case is None:
            raise NotFoundError(f"There is no case {case_id}.")
        seen = _seen(visit, case_id)
        if case_reading.last_changes(connection, [case_id]).get(case_id, seen) > seen:  # says more than what is refused
            raise ConflictError(_changed_meanwhile(visit, connection, case_id, seen), back=f"/calls/{case_id}")
        try:
            number = _work(visit, case)(connection, seen)
        except CaseChangedError:
            raise ConflictError(
                _changed_meanwhile(visit, connection, case_id, seen), back=f"/calls/{case_id}"
            ) from None
        except CaseError as error:
            raise ConflictError(f"{error.problem}{_kept_note(visit)}", back=f"/calls/{case_id}") from None
    place = _back(visit, case_id, done=f"{case_id}-{number}" if number != seen else None)
    return RedirectResponse(place, status_code=303)


def case_number(visit: Visit) -> int:
    """Return the number of the case that the path names."""
    return int(visit.place["case_id"])


def done_of(visit: Visit) -> tuple[int, int] | None:
    """Return the case and the change that the address says were made; None if it says nothing."""
    case_id, _, number = visit.text(DONE).partition("-")
    return (int(case_id), int(number)) if _is_number(case_id) and _is_number(number) else None


def _work(visit: Visit, case: Case) -> Callable[[psycopg.Connection, int], int]:
    """Return what the form asks for: a function that does it, given the last change that the person knows of."""
    action, me = visit.form.get("action", ""), visit.user.name
    if action == "take-back":
        return lambda connection, seen: retention_cases.take_back(connection, case.case_id, actor=me, seen=seen)
    allowed = possible_actions(case)
    if action not in ("assign-to-me", "assign", "contacted", "kept", "lost", "dismissed", "note"):
        raise NotFoundError(f"There is no action {action!r} of a case.")
    if action not in allowed:
        raise ConflictError(
            f"Case {case.case_id} is {case.status}, so this is not possible.{_kept_note(visit)}",
            back=f"/calls/{case.case_id}",
        )
    note = _text(visit, "note", most=MOST_NOTE, back=case.case_id) or None
    owner = me if action == "assign-to-me" else _text(visit, "owner", most=MOST_OWNER, back=case.case_id)
    if action in ("assign-to-me", "assign"):
        if not owner:
            raise InvalidInputError("The name of the owner is empty.", back=f"/calls/{case.case_id}")
        if not owner.isprintable():  # such as a line break, or the character that turns the direction of writing
            raise InvalidInputError(
                f"The name of the owner has characters that nobody sees: {owner!r}.", back=f"/calls/{case.case_id}"
            )
        # A customer who was called stays called, whoever owns the case.
        status = "assigned" if case.status == "open" else None
        return lambda connection, seen: retention_cases.change(
            connection, case.case_id, actor=me, status=status, owner=owner, note=note, seen=seen
        )
    if action == "note" and note is None:
        raise InvalidInputError("The note is empty.", back=f"/calls/{case.case_id}")
    status = None if action == "note" else action
    return lambda connection, seen: retention_cases.change(
        connection, case.case_id, actor=me, status=status, note=note, seen=seen
    )


def _seen(visit: Visit, case_id: int) -> int:
    text = visit.form.get("change", "")
    if not _is_number(text):
        raise InvalidInputError(
            f"The form does not say from which state of case {case_id} it was made.", back=f"/calls/{case_id}"
        )
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _text(visit: Visit, name: str, *, most: int, back: int) -> str:
    """Return a field of the form without spaces around it, and with the line ends of Unix."""
    text = visit.form.get(name, "").replace("\r\n", "\n").replace("\0", "").strip()
    if len(text) > most:
        raise InvalidInputError(
            f"The {name} has {len(text):,} characters; at most {most:,} are possible.", back=f"/calls/{back}"
        )
    return text


def _changed_meanwhile(visit: Visit, connection: psycopg.Connection, case_id: int, seen: int) -> str:
    later = [each for each in steps_of(case_reading.history(connection, case_id)) if each.change.change > seen]
    what = " Then ".join(f"{each.change.changed_by}: {each.summary.removesuffix('.')}." for each in later)
    return f"Case {case_id} was changed since you opened the page. {what}{_kept_note(visit)}"


def _kept_note(visit: Visit) -> str:
    """Return the note that would be lost, so that it can be copied."""
    note = visit.form.get("note", "").strip()
    return f" Your note was not stored: \u201c{note}\u201d" if note else ""


def _back(visit: Visit, case_id: int, *, done: str | None) -> str:
    """Return where the form came from, with what was done; the case's page if that is not a page of calls."""
    parts = urlsplit(visit.form.get("back", ""))
    path = parts.path if parts.path in ("/calls", "/calls/mine") else f"/calls/{case_id}"
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != DONE]
    if done is not None:
        query.append((DONE, done))
    return f"{path}?{urlencode(query)}" if query else path
