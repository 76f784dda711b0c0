"""Throughput of the stream while churn_predictions grows: one backlog after the other, each a batch.

Example: python -m benchmarks.rows --backlogs 8 --events 100000
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lanes import Comparison, Drained
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack

# After the first backlog, which also compiles: ten million rows when the last ones are read.
BACKLOGS: Final = 12
EVENTS: Final = 1_000_000
COMPARED: Final = 3
"""Backlogs at either end whose medians are compared, because checkpoints and vacuums disturb some of them."""
LEAST_THROUGHPUT: Final = 0.90
"""Least ratio of the throughput with many rows to that with few."""


def measure(console: Console, *, backlogs: int = BACKLOGS, events: int = EVENTS) -> list[Drained]:
    """Measure each backlog; the table has the rows of those before it."""
    with own_stack() as stack:
        comparison, found = Comparison(stack), list[Drained]()
        for number in range(backlogs + 1):
            found.append(comparison.drain(events))
            console.print(f"{number * events:,} rows: {found[-1]}", style="dim", highlight=False)
    return found


def ratio(found: Sequence[Drained]) -> float:
    """Return the throughput of the last backlogs as a part of that of the first ones, without the very first."""
    few, many = found[1 : 1 + COMPARED], found[-COMPARED:]
    return statistics.median(each.events_per_second for each in many) / statistics.median(
        each.events_per_second for each in few
    )


def show(console: Console, found: Sequence[Drained], events: int) -> None:
    """Print the results as a table."""
    table = Table("rows before", "events a second", "CPU per event", "of PostgreSQL", box=None, header_style="dim")
    for number, each in enumerate(found):
        cpu, postgresql = f"{each.cpu:.1f} µs", f"{each.parts.get('postgresql', 0.0):.1f} µs"
        table.add_row(f"{number * events:,}", f"{each.events_per_second:,.0f}", cpu, postgresql)
    console.print(table)
    console.print(
        f"last {COMPARED} to first {COMPARED} after the very first: {ratio(found):.2f} (goal {LEAST_THROUGHPUT})",
        highlight=False,
    )


def main(
    backlogs: Annotated[int, typer.Option(min=2 * COMPARED, help="Number of backlogs after the first.")] = BACKLOGS,
    events: Annotated[int, typer.Option(min=1_000, help="Events of each backlog.")] = EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure throughput while the table of predictions grows. The exit code is 1 if it falls below the goal.

    Example: make bench-rows ARGS="--backlogs 8 --events 100000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, backlogs=backlogs, events=events)
    show(console, found, events)
    if json_file is not None:
        report = {"backlogs": [asdict(each) for each in found], "ratio": ratio(found), "machine": asdict(machine)}
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    if ratio(found) < LEAST_THROUGHPUT:
        console.print("The throughput fell below the goal.", style="bold red")
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
