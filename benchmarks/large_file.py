"""Preparation and training on a file that is larger than memory, with Spark: seconds, and the memory of each process.

Example: python -m benchmarks.large_file --customers 1000000 --engines python,spark
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.batch_step import KILOBYTES, SEED
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack
from churn_platform.files.artifacts import MODELS, list_names
from churn_platform.model_store import load_bundle
from churn_platform.schema.generator import generate_customers, write_customers
from churn_platform.spark.submit import PREPARATION

CUSTOMERS: Final = 10_000_000
BLOCK: Final = 1_000_000  # customers that are generated at once
ID_RANGE: Final = 100_000_000  # ids of a block have eight digits
HEAP: Final = "512m"
SAMPLE_SECONDS: Final = 0.25
STEPS: Final = ("prepare", "train and evaluate")
MEMORY: Final = re.compile(r"^Vm(HWM|RSS):\s+(\d+) kB$", re.MULTILINE)
RUN, JVM, DRIVER, WORKER = "run", "Spark's JVM", "driver's Python", "worker's Python"
KINDS: Final = (RUN, JVM, DRIVER, WORKER)


@dataclass(frozen=True)
class Step:
    """The cost of a step.

    Attributes:
        seconds: of the run's process, imports included.
        peaks: kind of process -> highest peak of resident memory of one of them, in MiB.
        together: highest sum of the resident memory of all of them at the same time, in MiB. Pages that several share
            count several times.
    """

    seconds: float
    peaks: Mapping[str, float]
    together: float


@dataclass(frozen=True)
class Engine:
    """What an engine has cost: STEPS in order, and the SHA-256 of the bundle's parts."""

    name: str
    steps: Mapping[str, Step]
    model: str


@dataclass(frozen=True)
class Measured:
    """A file and what each engine has cost. `file_mb` is its size in MB."""

    customers: int
    file_mb: float
    heap: str
    engines: Sequence[Engine]


def measure(console: Console, *, customers: int, engines: Sequence[str], heap: str = HEAP) -> Measured:
    """Write a customers file, and let each engine prepare it and train on it.

    Args:
        console: for the result of each step.
        customers: number of customers.
        engines: values of PREPARATION_ENGINE.
        heap: memory of Spark's driver and its executor, which are one process, such as 512m.
    """
    folder = Path(tempfile.mkdtemp(prefix="churn-large-"))
    try:
        file = folder / "customers.csv"
        write_large_file(file, customers)
        found = []
        with own_stack() as stack:
            for engine in engines:
                variables = {
                    "CHURN_RAW_CSV": str(file),
                    "CHURN_ARTIFACTS": str(folder / engine),
                    "DATABASE_URL": new_database(stack, f"large_{engine}"),
                    "MLFLOW_MODEL": f"large_{engine}",
                    "PREPARATION_ENGINE": engine,
                    "SPARK_PROPERTIES": f"spark.driver.memory={heap}",
                }
                steps: dict[str, Step] = {}
                for step in STEPS:
                    steps[step] = _step(step, customers, variables)
                    console.print(f"{engine}, {step}: {steps[step]}", style="dim", highlight=False)
                found.append(Engine(engine, steps, _model_of(folder / engine)))
                shutil.rmtree(folder / engine)
        return Measured(customers, file.stat().st_size / 1e6, heap, found)
    finally:
        shutil.rmtree(folder)


def write_large_file(path: Path, customers: int, *, block: int = BLOCK) -> None:
    """Write generated customers, of which only a block is in memory at a time. No id occurs twice.

    Args:
        path: of the file.
        customers: number of customers.
        block: number of customers of a block.
    """
    block_file = path.with_suffix(".block")
    with path.open("wb") as file:
        for number, start in enumerate(range(0, customers, block)):
            rows = generate_customers(min(block, customers - start), SEED + number)
            rows["RowNumber"] += start
            rows["CustomerId"] += number * ID_RANGE
            write_customers(rows, block_file)
            with block_file.open("rb") as written:
                header = written.readline()
                if number == 0:
                    file.write(header)
                shutil.copyfileobj(written, file)
    block_file.unlink()


def _step(step: str, customers: int, variables: Mapping[str, str]) -> Step:
    """Run a step in a separate process, and watch the memory of that process and those below it."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | dict(variables)
    peaks: dict[str, float] = {}
    together, began = 0.0, time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        command = (sys.executable, "-m", "benchmarks.batch_step", step, str(customers))
        run = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
        while run.poll() is None:
            at_once = 0.0
            for kind, peak, resident in _memory(psutil.Process(run.pid)):
                peaks[kind] = max(peak, peaks.get(kind, 0.0))
                at_once += resident
            together = max(together, at_once)
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - began
        log.seek(0)
        if run.returncode:
            raise RuntimeError(f"{step} ended with {run.returncode}:\n{log.read()[-3000:]}")
    return Step(seconds, peaks, together)


def _memory(run: psutil.Process) -> Iterator[tuple[str, float, float]]:
    """Yield kind, peak and current resident memory in MiB of a process and of all below it. Linux only."""
    with suppress(psutil.NoSuchProcess):
        for process in (run, *run.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                sizes = {name: int(size) / KILOBYTES for name, size in MEMORY.findall(status)}
                if sizes:  # a process that has just ended has none
                    yield _kind(process, run), sizes["HWM"], sizes["RSS"]


def _kind(process: psutil.Process, run: psutil.Process) -> str:
    """Return what a process of a run is."""
    if process == run:
        return RUN
    if process.name() == "java":
        return JVM
    line = " ".join(process.cmdline())
    if "pyspark.daemon" in line:
        return WORKER
    return DRIVER if PREPARATION.name in line else RUN


def _model_of(artifacts: Path) -> str:
    """Return the SHA-256 of the parts of the only bundle."""
    (name,) = list_names(str(artifacts / MODELS))
    digest = hashlib.sha256()
    for part, content in sorted(load_bundle(str(artifacts / MODELS / name)).to_parts().items()):
        digest.update(part.encode() + content)
    return digest.hexdigest()


def show(console: Console, found: Measured) -> None:
    """Print the results as a table."""
    console.print(
        f"{found.customers:,} customers, a file of {found.file_mb:,.0f} MB; spark.driver.memory={found.heap}",
        highlight=False,
    )
    table = Table("engine", "step", box=None, header_style="dim")
    for column in ("seconds", *KINDS, "all at once"):
        table.add_column(column, justify="right")
    for engine in found.engines:
        for step, cost in engine.steps.items():
            peaks = (
                f"{cost.peaks[kind]:,.0f} MiB" if kind in cost.peaks else "" for kind in (RUN, JVM, DRIVER, WORKER)
            )
            table.add_row(engine.name, step, f"{cost.seconds:,.0f} s", *peaks, f"{cost.together:,.0f} MiB")
    console.print(table)
    console.print(*(f"model by {each.name}: {each.model[:16]}" for each in found.engines), highlight=False)


def main(
    customers: Annotated[int, typer.Option(min=1, help="Customers of the file.")] = CUSTOMERS,
    engines: Annotated[str, typer.Option(help="python, spark, or both with a comma.")] = "spark",
    heap: Annotated[str, typer.Option(help="spark.driver.memory.")] = HEAP,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Prepare a file of many customers and train on it: seconds, and peak memory of each process.

    Example: make bench-large-file ARGS="--customers 1000000 --engines python,spark"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, customers=customers, engines=engines.split(","), heap=heap)
    show(console, found)
    if json_file is not None:
        result = {"large_file": asdict(found), "machine": asdict(machine)}
        json_file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
