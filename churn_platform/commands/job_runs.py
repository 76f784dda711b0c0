"""Jobs of Dagster from the terminal: launch one and follow it, or show the events and the output of a run."""

import re
import time
from typing import Annotated, Final

import typer
from rich.text import Text

from churn_platform.commands.stack import default_stack
from churn_platform.commands.terminal import (
    ExitCode,
    ProgressReporter,
    duration,
    emit,
    end,
    error_console,
    output,
    printable,
    report_errors,
)
from churn_platform.operations.dagster_runs import SUCCESS, Dagster, FollowedRun, RunEvent, RunState
from churn_platform.settings import settings

# Steps take seconds, and each request takes the web server some milliseconds.
POLL_SECONDS: Final = 1.0
FAILED_STEP: Final = "ExecutionStepFailureEvent"
RETRIED_STEP: Final = "ExecutionStepUpForRetryEvent"
STARTED_STEP: Final = "ExecutionStepStartEvent"
MATERIALIZED: Final = "MaterializationEvent"
# A run writes its events to stderr, too.
REPEATED: Final = re.compile(r"\d{4}-\d\d-\d\d [\d:]+ \S+ - dagster - ")
RUN_ENDED: Final = frozenset({"RunFailureEvent", "RunCanceledEvent"})
# Events that tell the same as others, or only how Dagster works.
LEFT_OUT: Final = frozenset(
    {
        "AssetCheckEvaluationPlannedEvent",
        "AssetMaterializationPlannedEvent",
        "HandledOutputEvent",
        "LoadedInputEvent",
        "LogsCapturedEvent",
        "ExecutionStepInputEvent",
        "ExecutionStepOutputEvent",
        "ResourceInitStartedEvent",
        "ResourceInitSuccessEvent",
    }
)

Detach = Annotated[
    bool, typer.Option("--detach", help="Return when the run is in Dagster's queue, without waiting for its end.")
]


def dagster() -> Dagster:
    """Return the web server of the settings, or that of 'churn up'.

    Raises:
        StackError: neither is there.
        PortTakenError: another process listens where 'churn up' started the web server.
    """
    if url := settings().dagster.url:
        return Dagster(url)
    stack = default_stack()
    stack.require_own_servers("webserver")
    return Dagster(stack.addresses["dagster"])


def run_job(job: str, *, detach: bool, as_json: bool, next_step: str) -> None:
    """Launch a job, show what its run does, and end the command with the exit code of the run.

    Args:
        job: its name.
        detach: whether to return as soon as the run is launched.
        as_json: whether to print one JSON object.
        next_step: what to do after a success, in a sentence.
    """
    with report_errors():
        server = dagster()
        run = server.launch(job)
        url = server.run_url(run.run_id)
        if detach:
            if as_json:
                emit({"run_id": run.run_id, "job": job, "status": run.read().status, "url": url})
            else:
                _print(f"Launched: {url}")
                _print(f"To follow it: churn logs --run {run.run_id} --follow")
            return
        error_console.print(Text(f"{job}: {url}"), soft_wrap=True)
        try:
            state, events = _wait(server, run, job)
        except KeyboardInterrupt:
            error_console.print(
                Text(f"The run continues. To follow it: churn logs --run {run.run_id} --follow"), soft_wrap=True
            )
            raise
    errors = [{"step": each.step, "error": each.error or each.message} for each in _errors(events)]
    if as_json:
        emit(
            {
                "run_id": state.run_id,
                "job": job,
                "status": state.status,
                "url": server.run_url(state.run_id),
                "seconds": state.seconds,
                "assets": [event.asset for event in events if event.kind == MATERIALIZED],
                "errors": errors,
            }
        )
        if state.status != SUCCESS:
            raise typer.Exit(ExitCode.FAILED)
        return
    if state.status != SUCCESS:
        details = "\n".join(printable(": ".join(filter(None, each.values()))) for each in errors)
        end(
            ExitCode.FAILED,
            f"{job} ended as {state.status} after {duration(state.seconds)}.",
            remedy=f"'churn logs --run {state.run_id}' shows all that it reported. Correct the cause, and repeat "
            "the command.",
            details=details,
        )
    _print(f"{job} succeeded after {duration(state.seconds)}. {next_step}")


def show_run(run_id: str, *, follow: bool) -> None:
    """Print the events of a run and what its processes wrote, and optionally everything until its end.

    The exit code is that of the command, whatever became of the run.
    """
    with report_errors():
        run = dagster().follow(run_id)
        try:
            while True:
                state = run.read()
                for event in state.events:
                    if event.kind not in LEFT_OUT:
                        typer.echo(_line(event))
                for name, text in run.read_output():
                    for line in text.splitlines():
                        if not REPEATED.match(line):
                            typer.echo(f"{name} | {printable(line)}")
                if state.has_ended or (not follow and not state.has_more):
                    return
                if not state.has_more:
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.DONE) from None  # Ctrl+C is how to stop following


def _wait(server: Dagster, run: FollowedRun, job: str) -> tuple[RunState, list[RunEvent]]:
    """Wait until the run, or the one that Dagster replaces it by, has ended. Return its last state and its events."""
    events: list[RunEvent] = []
    with ProgressReporter(f"{job}: waiting for its start") as progress:
        while True:
            state = run.read()
            for event in state.events:
                events.append(event)
                if event.kind == STARTED_STEP:
                    progress(f"{job}: {event.step}")
                elif event.kind == RETRIED_STEP:
                    _warn(f"{event.step} is tried again later: {event.error}")
            if state.has_ended and not state.will_retry:
                return state, events
            if state.retried_as:
                _warn(f"The run was lost. Its successor: {server.run_url(state.retried_as)}")
                run, events = server.follow(state.retried_as), [each for each in events if each.kind == MATERIALIZED]
            elif not state.has_more:
                time.sleep(POLL_SECONDS)


def _warn(text: str) -> None:
    error_console.print(Text(printable(text), style="yellow"), soft_wrap=True)


def _errors(events: list[RunEvent]) -> list[RunEvent]:
    """Return the failures of steps; without any, what ended the run."""
    failures = [event for event in events if event.kind == FAILED_STEP]
    return failures or [event for event in events if event.kind in RUN_ENDED]


def _line(event: RunEvent) -> str:
    subject = f" {event.step}" if event.step else ""
    # Some events, such as RunEnqueuedEvent, have no message.
    text = event.message or " ".join(re.findall("[A-Z][a-z]+", event.kind.removesuffix("Event")))
    if event.error and event.error not in text:
        text += f" {event.error}"
    return printable(f"{event.at:%Y-%m-%d %H:%M:%S} {event.level}{subject}: {text}")


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
