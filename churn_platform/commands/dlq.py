"""`churn dlq`: list the events that could not be scored, and send them again after a correction."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import MAXYEAR, UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    emit,
    end,
    error_console,
    output,
    printable,
    report_errors,
)
from churn_platform.database.connections import connect

if TYPE_CHECKING:  # Kafka's client is slow to import
    import psycopg

    from churn_platform.database.dead_letter_events import DeadLetterKind, StoredDeadLetter
    from churn_platform.operations.dead_letter_retry import Correction
    from churn_platform.stream.config import StreamConfig

app = typer.Typer(no_args_is_help=True)

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# Between two checks whether retried dead letters are resolved.
POLL_SECONDS: Final = 0.2
MAX_RETRIES: Final = 10_000
MAX_LIMIT: Final = 2**31 - 1
MAX_DIGITS: Final = 20  # of an offset, which has 64 bits


class StateOption(StrEnum):
    """The states of a dead letter. A copy of DeadLetterState, whose module is slow to import."""

    OPEN = "open"
    RETRIED = "retried"
    RESOLVED = "resolved"


Reason = Annotated[str | None, typer.Option(help="Part of the reason, ignoring case.")]
Since = Annotated[
    str | None, typer.Option(help="Received since: ISO 8601 (UTC without an offset), or 30m, 2h, 7d ago.")
]
TopicId = Annotated[str | None, typer.Option(help="Kafka's id of the topic, if several topics match.")]


@app.callback()
def _dlq() -> None:
    """List, show and retry dead letters.

    Example: churn dlq list
    """


@app.command("list")
def list_dead_letters(
    reason: Reason = None,
    since: Since = None,
    state: Annotated[StateOption | None, typer.Option(help="Retried: sent again, not scored yet.")] = None,
    limit: Annotated[int, typer.Option(min=0, max=MAX_LIMIT, help="How many dead letters, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List dead letters, and count them by reason. In the counts, … stands for parts that vary.

    Example: churn dlq list --reason event_timestamp --since 2h --state open
    """
    from churn_platform.database import dead_letter_events

    chosen = dead_letter_events.DeadLetterFilter(
        reason=reason, since=_moment(since), state=None if state is None else dead_letter_events.DeadLetterState(state)
    )
    with report_errors(), ProgressReporter("Connecting to PostgreSQL"), _connect() as (connection, _):
        kinds = dead_letter_events.count_kinds(connection, chosen)
        dead_letters = dead_letter_events.find(connection, chosen, limit=limit)
    if as_json:
        emit(
            {
                "by_reason": [vars(kind) for kind in kinds],
                "dead_letters": [dead_letter.as_dict() for dead_letter in dead_letters],
            }
        )
        return
    if not kinds:
        output.print("No dead letter matches.")
        return
    output.print(_kinds_table(kinds))
    total = sum(kind.count for kind in kinds)
    if dead_letters:
        output.print()
        output.print(_dead_letters_table(dead_letters))
    if len(dead_letters) < total:
        _print(f"{len(dead_letters):,} of {total:,}; --limit shows more.")


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="Place of the dead letter, as listed.")],
    topic_id: TopicId = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its payload, as text if possible, else in hexadecimal.

    Example: churn dlq show 0:1041
    """
    from churn_platform.operations import dead_letter_retry

    with report_errors(), _connect() as (connection, _):
        dead_letter = dead_letter_retry.find_one(connection, *_place(place), topic_id=topic_id)
    if as_json:
        payload = None if dead_letter.payload is None else base64.b64encode(dead_letter.payload).decode()
        emit({**dead_letter.as_dict(), "payload_base64": payload})
        return
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("Place", dead_letter.place),
        ("Topic id", dead_letter.topic_id),
        ("Reason", printable(dead_letter.reason)),
        ("State", dead_letter.state),
        ("Batch", dead_letter.batch),
        ("Kafka's time", _time(dead_letter.kafka_timestamp)),
        ("Received", _time(dead_letter.received_at)),
        ("Retried", _time(dead_letter.retried_at)),
        ("Retry event", str(dead_letter.retry_event_id or "")),
        ("Resolved", _time(dead_letter.resolved_at)),
    ):
        if value:
            table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    output.print(table)
    form, text = _payload(dead_letter.payload)
    output.print(Text(f"Payload, {form}:", style="dim"))
    typer.echo(text)


@app.command()
def retry(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PARTITION:OFFSET]...", help="Places of dead letters.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Instead of places: all open dead letters whose reason contains this.")
    ] = None,
    since: Since = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A correction; VALUE is JSON or plain text."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="For one dead letter: a JSON file with the whole corrected event.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_RETRIES, help="With --reason: the maximum number.")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    wait: Annotated[float | None, typer.Option(min=0, help="Seconds to wait until they are resolved.")] = None,
    topic_id: TopicId = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again as corrected events. A dead letter that is retried twice counts once.

    A correction that would be a dead letter again is refused, and the others are sent. The exit code is 1 if one was
    refused, if no dead letter has the reason or, with --wait, if one is not resolved.

    Example: churn dlq retry --reason true_churn_label --set true_churn_label=null --wait 30
    """
    from churn_platform.database import dead_letter_events
    from churn_platform.operations import dead_letter_retry

    if bool(places) == (reason is not None):
        _refuse("Choose dead letters by places such as 0:1041, or by --reason.")
    if file is not None and len(places or []) != 1:
        _refuse("--file corrects one dead letter: give its place, such as 0:1041.")
    if since is not None and reason is None:
        _refuse("--since requires --reason.")
    corrections = dict(_change(each) for each in changes or [])
    chosen = dead_letter_events.DeadLetterFilter(
        reason=reason, since=_moment(since), state=dead_letter_events.DeadLetterState.OPEN
    )
    with report_errors(), _connect() as (connection, config):
        if places:
            wanted = dict.fromkeys(_place(place) for place in places)
            dead_letters = [dead_letter_retry.find_one(connection, *place, topic_id=topic_id) for place in wanted]
        else:
            dead_letters = dead_letter_events.find(connection, chosen, limit=limit)
        event = None if file is None else dead_letter_retry.read_event(file, config.schema)
        corrected, refused = _correct(dead_letters, config, corrections, event)
        show_text = _print_nothing if as_json else _print
        if dry_run:
            if not as_json:
                for each in corrected:
                    typer.echo(each.value.decode())
            show_text(f"{len(corrected):,} would be sent, {len(refused):,} refused.")
        elif corrected:
            with ProgressReporter("Sending"):
                dead_letter_retry.retry(connection, config, corrected)
            show_text(
                f"{len(corrected):,} sent to {config.events_topic}, {len(refused):,} refused. "
                f"'churn dlq list --state retried' shows those that are not scored yet."
            )
        if not dead_letters:
            show_text("No open dead letter matches. 'churn dlq list' lists the dead letters.")
        unresolved = 0 if wait is None or dry_run else _wait(connection, corrected, seconds=wait, show_text=show_text)
    if as_json:
        events = [json.loads(each.value) for each in corrected] if dry_run else []
        sent = 0 if dry_run else len(corrected)
        emit({"sent": sent, "refused": refused, "unresolved": unresolved, "would_send": events})
    if refused or unresolved or not dead_letters:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _correct(
    dead_letters: "list[StoredDeadLetter]",
    config: "StreamConfig",
    changes: dict[str, object],
    event: dict[str, object] | None,
) -> "tuple[list[Correction], list[str]]":
    """Return the events to send, and the reasons why the others are refused; print the reasons."""
    from churn_platform.operations import dead_letter_retry
    from churn_platform.operations.exceptions import DeadLetterError

    corrected, refused = [], []
    for dead_letter in dead_letters:
        try:
            corrected.append(dead_letter_retry.correct(dead_letter, config, changes=changes, event=event))
        except DeadLetterError as error:
            refused.append(str(error))
            error_console.print(Text(printable(str(error)), style="red"), soft_wrap=True)
    return corrected, refused


