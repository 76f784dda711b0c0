"""`churn up`, `down`, `status` and `logs`: control the embedded servers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, Self, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from churn_platform.commands import stream_status
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    duration,
    emit,
    end,
    error_console,
    output,
    report_errors,
)
from churn_platform.local.configuration import PLATFORM, SERVICES
from churn_platform.local.progress import Phase, Step
from churn_platform.local.stack import Stack
from churn_platform.local.status import PartStatus
from churn_platform.settings import load_settings

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.status import StreamStatus

P = ParamSpec("P")
R = TypeVar("R")

FOLLOW_PAUSE = 0.2  # seconds between two reads of a log that is followed
DETAIL_PAUSE = 2  # seconds between two lines about the same part, without a terminal
UNHEALTHY: Final = frozenset({"failed", "port taken", "not answering", "not answering (yours)"})


class ProgressDisplay:
    """Shows the progress of the parts: a table that changes on a terminal, else a line for each change."""

    def __init__(self, console: Console = error_console) -> None:
        """Choose the form that suits the console."""
        self._console = console
        self._steps: dict[str, Step] = {}
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8, transient=False)

    def __call__(self, step: Step) -> None:
        """Show a step."""
        before = self._steps.get(step.part)
        if self._console.is_terminal or before is None or before.phase != step.phase or self._is_news(before, step):
            self._steps[step.part] = step
            if not self._console.is_terminal:
                line = f"{step.title}: {step.phase}" + (f", {step.detail}" if step.detail else "")
                self._console.print(f"{line} ({step.seconds:.1f} s)", highlight=False, soft_wrap=True)

    @staticmethod
    def _is_news(before: Step, step: Step) -> bool:
        """Return whether to print a line about a new detail, without a terminal."""
        return step.detail != before.detail and step.seconds - before.seconds >= DETAIL_PAUSE

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for step in list(self._steps.values()):
            settled = step.phase in (Phase.READY, Phase.STOPPED)
            table.add_row(
                Text("✓", style="green") if settled else self._spinner,
                Text(step.title),
                Text(step.phase, style="green" if step.phase is Phase.READY else "yellow" if not settled else "dim"),
                Text(f"{step.seconds:.1f} s", style="dim") if settled else Text(""),
                Text(step.detail, style="dim"),
            )
        return table

    def __enter__(self) -> Self:
        """Start the display."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the display; its last state stays on the screen."""
        if self._console.is_terminal:
            self._live.stop()


def default_stack(*, services_only: bool = False) -> Stack:
    """Return the stack of this checkout."""
    return Stack(load_settings().platform.local, services_only=services_only)


@contextmanager
def servers_up(*parts: str) -> Iterator[None]:
    """Keep these embedded servers up during the block. If the stack is down, they are started, and stopped at its end.

    Args:
        parts: names of the servers; those that are the user's own are left alone.
    """
    stack = default_stack()
    embedded = stack.embedded & set(parts)
    if not embedded or stack.is_up:
        yield
    else:
        with stack.only(*embedded):
            yield


