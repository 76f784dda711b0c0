"""`churn demo`: run the whole platform once, from the customers file to predictions in PostgreSQL."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from churn_platform.commands.terminal import ExitCode, ProgressReporter, end, error_console, output, report_errors

if TYPE_CHECKING:
    from churn_platform.settings import Settings

# Short batches, so that a minute shows several of them and the handover between their runs.
DEMO_SETTINGS = {"BATCH_SECONDS": "15", "METRICS_SECONDS": "2"}

# About 2,000 a day: each customer has a few, and the days can be compared. The stream reads them in a second or two.
HISTORY_EVENTS = 30_000


def demo(
    rate: Annotated[float, typer.Option(min=1, help="Events a second.")] = 500,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of event production.")] = 25,
    schema: Annotated[
        Path | None,
        typer.Option(help="Customer schema of another data set. Its servers get a folder of their own."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running afterwards.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file as well.")] = None,
) -> None:
    """Start everything, train a model, stream events through it, and show the results.

    With --schema, the customers are those of another data set, such as data/subscribers/schema.toml.

    Some of the events are bad, duplicate or late. A platform without events first gets some of the last two weeks.
    Batches last 15 s here, unless BATCH_SECONDS is set.
    The exit code is 1 if an event is not accounted for.

    Example: churn demo --keep --json demo.json
    """
    from churn_platform.commands.stack import ProgressDisplay
    from churn_platform.local.stack import Stack
    from churn_platform.schema.current import schema_of
    from churn_platform.settings import load_settings
    from churn_platform.simulation import report, scenario
    from churn_platform.simulation.producer import Mix

    began, display = time.monotonic(), StepDisplay()
    with report_errors():
        if schema is not None:
            os.environ.update(settings_for(schema, load_settings()))
        chosen = load_settings().variables_set
        shorter = {name: value for name, value in DEMO_SETTINGS.items() if name not in chosen}
        stack = Stack(load_settings().platform.local, given={**os.environ, **shorter})
        with ProgressDisplay() as progress:
            started = stack.start(progress)
        try:
            os.environ.update(stack.environment)
            # Imported only now, because the partitions read the settings at import.
            from churn_platform.orchestration.dagster_client import DagsterClient

            outcome = scenario.Demo(
                load_settings(),
                scenario.Plan(
                    rate=rate, seconds=seconds, mix=Mix(bad=0.01, duplicates=0.01, late=0.01), history=HISTORY_EVENTS
                ),
                DagsterClient(stack.addresses["dagster"]),
                require_own_servers=partial(stack.require_own_servers, "webserver"),
                step=display.step,
                progress=display.sent,
            ).run()
        finally:
            if started and not keep:
                with ProgressDisplay() as progress:
                    stack.stop(progress)
    took = time.monotonic() - began
    report.show(output, outcome, schema_of(load_settings()))
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(outcome, seconds=took), indent=2, default=str) + "\n")
    of_stack = f"CHURN_LOCAL={stack.local} " if schema is not None else ""
    if keep or not started:
        output.print(
            f"\nOpen [bold]{stack.addresses['dashboard']}[/bold] to see predictions, customers and calls, and "
            f"[bold]{stack.addresses['dagster']}[/bold] for lineage and runs. Stop everything: {of_stack}churn down",
            soft_wrap=True,
        )
        output.print(
            f"Whom the retention team would call today, and why: {of_stack}churn cases list",
            highlight=False,
            soft_wrap=True,
        )
        if started and shorter:
            settings = ", ".join(f"{name}={value}" for name, value in shorter.items())
            output.print(
                f"It runs with {settings} until it is stopped. 'churn down' and then 'churn up' use your own settings.",
                highlight=False,
                soft_wrap=True,
            )
    elif schema is None:
        output.print(
            "\n'churn up' (make up) starts it again with its data and prints the address of its UI.", soft_wrap=True
        )
    else:
        output.print(
            f"\n'{of_stack}CHURN_SCHEMA={schema.resolve()} churn up' starts it again with its data.", soft_wrap=True
        )
    output.print(f"Took {took:.0f} s.", highlight=False)
    if broken := [sentence for sentence, holds in outcome.sums.items() if not holds]:
        end(ExitCode.CHECK_FAILED, f"These sums do not hold: {'; '.join(broken)}. Please report this.")


def settings_for(schema: Path, chosen: "Settings") -> dict[str, str]:
    """Return the variables with which the platform uses another schema, its customers file and a folder of its own.

    Args:
        schema: path of the schema file.
        chosen: the settings without the schema. If they name this schema already, their folder is used.

    Raises:
        SchemaError: there is no valid schema in the file.
    """
    from churn_platform.schema.toml_file import customers_file, load_schema

    file = schema.resolve()
    name = load_schema(file).name
    variables = {"CHURN_SCHEMA": str(file)}
    if chosen.platform.customer_schema.resolve() != file:
        local = chosen.platform.local
        variables["CHURN_LOCAL"] = str(local.with_name(f"{local.name}-{name}"))
        if (customers := customers_file(file)) and not os.environ.get("CHURN_RAW_CSV"):
            variables["CHURN_RAW_CSV"] = customers  # .env may name those of the other schema
    return variables


class StepDisplay:
    """Shows a step while it lasts, and how long it took once it has ended."""

    def __init__(self) -> None:
        self._reporter: ProgressReporter | None = None
        self._title = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show one step by its title."""
        began, self._title = time.monotonic(), title
        with ProgressReporter(title) as self._reporter:
            yield
        error_console.print(
            f"[green]✓[/green] {title} [dim]({time.monotonic() - began:.1f} s)[/dim]", highlight=False, soft_wrap=True
        )

    def sent(self, count: int) -> None:
        """Show the events sent so far beside the step's title."""
        if self._reporter is not None:
            self._reporter(self._title, count)
