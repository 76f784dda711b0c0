"""Throughput of the commit loop by the number of columns: the default schema beside one with 60 columns.

Example: python -m benchmarks.columns --events 100000
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks import wide
from benchmarks.machine import this_machine
from benchmarks.servers import own_stack
from benchmarks.throughput import Contest

EVENTS: Final = 200_000
COMMIT_EVENTS: Final = 10_000
TOPIC: Final = "waiting"


def measure(console: Console, *, events: int = EVENTS, commit_events: int = COMMIT_EVENTS) -> dict[str, float]:
    """Return the commit loop's events per second with the default schema and with the wide one."""
    with tempfile.TemporaryDirectory(prefix="churn-bench-") as folder:
        schema = Path(folder) / "schema.toml"
        wide.write_schema(schema)
        rates = {}
        for name, given in (("default", {}), (wide.NAME, {"CHURN_SCHEMA": str(schema)})):
            with own_stack(given) as stack:
                contest = Contest(stack, console)
                contest.fill(TOPIC, events)
                drain = contest.contend("loop", TOPIC, events=events, commit_events=commit_events)
                rates[name] = drain.events_per_second
    return rates


def main(
    events: Annotated[int, typer.Option(min=1, help="Backlog of each loop, in events.")] = EVENTS,
    commit_events: Annotated[int, typer.Option(min=1, help="Events per commit.")] = COMMIT_EVENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Process a backlog with the default schema, and one with a schema of 60 columns, 40 of them with features.

    Example: make bench-columns ARGS="--events 100000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    rates = measure(console, events=events, commit_events=commit_events)
    console.print(
        f"events a second: default {rates['default']:,.0f}, wide {rates[wide.NAME]:,.0f} "
        f"({rates[wide.NAME] / rates['default']:.2f})",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_text(json.dumps({"columns": rates, "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
