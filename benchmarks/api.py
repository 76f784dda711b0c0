"""The prediction API: latency at a fixed rate, customers a second, and CPU beside `mlflow models serve`.

Example: python -m benchmarks.api --seconds 5
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import mlflow
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.api_load import Measured, Work
from benchmarks.latency import wait_until
from benchmarks.machine import this_machine
from benchmarks.servers import new_database, own_stack
from churn_platform.local.ports import HOST
from churn_platform.modeling.tracking import PYFUNC_MODEL, copy_scoring_code
from churn_platform.schema.current import schema_of
from churn_platform.settings import settings
from churn_platform.simulation.producer import customer_event

RATE: Final = 1000.0
SECONDS: Final = 20.0
IN_ONE_REQUEST: Final = 1000
# One request is decoded and scored while the other one is sent.
CONNECTIONS: Final = 2
# mlflow models serve cannot answer a thousand requests a second: both are also measured at a rate that it can. At such
# a rate most of the CPU is that of waking up, so the goal compares each server at the load at which it is best.
COMPARED_RATE: Final = 50.0
WARM_UP_SECONDS: Final = 2.0
STOP_SECONDS: Final = 30.0
DIFFERENT_BODIES: Final = 1000

P99_GOAL_MS: Final = 20.0
CUSTOMERS_GOAL: Final = 60_000.0
CPU_SHARE_GOAL: Final = 0.1


@dataclass(frozen=True)
class Case:
    """One measurement: what the load generator saw, and the CPU of the server."""

    name: str
    load: Measured
    customers: int
    server_cpu_seconds: float

    @property
    def customers_per_second(self) -> float:
        """How many customers were scored each second."""
        return self.load.requests * self.customers / self.load.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU of the server for each request, in milliseconds."""
        return 1000 * self.server_cpu_seconds / self.load.requests

    def as_dict(self) -> dict[str, object]:
        """Return all figures."""
        return {**asdict(self), "customers_per_second": self.customers_per_second, "cpu_ms": self.cpu_ms}


@dataclass(frozen=True)
class Server:
    """A server that is measured: its process and where it takes customers."""

    process: psutil.Process
    url: str

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and of those that it started."""
        spent = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent

    def measure(self, name: str, sent: Work, *, customers: int = 1) -> Case:
        """Send requests, after some that do not count.

        Args:
            name: of the measurement.
            sent: the requests.
            customers: in each of them.
        """
        _send(Work(**{**asdict(sent), "seconds": WARM_UP_SECONDS}))
        before = self.cpu_seconds()
        load = _send(sent)
        return Case(name, load, customers, self.cpu_seconds() - before)


def _send(sent: Work) -> Measured:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.api_load"],
        input=json.dumps(asdict(sent)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measured(**json.loads(found.stdout))


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], *, probe: str, url: str, log: Path
) -> Iterator[Server]:
    """Run a server until the context ends. It listens when the probe answers."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    process = psutil.Process(started.pid)
    try:
        wait_until(lambda: _answers(probe, started, log), probe)
        yield Server(process, url)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)  # it leads a group of its own
        started.wait(STOP_SECONDS)


def _answers(probe: str, started: "subprocess.Popen[bytes]", log: Path) -> bool:
    if started.poll() is not None:
        raise RuntimeError(f"The server ended with {started.returncode} before it listened: {log.read_text()}")
    with suppress(httpx.TransportError):
        return httpx.get(probe, trust_env=False, timeout=5).status_code == 200
    return False


def measure(console: Console, *, seconds: float, rate: float, with_mlflow: bool) -> list[Case]:
    """Return all measurements.

    Args:
        console: shows progress.
        seconds: duration of each measurement.
        rate: single predictions a second.
        with_mlflow: whether to measure `mlflow models serve`, too.
    """
    with own_stack() as stack, tempfile.TemporaryDirectory() as folder:
        bundle = work.trained_bundle(Path(folder, "bundle"))
        dsn = new_database(stack, "served")
        work.promote(dsn, bundle)
        schema = schema_of(settings())
        now = datetime.now(UTC)
        events = [customer_event(row, schema, moment=now) for row in work.customers()[:DIFFERENT_BODIES]]
        port = _free_port()
        environment = {
            **os.environ,
            "DATABASE_URL": dsn,
            "DATABASE_READER_URL": dsn,
            "API_REQUESTS_PER_SECOND": "1000000",
        }
        cases = []
        with _running(
            (sys.executable, "-m", "churn_platform.api", HOST, str(port)),
            environment,
            probe=f"http://{HOST}:{port}/readyz",
            url=f"http://{HOST}:{port}/v1/predictions",
            log=Path(folder, "api.log"),
        ) as server:
            one = [json.dumps(event) for event in events]
            many = [json.dumps({"customers": (events * 2)[:IN_ONE_REQUEST]})]
            for name, sent, customers in (
                (f"one customer, {rate:,.0f} requests a second", Work(server.url, one, seconds, rate), 1),
                ("one customer, the next after the answer", Work(server.url, one, seconds), 1),
                (
                    f"{IN_ONE_REQUEST:,} customers, {CONNECTIONS} requests at a time",
                    Work(server.url, many, seconds, connections=CONNECTIONS),
                    IN_ONE_REQUEST,
                ),
                (
                    f"one customer, {COMPARED_RATE:.0f} requests a second",
                    Work(server.url, one, seconds, COMPARED_RATE),
                    1,
                ),
            ):
                console.print(f"{name} ...", style="dim")
                cases.append(server.measure(name, sent, customers=customers))
        if with_mlflow:
            console.print("mlflow models serve ...", style="dim")
            cases += _measure_mlflow(bundle, events, seconds=seconds, folder=Path(folder))
        return cases


