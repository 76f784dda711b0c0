"""The stream's part of `churn status`, as tables."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from churn_platform.commands.terminal import duration

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.status import PartitionStatus, StreamStatus

UNKNOWN = "unknown"


def show(console: Console, status: "StreamStatus") -> None:
    """Print the status of the stream: its figures, its partitions and its problems."""
    if status.topic is not None:
        console.print(f"\nStream of {status.topic}", style="bold", highlight=False)
        console.print(_figures(status))
    if len(status.lanes) > 1:
        console.print(_lanes(status))
    if status.partitions:
        console.print(_partitions(status))
    for problem in status.problems:
        console.print(Text(problem, style="red"), soft_wrap=True)


def _figures(status: "StreamStatus") -> Table:
    table = Table.grid(padding=(0, 2))
    if status.paused_since is not None:
        table.add_row("Paused", Text(f"since {status.paused_since:%Y-%m-%d %H:%M:%S %Z}", style="yellow"))
    if status.wanted_lanes not in (None, len(status.lanes)):
        table.add_row("Lanes", Text(f"{len(status.lanes)}, changing to {status.wanted_lanes}", style="yellow"))
    if len(status.lanes) <= 1:
        table.add_row("Live run", _live_run(status))
    batch, dead_letters = status.latest_batch, status.dead_letters
    if batch is not None:
        committed = "no commit yet"
        if batch.last_commit_seconds is not None:
            committed = f"last commit {duration(batch.last_commit_seconds)} ago"
        table.add_row("Last batch", f"{batch.batch}, {batch.state}, {batch.events:,} events, {committed}")
    rate = status.events_per_second
    table.add_row("Events a second", UNKNOWN if rate is None else f"{rate:,.1f}")
    table.add_row("Not yet published", UNKNOWN if status.unpublished is None else f"{status.unpublished:,} offsets")
    if status.held:
        began = status.held_since
        age = "" if began is None else f", for {duration((datetime.now(UTC) - began).total_seconds())}"
        table.add_row("Open transaction", Text(f"holds {status.held:,} offsets back{age}", style="yellow"))
    if dead_letters is not None:
        table.add_row(
            "Dead letters",
            f"{dead_letters.today:,} today, {dead_letters.unresolved:,} unresolved, "
            f"{dead_letters.retried:,} of them retried",
        )
    if status.answered:
        table.add_row("Summaries", _summaries(status.summaries_as_of))
    table.add_row("Model version", "none" if status.model_version is None else str(status.model_version))
    for trial in status.trials:
        table.add_row(
            trial.kind.capitalize(),
            f"version {trial.model_version} for {trial.share:.4g} of the customers, {trial.events:,} events scored "
            f"since {trial.started_at:%Y-%m-%d %H:%M} UTC",
        )
    return table


def _summaries(as_of: datetime | None) -> str:
    if as_of is None:
        return "the worker has not computed them yet"
    return f"as of {duration(max(0.0, (datetime.now(UTC) - as_of).total_seconds()))} ago"


def _live_run(status: "StreamStatus") -> str:
    if status.live_run is not None:
        waiting = f", standby {', '.join(status.standbys)}" if status.standbys else ""
        return f"{status.live_run}{waiting}"
    if status.lock_holder is not None:
        return f"none; {status.lock_holder!r} holds the stream's lock"
    return "none"


def _lanes(status: "StreamStatus") -> Table:
    table = Table("Lane", "Live run", "Standbys", "Last batch", box=None, header_style="dim", pad_edge=False)
    table.add_column("Waiting", justify="right")
    for each in status.lanes:
        waiting, batch = status.waiting_of(each.lane), each.latest_batch
        table.add_row(
            str(each.lane),
            each.live_run or "none",
            ", ".join(each.standbys) or "none",
            "none" if batch is None else f"{batch.batch}, {batch.state}, {batch.events:,} events",
            UNKNOWN if waiting is None else f"{waiting:,}",
        )
    return table


def _partitions(status: "StreamStatus") -> Table:
    table = Table("Partition", box=None, header_style="dim", pad_edge=False)
    for title in ("Position", "End", "Waiting", "Held back", "Not published"):
        table.add_column(title, justify="right")
    for each in status.partitions:
        table.add_row(
            str(each.kafka_partition),
            "not read yet" if each.position is None else str(each.position),
            str(each.end),
            "" if each.waiting is None else f"{each.waiting:,}",
            f"{each.held:,}",
            _unpublished(each),
        )
    return table


def _unpublished(each: "PartitionStatus") -> str:
    if each.position is None:
        return ""
    return UNKNOWN if each.unpublished is None else f"{each.unpublished:,}"
