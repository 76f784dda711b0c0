"""`churn produce`: send customer events to Kafka."""

from pathlib import Path
from typing import Annotated

import typer

from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, end, output, report_errors

Share = Annotated[float, typer.Option(min=0, max=1, help="Share of the events, 0 to 1.")]


def produce(
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Events a second. Default: as fast as Kafka accepts them.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many events.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Customers file to make events from. Default: CHURN_RAW_CSV.")
    ] = None,
    bad: Share = 0.0,
    duplicates: Share = 0.0,
    late: Share = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes the choice of customers repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send customer events: rows of the customers file with a UUIDv7 and the time. --count or --duration is required.

    Rows without a value that scoring needs are left out. --bad, --duplicates and --late mix in events with faults.

    Example: churn produce --rate 500 --duration 60 --bad 0.01
    """
    from churn_platform.schema.current import customers_of
    from churn_platform.schema.reader import load_customers
    from churn_platform.settings import settings
    from churn_platform.simulation import producer
    from churn_platform.stream.config import StreamConfig

    if count is None and duration is None:
        end(ExitCode.USAGE, "Give a number of events or a duration: --count 1000 or --duration 60.")
    expected = min(count or float("inf"), rate * duration if rate and duration else float("inf"))
    total = None if expected == float("inf") else int(expected)
    with report_errors(), ProgressReporter("Events", total=total) as progress:
        config = StreamConfig.from_settings(settings())
        customers = load_customers(source or customers_of(settings()), config.schema).customers
        produced = producer.produce(
            config,
            producer.rows_of(customers, config.schema),
            count=count,
            rate=rate,
            duration=duration,
            mix=producer.Mix(bad=bad, duplicates=duplicates, late=late),
            seed=seed,
            progress=lambda sent: progress("Events", sent),
        )
    if as_json:
        found = {"topic": config.events_topic, "sent": produced.sent, "seconds": produced.seconds}
        emit({**found, "mixed_in": dict(sorted(produced.kinds.items()))})
        return
    mixed = ", ".join(f"{number:,} {kind}" for kind, number in sorted(produced.kinds.items()))
    output.print(
        f"[green]{produced.sent:,}[/green] events to {config.events_topic} in {produced.seconds:.1f} s"
        + (f", among them {mixed}." if mixed else "."),
        highlight=False,
    )
