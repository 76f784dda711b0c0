"""`churn alerts`: messages to the retention team and to operators, and the conditions that operators are told of."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.people import listed_number
from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, end, output, report_errors
from churn_platform.database.connections import connect

if TYPE_CHECKING:
    import psycopg

    from churn_platform.database.alert_outbox import Status, StoredMessage
    from churn_platform.database.operator_conditions import StoredCondition

app = typer.Typer(no_args_is_help=True)

MAX_LIMIT: Final = 2**31 - 1


class StatusOption(StrEnum):
    """The states of a message. A copy of Status, whose module is slow to import."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    IN_DOUBT = "in_doubt"
    FAILED = "failed"


Ids = Annotated[
    list[int] | None, typer.Argument(parser=listed_number, metavar="[ID]...", help="Numbers of messages, as listed.")
]
TargetOption = Annotated[str | None, typer.Option("--target", help="Instead of numbers: all messages to this target.")]


@app.callback()
def _alerts() -> None:
    """List messages that were or will be sent, and decide about those that failed or are in doubt.

    Example: churn alerts list
    """


@app.command("list")
def list_messages(
    status: Annotated[
        list[StatusOption] | None, typer.Option(help="Only messages with this status; may be repeated.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Only messages to this target.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also messages that were sent or dismissed.")] = False,
    limit: Annotated[int, typer.Option(min=0, max=MAX_LIMIT, help="How many messages, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List messages, and count them by status. By default without those that were sent or dismissed.

    In doubt means that the receiver may have the message: look there, then confirm or retry it.

    Example: churn alerts list --status in_doubt
    """
    from churn_platform.database import alert_outbox
    from churn_platform.database.alert_outbox import Status

    chosen = [Status(each) for each in status] if status else [each for each in Status if every or each != Status.SENT]
    with report_errors(), _connect() as connection:
        counts = alert_outbox.count(connection, target=target)
        messages = alert_outbox.find(connection, statuses=chosen, target=target, dismissed=every, limit=limit)
    if as_json:
        emit(
            {
                "by_status": {str(each): number for each, number in counts.items()},
                "messages": [message.as_dict() for message in messages],
            }
        )
        return
    _print(", ".join(f"{number:,} {_words(each)}" for each, number in counts.items()) + ".")
    if messages:
        output.print()
        output.print(_messages_table(messages))


@app.command()
def retry(
    ids: Ids = None,
    target: TargetOption = None,
    in_doubt: Annotated[
        bool, typer.Option("--in-doubt", help="With --target: also messages in doubt, which may then arrive twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send messages again that failed or are in doubt. With --target, only those that failed.

    A message keeps its Message-ID or Idempotency-Key, so that a receiver can recognize a repetition. The exit code is 1
    if a number is not that of such a message.

    Example: churn alerts retry --target crm
    """
    from churn_platform.database import alert_outbox
    from churn_platform.database.alert_outbox import Status

    statuses = [Status.FAILED, Status.IN_DOUBT] if ids or in_doubt else [Status.FAILED]
    _change(ids, target, statuses, alert_outbox.retry, "sent again", as_json=as_json)


@app.command()
def confirm(ids: Ids = None, target: TargetOption = None, as_json: AsJson = False) -> None:
    """Record that the receivers have messages that are in doubt. They are not sent again.

    The exit code is 1 if a number is not that of a message in doubt.

    Example: churn alerts confirm --target mail
    """
    from churn_platform.database import alert_outbox
    from churn_platform.database.alert_outbox import Status

    _change(ids, target, [Status.IN_DOUBT], alert_outbox.confirm, "confirmed", as_json=as_json)


@app.command()
def dismiss(ids: Ids = None, target: TargetOption = None, as_json: AsJson = False) -> None:
    """Record that messages that failed or are in doubt are no longer wanted. Operators are not told of them any more.

    The exit code is 1 if a number is not that of such a message.

    Example: churn alerts dismiss --target old-crm
    """
    from churn_platform.database import alert_outbox
    from churn_platform.database.alert_outbox import Status

    _change(ids, target, [Status.FAILED, Status.IN_DOUBT], alert_outbox.dismiss, "dismissed", as_json=as_json)


@app.command()
def conditions(
    limit: Annotated[int, typer.Option(min=0, max=MAX_LIMIT, help="How many, open ones first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the conditions that operators were told of, from beginning to end, as the worker found them.

    The exit code is 1 if one is open.

    Example: churn alerts conditions
    """
    from churn_platform.database import operator_conditions

    with report_errors(), _connect() as connection:
        found = operator_conditions.recent(connection, limit=limit)
        is_open = bool(operator_conditions.open_conditions(connection))
    if as_json:
        emit({"conditions": [each.as_dict() for each in found]})
    elif found:
        output.print(_conditions_table(found))
    else:
        _print("No condition was found yet. The resident worker evaluates them: 'churn status' shows whether it runs.")
    if is_open:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@app.command("test")
def send_test(
    name: Annotated[str | None, typer.Argument(metavar="[TARGET]", help="A target; all of them without one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send a test message to one target, or to all, and show whether each took it. Nothing is stored.

    It has the kind and the data of what the target gets in earnest: a call list for ALERT_TARGETS, a condition for
    OPERATOR_TARGETS. Its subject begins with "Test:". The exit code is 1 if a target did not take it.

    Example: churn alerts test mail
    """
    from churn_platform.alerts.delivery import Result
    from churn_platform.alerts.policy import AlertPolicy
    from churn_platform.alerts.samples import sample_messages
    from churn_platform.alerts.targets import make_sender, targets_of
    from churn_platform.settings import settings

    with report_errors():
        targets = targets_of(settings())
        names = tuple(targets.by_name)
        if not names:
            end(ExitCode.FAILED, "There are no targets.", remedy="Set ALERT_TARGETS or OPERATOR_TARGETS.")
        if name is not None and name not in names:
            end(ExitCode.USAGE, f"There is no target {name!r}.", remedy=f"The targets are {', '.join(names)}.")
        policy, environment = AlertPolicy.from_settings(settings()), settings().platform.environment_name
        results = []
        for each in names if name is None else [name]:
            sender = make_sender(targets.by_name[each])
            for message in sample_messages(each, targets, policy, environment=environment, now=datetime.now(UTC)):
                with ProgressReporter(f"Sending to {each}"):
                    results.append((each, message.kind, sender.send(message)))
    if as_json:
        emit(
            {
                "targets": [
                    {"target": target, "kind": kind, "result": got.result, "reason": got.reason}
                    for target, kind, got in results
                ]
            }
        )
    else:
        for target, kind, got in results:
            _print(f"{target} ({kind}): {got.result}. {got.reason}".rstrip())
    if any(got.result is not Result.SENT for _, _, got in results):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _change(
    ids: list[int] | None,
    target: str | None,
    statuses: "Sequence[Status]",
    change: "Callable[[psycopg.Connection, Sequence[int]], list[int]]",
    done: str,
    *,
    as_json: bool,
) -> None:
    """Change messages by number, or all of a target with one of the statuses; report those that did not fit."""
    from churn_platform.database import alert_outbox

    if bool(ids) == (target is not None):
        end(ExitCode.USAGE, "Choose messages by their numbers, or all of one target by --target.")
    with report_errors(), _connect() as connection:
        wanted = ids or [each.id for each in alert_outbox.find(connection, statuses=statuses, target=target)]
        changed = change(connection, wanted)
    others = sorted(set(wanted) - set(changed))
    if as_json:
        emit({"changed": sorted(changed), "unchanged": others})
    else:
        _print(f"{len(changed):,} {'message' if len(changed) == 1 else 'messages'} {done}.")
        if others:
            words = " or ".join(_words(each) for each in statuses)
            _print(f"Not {words}, so nothing was changed: {', '.join(map(str, others))}.")
    if others:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _connect() -> "psycopg.Connection":
    from churn_platform.settings import settings

    return connect(settings().postgres_dsn, autocommit=True, application_name="churn alerts")


def _messages_table(messages: "Sequence[StoredMessage]") -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("Id", justify="right", no_wrap=True)
    for title in ("Written", "Target", "Status", "Attempts"):
        table.add_column(title, no_wrap=True)
    table.add_column("About", overflow="fold")
    table.add_column("Latest problem", overflow="fold")
    for each in messages:
        dismissed = " (dismissed)" if each.dismissed_at is not None else ""
        table.add_row(
            str(each.id),
            f"{each.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            Text(each.target),
            _words(each.status) + dismissed,
            str(each.attempts),
            Text(str(each.payload.get("subject", each.reference))),
            Text(each.last_error or ""),
        )
    return table


def _conditions_table(found: "Sequence[StoredCondition]") -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("Condition", "Began", "Ended"):
        table.add_column(title, no_wrap=True)
    table.add_column("Subject", overflow="fold")
    table.add_column("Latest measurement", overflow="fold")
    for each in found:
        table.add_row(
            each.name,
            f"{each.began.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "" if each.ended is None else f"{each.ended.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            Text(each.subject),
            Text(each.details),
        )
    return table


def _words(status: str) -> str:
    return status.replace("_", " ")


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