def _measure_mlflow(bundle: str, events: Sequence[Mapping[str, object]], *, seconds: float, folder: Path) -> list[Case]:
    """Measure `mlflow models serve` with the same model and customers."""
    model, port = folder / "model", _free_port()
    mlflow.pyfunc.save_model(
        path=str(model),
        python_model=str(PYFUNC_MODEL),
        artifacts={"bundle": bundle},
        code_paths=[str(copy_scoring_code(folder / "code"))],
        pip_requirements=[],
    )
    inputs = schema_of(settings()).feature_columns
    records = [{name: event[name] for name in inputs} for event in events]
    with _running(
        (
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)),
            *("--env-manager", "local", "--host", HOST, "--port", str(port), "--workers", "1"),
        ),
        {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        probe=f"http://{HOST}:{port}/ping",
        url=f"http://{HOST}:{port}/invocations",
        log=folder / "mlflow.log",
    ) as server:
        bodies = [json.dumps({"dataframe_records": [record]}) for record in records]
        return [
            server.measure(f"mlflow models serve: {name}", sent)
            for name, sent in (
                (
                    f"one customer, {COMPARED_RATE:.0f} requests a second",
                    Work(server.url, bodies, seconds, COMPARED_RATE),
                ),
                ("one customer, the next after the answer", Work(server.url, bodies, seconds)),
            )
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def missed(cases: Sequence[Case], *, rate: float) -> list[str]:
    """Return the goals that were missed, as text."""
    at_rate, _, many, _, *mlflows = cases
    found = [f"{case.name}: {case.load.failed} requests failed." for case in cases if case.load.failed]
    if rate >= RATE and at_rate.load.p99 > P99_GOAL_MS:
        found.append(f"{at_rate.name}: p99 is {at_rate.load.p99:.1f} ms, the goal {P99_GOAL_MS:.0f} ms.")
    if many.customers_per_second < CUSTOMERS_GOAL:
        found.append(
            f"{many.name}: {many.customers_per_second:,.0f} customers a second, the goal {CUSTOMERS_GOAL:,.0f}."
        )
    found += [
        f"{at_rate.name}: the CPU is {at_rate.cpu_ms / theirs.cpu_ms:.2f} of mlflow's, the goal {CPU_SHARE_GOAL}."
        for theirs in mlflows[1:]
        if at_rate.cpu_ms > CPU_SHARE_GOAL * theirs.cpu_ms
    ]
    return found


def show(console: Console, cases: Sequence[Case]) -> None:
    """Print a table."""
    table = Table("", "p50", "p99", "worst", "customers/s", "CPU per request", box=None, header_style="dim")
    for case in cases:
        load = case.load
        table.add_row(
            case.name,
            *(f"{value:,.1f} ms" for value in (load.p50, load.p99, load.worst)),
            f"{case.customers_per_second:,.0f}",
            f"{case.cpu_ms:,.2f} ms",
        )
    console.print(table)


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Duration of each measurement.")] = SECONDS,
    rate: Annotated[float, typer.Option(min=1, help="Single predictions a second.")] = RATE,
    with_mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Also measure mlflow models serve.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure the prediction API in one process, with the load generator beside it.

    The exit code is 1 if a goal is missed: a p99 of 20 ms at 1,000 requests a second, 60,000 customers a second in
    requests of a thousand, and a tenth of the CPU of `mlflow models serve` for each request.

    Example: make bench-api ARGS="--seconds 5"
    """
    console, machine, began = Console(width=140), this_machine(), time.monotonic()
    console.print(str(machine), highlight=False)
    cases = measure(console, seconds=seconds, rate=rate, with_mlflow=with_mlflow)
    show(console, cases)
    console.print(f"Took {time.monotonic() - began:.0f} s.", highlight=False)
    if json_file is not None:
        document = {"cases": [case.as_dict() for case in cases], "machine": asdict(machine)}
        json_file.write_text(json.dumps(document, indent=2) + "\n")
    problems = missed(cases, rate=rate)
    for text in problems:
        console.print(text, style="red", highlight=False)
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