def _wait(
    connection: "psycopg.Connection", events: "list[Correction]", *, seconds: float, show_text: Callable[[str], None]
) -> int:
    """Wait until the dead letters are resolved; return how many are not."""
    from churn_platform.operations import dead_letter_retry

    deadline = time.monotonic() + seconds
    with ProgressReporter("Waiting until they are scored") as progress:
        while (left := dead_letter_retry.count_unresolved(connection, events)) and time.monotonic() < deadline:
            progress("Waiting until they are scored, open", left)
            time.sleep(POLL_SECONDS)
    if left:
        show_text(
            f"{left:,} are not resolved after {seconds:g} s. Check with 'churn status' whether the stream is live."
        )
    elif events:
        show_text(f"All {len(events):,} are resolved.")
    return left


@contextmanager
def _connect() -> "Iterator[tuple[psycopg.Connection, StreamConfig]]":

    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    config = StreamConfig.from_settings(settings())
    with connect(config.dsn, autocommit=True, application_name="churn dlq") as connection:
        yield connection, config


def _kinds_table(kinds: "list[DeadLetterKind]") -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("Dead letters", "Open", "Retried"):
        table.add_column(title, justify="right")
    table.add_column("Reason", overflow="fold")
    for kind in kinds:
        table.add_row(f"{kind.count:,}", f"{kind.open:,}", f"{kind.retried:,}", Text(printable(kind.reason)))
    return table