def with_own_servers(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that it is refused while another process listens at the address of an embedded server."""

    @wraps(command)
    def checked(*arguments: P.args, **options: P.kwargs) -> R:
        with report_errors():
            default_stack().require_own_servers()
        return command(*arguments, **options)

    return checked


def up(
    services_only: Annotated[
        bool,
        typer.Option(
            "--services-only", help="Without Dagster, the worker, the dashboard and the API, to run 'dg dev' yourself."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start Kafka, PostgreSQL, MLflow, Dagster, worker, dashboard and prediction API, and wait until they answer.

    A server that you name (KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL, MLFLOW_TRACKING_URI) is yours and is not started.

    Example: churn up --services-only
    """
    begun = time.monotonic()
    with report_errors():
        stack = default_stack(services_only=services_only)
        with ProgressDisplay() as progress:
            started = stack.start(progress)
        parts, took = stack.status(), time.monotonic() - begun
    if as_json:
        servers = [part.as_dict() for part in parts]
        emit({"started": started, "seconds": took, "env_file": str(stack.local / "env"), "servers": servers})
        return
    if not started:
        output.print("Already up.")
    output.print(status_table(parts))
    output.print(f"{'Up' if started else 'Checked'} after {took:.1f} s.", highlight=False)
    env_file = stack.local / "env"
    if services_only:
        output.print(f"Next: set -a; . {env_file}; set +a; dg dev", highlight=False, soft_wrap=True)
    else:
        pages = {"Dagster": "dagster", "Dashboard": "dashboard", "API": "api"}
        shown = [f"{title}: {stack.addresses[name]}" for title, name in pages.items()]
        output.print("   ".join([*shown, "Stop: churn down"]), soft_wrap=True)
        with report_errors():
            if not _has_champion(stack):
                output.print("Without a model no event is scored. To train one: churn model train --prepare")


def _has_champion(stack: Stack) -> bool:
    from churn_platform.database import model_versions
    from churn_platform.database.connections import connect

    with connect(stack.addresses["postgres"], application_name="churn up") as connection:
        return model_versions.champion(connection) is not None


def down(as_json: AsJson = False) -> None:
    """Stop what 'churn up' started, Dagster first and PostgreSQL last. Data stays.

    Example: churn down
    """
    with report_errors(), ProgressDisplay() as progress:
        stopped = default_stack().stop(progress)
    if as_json:
        emit({"stopped": stopped})
        return
    output.print("Down." if stopped else "Nothing was running.")


def status(as_json: AsJson = False) -> None:
    """Show each part (state, address, process) and the status of the stream.

    The exit code is 1 if a part that should answer does not.

    Example: churn status --json
    """
    with report_errors(), ProgressReporter("Checking the servers"):
        stack = default_stack()
        parts, left_over = stack.status(), stack.count_left_over()
        stream = _stream_status(parts)
    if as_json:
        emit({"servers": [part.as_dict() for part in parts], "stream": stream.as_dict()})
    elif not parts and stream.topic is None:
        output.print("The stack was never started. Run 'churn up'.")
    else:
        if parts:
            output.print(status_table(parts))
        stream_status.show(output, stream)
    for part in parts:
        if part.problem is not None:
            error_console.print(Text(part.problem, style="red"), soft_wrap=True)
    if left_over:
        error_console.print(
            f"{left_over} processes of an earlier stack are still running: 'churn down' stops them.", style="red"
        )
    if left_over or not stream.answered or any(part.state in UNHEALTHY for part in parts):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _stream_status(parts: list[PartStatus]) -> "StreamStatus":
    """Return the status of the stream. Servers of another platform are not queried."""
    from churn_platform.operations import status as streaming
    from churn_platform.settings import SettingsError
    from churn_platform.stream.config import StreamConfig

    taken = [part.problem for part in parts if part.state == "port taken" and part.problem is not None]
    if taken:
        return streaming.StreamStatus(problems=taken)
    try:
        config = StreamConfig.from_settings(load_settings())
    except SettingsError as error:
        return streaming.StreamStatus(problems=[str(error)])
    return streaming.collect_status(config)


def status_table(parts: list[PartStatus]) -> Table:
    """Return the table of `churn status`. Addresses are whole on every terminal, so that they can be copied."""
    styles = {"ready": "green", "yours": "green", "stopped": "dim", "starting": "yellow"}
    address = Column("Address", no_wrap=True, overflow="ignore")
    table = Table("Part", "State", address, "Process", "Up", "Memory", box=None, header_style="dim", pad_edge=False)
    for part in parts:
        table.add_row(
            Text(part.title),
            Text(part.state, style=styles.get(part.state, "red")),
            Text(part.address),
            Text(str(part.pid or "")),
            Text(duration(part.seconds_up)),
            Text("" if part.memory_mb is None else f"{part.memory_mb:.0f} MB"),
        )
    return table


def _known_part(part: str | None) -> str | None:
    if part not in (None, *SERVICES, *PLATFORM):
        raise typer.BadParameter(f"{part!r} is not a part; expected one of {', '.join((*SERVICES, *PLATFORM))}.")
    return part


def logs(
    part: Annotated[
        str | None,
        typer.Argument(
            help=f"One of {', '.join((*SERVICES, *PLATFORM))}; all parts by default.",
            callback=_known_part,
            autocompletion=lambda: [*SERVICES, *PLATFORM],
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue with new lines as they are written.")
    ] = False,
    run: Annotated[
        str | None,
        typer.Option(help="Id of a run in Dagster: show its events, and what its process has written, instead."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines of a part's log.")] = 20,
) -> None:
    """Show the end of a part's log, or everything about a run.

    Example: churn logs daemon --follow
    """
    if run is not None:
        if part is not None:
            end(ExitCode.USAGE, "A part and --run cannot be combined: the log of a run is not one of a part.")
        from churn_platform.commands.job_runs import show_run

        show_run(run, follow=follow)
        return
    with report_errors():
        stack = default_stack()
        names = [part] if part else [*SERVICES, *PLATFORM]
        files = {name: stack.log_file(name) for name in names}
        prefixes = {name: f"{name:<9} | " if len(names) > 1 else "" for name in names}
        for name in names:
            for line in stack.logs(name, lines):
                typer.echo(prefixes[name] + line)
        if follow:
            _follow(files, prefixes)


def _follow(files: dict[str, Path], prefixes: dict[str, str]) -> None:
    positions = {name: file.stat().st_size if file.exists() else 0 for name, file in files.items()}
    try:
        while True:
            for name, file in files.items():
                positions[name] = _echo_new(file, positions[name], prefixes[name])
            time.sleep(FOLLOW_PAUSE)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.DONE) from None  # Ctrl+C is how to stop following


def _echo_new(file: Path, position: int, prefix: str) -> int:
    """Print complete lines from a position; return the next position. A shorter file was rotated: read it from 0."""
    if not file.exists():
        return 0
    with file.open("rb") as log:
        log.seek(position if file.stat().st_size >= position else 0)
        start = log.tell()
        written = log.read()
    complete = written[: written.rfind(b"\n") + 1]
    for line in complete.decode(errors="replace").splitlines():
        typer.echo(prefix + line)
    return start + len(complete)
