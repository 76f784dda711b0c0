"""`make bench`: throughput, latency, cost and stages, one after the other, in under sixteen minutes."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks import cost, latency, stages, throughput
from benchmarks.machine import this_machine

COST_RATES: Final = (500,)
COST_SECONDS: Final = 30.0


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the stream, a reference loop, and the other stream processors that are installed.

    Example: make bench ARGS="--json bench.json"
    """
    console, machine, began = Console(width=120), this_machine(), time.monotonic()
    console.print(str(machine), highlight=False)
    rates = throughput.measure(console)
    throughput.show(console, rates)
    latencies, first = latency.measure(console)
    latency.show(console, latencies, first)
    costs, *idle = cost.measure(
        console,
        rates=COST_RATES,
        pairs=1,
        seconds=COST_SECONDS,
        idle_seconds=COST_SECONDS,
        compiling_seconds=COST_SECONDS,
    )
    cost.show(console, costs, *idle)
    each = stages.measure()
    stages.show(console, each)
    console.print(f"Took {time.monotonic() - began:.0f} s.", highlight=False)
    if json_file is not None:
        found = {
            "throughput": asdict(rates),
            "latency": {rate: asdict(found) for rate, found in latencies.items()},
            "first_event_seconds": first,
            "cost": {rate: asdict(found) for rate, found in costs.items()},
            "stages": [asdict(stage) for stage in each],
            "machine": asdict(machine),
        }
        json_file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