def _dead_letters_table(dead_letters: "list[StoredDeadLetter]") -> Table:
    table = Table("Received", box=None, header_style="dim", pad_edge=False)
    table.add_column("Place", no_wrap=True)
    table.add_column("State")
    table.add_column("Reason", overflow="fold")
    for dead_letter in dead_letters:
        table.add_row(
            f"{dead_letter.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            f"{dead_letter.kafka_partition}:{dead_letter.kafka_offset}",
            dead_letter.state,
            Text(printable(dead_letter.reason)),
        )
    return table


def _payload(payload: bytes | None) -> tuple[str, str]:
    """Return the form in which a payload is shown, and the payload in that form."""
    if payload is None:
        return "none (a tombstone)", ""
    size = f"{len(payload):,} bytes"
    try:
        return f"{size} of text", printable(payload.decode())
    except UnicodeDecodeError:
        return f"{size} in hexadecimal", payload.hex(" ")


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f UTC}"


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition(":")
    if not all(number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS for number in (partition, offset)):
        _refuse(f"{text!r} is not a place: expected PARTITION:OFFSET, such as 0:1041.")
    return int(partition), int(offset)


def _change(text: str) -> tuple[str, object]:
    """Return a field and its value: decoded if it is JSON, else the text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        _refuse(f"{text!r} is not a correction: expected FIELD=VALUE, such as true_churn_label=1.")
    try:
        return name, msgspec.json.decode(value)  # unlike Python's decoder it accepts neither NaN nor 1e999
    except (ValueError, RecursionError):
        return name, value


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    try:
        if number.isascii() and number.isdigit() and unit in UNITS:
            return datetime.now(UTC) - timedelta(**{UNITS[unit]: int(number)})
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        if not text[:-1].isdecimal() and text.startswith(str(MAXYEAR)):
            _refuse(f"--since is {text!r}, which is after the year {MAXYEAR} in UTC. No dead letter is from then.")
        _refuse(f"--since is {text!r}, which is before the year 1. Omit --since to select all dead letters.")
    except ValueError:
        _refuse(f"--since is {text!r}: expected a time such as 2026-11-24T08:00:00Z, or how long ago: 30m, 2h, 7d.")


def _refuse(problem: str) -> NoReturn:
    end(ExitCode.USAGE, problem)


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_nothing(text: str) -> None:
    """Print nothing, because with --json everything is in the final object."""
