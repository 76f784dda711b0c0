"""`churn cases`: the retention team's cases: today's call list, and what was done about it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from zoneinfo import ZoneInfo

import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.people import customer_id_of, system_user
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    emit,
    end,
    error_console,
    output,
    printable,
    report_errors,
)
from churn_platform.database import case_reading, retention_cases
from churn_platform.database.connections import connect
from churn_platform.retention.business_day import business_day
from churn_platform.retention.reasons import causes
from churn_platform.retention.transitions import STATUSES

if TYPE_CHECKING:
    import psycopg

    from churn_platform.database.case_reading import Case

app = typer.Typer(no_args_is_help=True)

MAX_LIMIT: Final = 2**31 - 1
MAX_DIGITS: Final = 20  # of the number of a case, which has 64 bits
NOT_CLOSED: Final = ("open", "assigned", "contacted")


class StatusOption(StrEnum):
    """Every status of a case."""

    OPEN = "open"
    ASSIGNED = "assigned"
    CONTACTED = "contacted"
    KEPT = "kept"
    LOST = "lost"
    DISMISSED = "dismissed"
    EXPIRED = "expired"


class ResultOption(StrEnum):
    """What a person may close a case as."""

    KEPT = "kept"
    LOST = "lost"
    DISMISSED = "dismissed"


CaseNumber = Annotated[str, typer.Argument(metavar="CASE", help="Number of the case, as listed: 12 or #12.")]
Note = Annotated[str | None, typer.Option(help="A line for the case's notes.")]
By = Annotated[str | None, typer.Option(help="Who does it, for the case's history. Default: the system's user.")]
Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Id of the customer.")]


@app.callback()
def _cases() -> None:
    """Whom to call today and why, and what came of it.

    Example: churn cases list
    """


@app.command("list")
def list_cases(
    everything: Annotated[
        bool, typer.Option("--all", help="All cases that are not closed, not only today's call list.")
    ] = False,
    status: Annotated[
        list[StatusOption] | None, typer.Option(help="Cases with this status, instead of the list; may be repeated.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Only cases of this person.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Most cases, the best first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show today's call list: customers, the reasons for their risk, and who cares for them.

    Example: churn cases list
    """
    with report_errors(), _connect() as connection:
        cases = _chosen(connection, everything=everything, status=status, owner=owner)
    shown = cases[:limit]
    is_list = not everything and not status
    if as_json:
        emit({"day": _day(shown) if is_list else None, "cases": [case.as_dict() for case in shown]})
        return
    if is_list:
        _show_day(cases)
    if not cases:
        output.print("Nobody to call." if is_list else "No case matches.")
        return
    output.print(_table(shown))
    if len(shown) < len(cases):
        _print(f"{len(shown):,} of {len(cases):,}; --limit shows more.")


@app.command()
def show(case: CaseNumber, as_json: AsJson = False) -> None:
    """Show one case with its history.

    Example: churn cases show 12
    """
    with report_errors(), _connect() as connection:
        found = _find(connection, case)
        history = case_reading.history(connection, found.case_id)
    if as_json:
        emit({**found.as_dict(), "history": [change.as_dict() for change in history]})
        return
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("Case", str(found.case_id)),
        ("Customer", str(found.customer_id)),
        ("In the CRM", found.link),
        ("Status", found.status),
        ("Because", found.reason),
        ("Owner", found.owner),
        ("Place on the list", None if found.rank is None else f"{found.rank} of {found.list_day}"),
        ("Risk", f"{found.risk_score:.1%} (highest {found.highest_risk_score:.1%})"),
        ("Money at risk", None if found.money_at_risk is None else f"{found.money_at_risk:,.2f}"),
        ("Priority", f"{found.priority:,.2f}"),
        ("Why", "\n".join(found.reasons or ["not yet known"])),
        ("Segments", ", ".join(f"{name}: {value}" for name, value in found.segments.items())),
        ("Latest event", _time(found.event_timestamp)),
        ("Scored by", f"model version {found.model_version}"),
        ("Opened", _time(found.opened_at)),
        ("Called", _time(found.contacted_at)),
        ("Closed", _time(found.closed_at)),
        ("Notes", found.notes),
    ):
        if value:
            table.add_row(Text(name, style="dim"), Text(printable(value), overflow="fold"))
    output.print(table)
    output.print()
    changes = Table(
        "When (UTC)", "Who", "Login", "Status", "Owner", "Notes", box=None, header_style="dim", pad_edge=False
    )
    for change in history:
        notes = printable(change.notes or change.reason or "")
        texts = (change.changed_by, change.login, change.status, change.owner or "", notes)
        changes.add_row(_time(change.changed_at), *(Text(printable(text)) for text in texts))
    output.print(changes)


