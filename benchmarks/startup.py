"""Startup times of the code location, the stack, a streaming run and the demo. CPU and memory of an idle stack.

Example: python -m benchmarks.startup --json startup.json
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.latency import Platform
from benchmarks.machine import this_machine
from benchmarks.servers import cpu_seconds, own_stack, processes
from churn_platform.local.environment import OWNER_VARIABLE, SERVERS
from churn_platform.local.stack import Stack
from churn_platform.settings import PROJECT_ROOT

LOADS: Final = 3
IDLE_MEASURED_SECONDS: Final = 60
# Time for caches to fill and for the first ticks. In its first two minutes the broker's JVM compiles what it uses.
SETTLE_SECONDS: Final = 120
MEBIBYTE: Final = 2**20


@dataclass(frozen=True)
class Startup:
    """Startup times in seconds; CPU cores and memory (shared memory counted once) of all processes when idle."""

    code_location: float
    stack: float
    ready: float
    first_event: float
    idle_cores: float
    idle_mb: float
    demo: float | None


def measure(
    console: Console,
    *,
    demo: bool = True,
    loads: int = LOADS,
    settle_seconds: float = SETTLE_SECONDS,
    idle_seconds: float = IDLE_MEASURED_SECONDS,
) -> Startup:
    """Measure each separately, with its own servers and folders.

    Args:
        loads: how often the code location is loaded; the median is reported.
        settle_seconds: time between the start of the stack and the measurement of the idle stack.
        idle_seconds: how long the idle stack is measured.
    """
    with tempfile.TemporaryDirectory(prefix="churn-home-") as home:
        (Path(home) / "dagster.yaml").touch()
        code_location = statistics.median(_seconds_to_check(home) for _ in range(loads))
    began = time.perf_counter()
    with own_stack(services_only=False) as stack:
        up = time.perf_counter() - began
        platform = Platform(stack, console)
        promoted = time.perf_counter()
        platform.become_ready()
        ready = time.perf_counter() - promoted
        time.sleep(settle_seconds)
        cores, megabytes = _idle(stack, idle_seconds)
        first_event = platform.first_event(0)
    return Startup(
        code_location=round(code_location, 2),
        stack=round(up, 2),
        ready=round(ready, 2),
        first_event=round(first_event, 3),
        idle_cores=round(cores, 4),
        idle_mb=round(megabytes),
        demo=round(_seconds_of_demo(), 1) if demo else None,
    )


def _seconds_to_check(home: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs", "--no-check-yaml"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DAGSTER_HOME": home, "VIRTUAL_ENV": sys.prefix},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def _idle(stack: Stack, seconds: float) -> tuple[float, float]:
    """Return CPU usage in cores and memory in MiB."""
    before = cpu_seconds(stack)
    time.sleep(seconds)
    spent = cpu_seconds(stack) - before
    memory = sum(process.memory_full_info().pss for process in processes(stack))
    return spent / seconds, memory / MEBIBYTE


def _seconds_of_demo() -> float:
    """Return the seconds of `churn demo` in a new folder, with all downloads cached."""
    folder = tempfile.mkdtemp(prefix="churn-demo-")
    Path(folder).chmod(0o711)  # under root, PostgreSQL runs as another user, who must traverse it
    yours = {*SERVERS.values(), OWNER_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in yours} | {"CHURN_LOCAL": folder}
    began = time.perf_counter()
    try:
        subprocess.run(
            [sys.executable, "-m", "churn_platform.cli", "demo"], env=environment, check=True, capture_output=True
        )
        return time.perf_counter() - began
    finally:
        shutil.rmtree(folder)


def show(console: Console, found: Startup) -> None:
    """Print the results as a table."""
    table = Table("what", "figure", box=None, header_style="dim")
    table.add_row("dg check defs: the code location loads", f"{found.code_location:.1f} s")
    table.add_row("churn up: every server answers, the UI too", f"{found.stack:.1f} s")
    table.add_row("from the first champion to a streaming run that is ready for an event", f"{found.ready:.1f} s")
    table.add_row("from the first event to its row", f"{1000 * found.first_event:.0f} ms")
    table.add_row("idle stack: CPU", f"{100 * found.idle_cores:.1f} % of a core")
    table.add_row("idle stack: memory", f"{found.idle_mb:,.0f} MiB")
    if found.demo is not None:
        table.add_row("churn demo, complete", f"{found.demo:.0f} s")
    console.print(table)


def main(
    demo: Annotated[bool, typer.Option(help="Also measure the demo.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure startup times, and the CPU and memory of an idle stack.

    Example: make bench-startup ARGS="--no-demo"
    """
    console, machine = Console(width=120), this_machine()
    console.print(str(machine), highlight=False)
    found = measure(console, demo=demo)
    show(console, found)
    if json_file is not None:
        json_file.write_text(json.dumps({"startup": asdict(found), "machine": asdict(machine)}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
