"""Cost of data preparation, training and the scoring of a file by the number of customers.

Example: python -m benchmarks.batch --sizes 10000,100000
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import this_machine
from benchmarks.servers import own_stack

SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True)
class Cost:
    """Cost of a process, including imports. `peak_mb` is its peak resident memory in MiB."""

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Batch:
    """Costs for a number of customers. `training` is None if it was not measured."""

    customers: int
    preparation: Cost
    training: Cost | None
    scoring_to_csv: Cost
    scoring_to_parquet: Cost


def measure(console: Console, *, sizes: Sequence[int] = SIZES, train_at_most: int = max(SIZES)) -> list[Batch]:
    """Measure one size after the other, each with temporary files. Erased customers are in a database of its own."""
    found = []
    with own_stack():
        for size in sizes:
            with tempfile.TemporaryDirectory(prefix="churn-batch-") as folder:
                _step("generate", size, folder)
                preparation = _step("prepare", size, folder)
                training = _step("train", size, folder) if size <= train_at_most else None
                _step("bundle", size, folder)
                to_csv, to_parquet = (_step(f"score to {form}", size, folder) for form in ("CSV", "Parquet"))
            found.append(Batch(size, preparation, training, to_csv, to_parquet))
            console.print(str(found[-1]), style="dim", highlight=False)
    return found


def _step(step: str, customers: int, folder: str) -> Cost:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
        "CHURN_RAW_CSV": f"{folder}/customers.csv",
        "CHURN_ARTIFACTS": f"{folder}/artifacts",
    }
    command = (sys.executable, "-m", "benchmarks.batch_step", step, str(customers))
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{step} of {customers:,} customers ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    return Cost(**json.loads(ended.stdout.splitlines()[-1]))


def show(console: Console, found: Sequence[Batch]) -> None:
    """Print the results as a table."""
    table = Table("customers", box=None, header_style="dim")
    for step in ("data preparation", "training", "scoring to CSV", "scoring to Parquet"):
        table.add_column(step, justify="right")
        table.add_column("peak", justify="right")
    for batch in found:
        cells = [
            cell
            for cost in (batch.preparation, batch.training, batch.scoring_to_csv, batch.scoring_to_parquet)
            for cell in (("", "") if cost is None else (f"{cost.seconds:,.1f} s", f"{cost.peak_mb:,.0f} MiB"))
        ]
        table.add_row(f"{batch.customers:,}", *cells)
    console.print(table)


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of customers.")] = ",".join(map(str, SIZES)),
    train_at_most: Annotated[int, typer.Option(help="Train on at most this many customers; 0: never.")] = max(SIZES),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Prepare, train on and score generated customers: seconds and peak memory of each.

    Example: make bench-batch ARGS="--sizes 10000,1000000"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, sizes=[int(size) for size in sizes.split(",")], train_at_most=train_at_most)
    show(console, found)
    if json_file is not None:
        batches = [asdict(batch) for batch in found]
        json_file.write_text(json.dumps({"batch": batches, "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