@app.command()
def assign(
    case: CaseNumber,
    to: Annotated[str, typer.Option(help="Who cares for the customer.")],
    note: Note = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Give a case to a person. It stays on the call list.

    Example: churn cases assign 12 --to ana
    """
    if not to.strip():
        end(ExitCode.USAGE, "--to is empty; expected a name.")
    _change(case, status="assigned", owner=to, note=note, by=by, as_json=as_json)


@app.command()
def contact(case: CaseNumber, note: Note = None, by: By = None, as_json: AsJson = False) -> None:
    """Record that the customer was called. The case leaves the call list and waits for the outcome.

    The customer gets no new case within CASE_COOL_OFF_DAYS.

    Example: churn cases contact 12 --note "will think about the new rate"
    """
    _change(case, status="contacted", note=note, by=by, as_json=as_json)


@app.command()
def close(
    case: CaseNumber,
    result: Annotated[ResultOption, typer.Option("--as", help="What came of it; dismissed: no call is wanted.")],
    note: Note = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Close a case: the customer was kept, was lost, or the case is dismissed.

    Outcomes of 'churn outcomes send' close cases, too, so this is for what they do not tell.

    Example: churn cases close 12 --as kept
    """
    _change(case, status=str(result), note=note, by=by, as_json=as_json)


@app.command()
def undo(case: CaseNumber, by: By = None, as_json: AsJson = False) -> None:
    """Take back the last change of a case: its status, owner and notes are again as they were before.

    This is possible for a day, and only for a change that a person has made. The history keeps both changes.

    Example: churn cases undo 12
    """
    with report_errors(), _connect() as connection:
        number = _find(connection, case).case_id
        retention_cases.take_back(connection, number, actor=by or system_user())
        found = _find(connection, str(number))
    _show_changed(found, as_json=as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: .csv or .xlsx; - for CSV to stdout.")],
    everything: Annotated[
        bool, typer.Option("--all", help="All cases, closed ones too, not only today's call list.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write today's call list to a CSV file or an Excel workbook. No text in it can become a formula.

    Example: churn cases export calls.xlsx
    """
    from churn_platform.files import spreadsheets

    if str(file) != "-" and file.suffix.lower() not in (".csv", ".xlsx"):
        end(ExitCode.USAGE, f"{file} is neither .csv nor .xlsx. Nothing was written.")
    if str(file) == "-" and as_json:
        end(ExitCode.USAGE, "--json and - both write to stdout. Choose one.")
    with report_errors(), _connect() as connection:
        cases = case_reading.find(connection, statuses=STATUSES) if everything else case_reading.call_list(connection)
    header = case_reading.CELL_NAMES
    rows = (case.as_cells() for case in cases)
    try:
        if str(file) == "-":
            spreadsheets.write_csv(sys.stdout, header, rows)
            return
        if file.suffix.lower() == ".xlsx":
            spreadsheets.write_workbook(file, case_reading.CELL_TITLES, rows)
        else:
            with file.open("w", newline="", encoding="utf-8-sig") as text:  # Excel reads UTF-8 only with this mark
                spreadsheets.write_csv(text, header, rows)
    except OSError as error:
        end(ExitCode.FAILED, f"{file} cannot be written: {error.strerror}.")
    if as_json:
        emit({"file": str(file), "cases": len(cases)})
        return
    _print(f"{len(cases):,} cases in {file}.")


@app.command()
def block(
    customer: Customer,
    reason: Annotated[str, typer.Option(help="Why; stored in do_not_contact.")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Put a customer on the do-not-contact list: no case, no call. A case that waits for a call is dismissed.

    This needs the platform's own login (DATABASE_URL).

    Example: churn cases block 15634602 --reason "asked us in writing"
    """
    with report_errors(), _connect_as_platform() as connection:
        retention_cases.block_contact(connection, customer_id_of(customer), reason=reason, actor=by or system_user())
    if as_json:
        emit({"customer_id": customer, "blocked": True})
        return
    _print(f"Customer {customer} is not called any more.")


@app.command()
def unblock(customer: Customer, as_json: AsJson = False) -> None:
    """Take a customer off the do-not-contact list.

    This needs the platform's own login (DATABASE_URL).

    Example: churn cases unblock 15634602
    """
    with report_errors(), _connect_as_platform() as connection:
        was_blocked = retention_cases.allow_contact(connection, customer_id_of(customer))
    if as_json:
        emit({"customer_id": customer, "blocked": False})
    elif was_blocked:
        _print(f"Customer {customer} may be called again.")
    else:
        _print(f"Customer {customer} was not on the do-not-contact list; nothing was changed.")


def _change(
    case: str, *, status: str, note: str | None, by: str | None, as_json: bool, owner: str | None = None
) -> None:
    with report_errors(), _connect() as connection:
        number = _find(connection, case).case_id
        retention_cases.change(connection, number, status=status, owner=owner, note=note, actor=by or system_user())
        found = _find(connection, str(number))
    _show_changed(found, as_json=as_json)


def _show_changed(found: "Case", *, as_json: bool) -> None:
    if as_json:
        emit(found.as_dict())
        return
    assigned = f" to {printable(found.owner)}" if found.owner and found.status == "assigned" else ""
    _print(f"Case {found.case_id} (customer {found.customer_id}) is {found.status}{assigned}.")


def _find(connection: "psycopg.Connection", case: str) -> "Case":
    """Return the case of a number that a person has typed.

    Raises:
        CaseError: there is no such case. If it is the id of a customer, the remedy names the customer's case.
    """
    number = case.removeprefix("#")
    is_number = number.isascii() and number.isdigit()
    if is_number and len(number) <= MAX_DIGITS and (found := case_reading.get(connection, int(number))) is not None:
        return found
    of_customer = case_reading.latest_of(connection, number)
    problem = f"There is no case {number}." if is_number else f"{case!r} is not the number of a case."
    raise retention_cases.CaseError(
        f"{problem} Nothing was changed.",
        remedy="Expected the number of a case: 'churn cases list --all' shows the cases."
        if of_customer is None
        else f"Expected the number of a case. Customer {number} has case {of_customer.case_id} ({of_customer.status}).",
    )


@contextmanager
def _connect() -> Iterator["psycopg.Connection"]:
    """Connect as the retention team, which cannot see the control group; without such a login, as the platform."""
    from churn_platform.settings import settings

    with connect(settings().retention_dsn, autocommit=True, application_name="churn cases") as connection:
        yield connection


@contextmanager
def _connect_as_platform() -> Iterator["psycopg.Connection"]:
    from churn_platform.settings import settings

    with connect(settings().postgres_dsn, autocommit=True, application_name="churn cases") as connection:
        yield connection


def _chosen(
    connection: "psycopg.Connection", *, everything: bool, status: Sequence[StatusOption] | None, owner: str | None
) -> list["Case"]:
    if not everything and not status:
        return [case for case in case_reading.call_list(connection) if owner is None or case.owner == owner]
    statuses = [str(each) for each in status] if status else NOT_CLOSED
    return case_reading.find(connection, statuses=statuses, owner=owner)


def _show_day(cases: Sequence["Case"]) -> None:
    """Print the day of the list, and warn if it is not today."""
    from churn_platform.settings import settings

    day = _day(cases)
    if day is None:
        return
    timezone = settings().retention.business_timezone
    today = business_day(datetime.now(UTC), ZoneInfo(timezone)).isoformat()
    _print(f"Call list of {day} ({timezone})")
    if day != today:
        error_console.print(
            f"It is {today} now, so this is not today's list. 'churn status' shows whether the worker, which makes it, "
            "is up.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _day(cases: Sequence["Case"]) -> str | None:
    return None if not cases or cases[0].list_day is None else cases[0].list_day.isoformat()


def _table(cases: Sequence["Case"]) -> Table:
    table = Table("Place", "Case", "Customer", "Risk", "Priority", "Status", "Owner", "What raises the risk", box=None)
    table.header_style, table.pad_edge = "dim", False
    for column in (0, 1, 3, 4):
        table.columns[column].justify = "right"
    for case in cases:
        why = causes(case.reasons) if case.reasons else case.reason or "not yet known"
        table.add_row(
            str(case.rank or ""),
            str(case.case_id),
            Text(printable(str(case.customer_id))),
            f"{case.risk_score:.0%}",
            f"{case.priority:,.0f}",
            case.status,
            Text(printable(case.owner or "")),
            Text(printable(why), overflow="fold"),
        )
    return table


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
