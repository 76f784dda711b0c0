"""`churn outcomes`: send outcomes of customers, and skip outcomes that cannot be read."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from churn_platform.commands.moves import YesDrop, confirm_move, report_move
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    emit,
    end,
    error_console,
    output,
    report_errors,
)
from churn_platform.database.connections import connect

app = typer.Typer(no_args_is_help=True)

MAX_SHOWN: Final = 5  # wrong lines of a file
Topic = Annotated[str | None, typer.Option(help="Outcomes topic. Default: OUTCOMES_TOPIC.")]
Partition = Annotated[int, typer.Option(min=0, help="Kafka partition.")]
Reason = Annotated[str, typer.Option(help="The reason; recorded in outcome_skips.")]
ACCEPTED: Final = "accepted by hand"
LOSS: Final = "never count"


@app.callback()
def _outcomes() -> None:
    """Send outcomes (who left and who stayed), or skip those that cannot be read.

    Example: churn outcomes send
    """


@app.command()
def send(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="File of outcomes: JSON, one a line, or .csv with columns named like the fields. Default: simulated.",
        ),
    ] = None,
    customer: Annotated[
        str | None, typer.Option(metavar="ID", help="Send one outcome: of this customer. With --left or --stayed.")
    ] = None,
    event: Annotated[
        str | None, typer.Option(metavar="ID", help="Send one outcome: of the prediction of this event.")
    ] = None,
    left: Annotated[bool | None, typer.Option("--left/--stayed", help="Whether the customer left.")] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"],
            help="When that happened, such as 2026-11-24T09:15:30+01:00, or a day (UTC). Default: now.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of customers to simulate, chosen at random. Default: all.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Outcomes a second. Default: as fast as Kafka accepts them.")
    ] = None,
    bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the simulated outcomes that are invalid, 0 to 1.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes the simulation repeatable.")] = None,
    skip_wrong: Annotated[
        bool, typer.Option("--skip-wrong", help="Send the other lines of a file that has wrong ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send one outcome, outcomes from a file, or simulated ones of customers with a prediction in LIVE_WINDOW_DAYS.

    An outcome closes the customer's case: as lost if the customer left, as kept if the customer stayed after a call.
    A simulated outcome is the label of the customer's event. Without a label, it is drawn with the risk score as its
    probability. --bad mixes in outcomes that must be refused. A file is checked first; if a line is wrong, nothing is
    sent.

    Example: churn outcomes send --customer 15600001 --left
    """
    import time

    from churn_platform.operations import outcome_sender
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    if source is not None and (count is not None or bad or seed is not None):
        end(ExitCode.USAGE, "--count, --bad and --seed are for simulated outcomes and cannot be combined with --from.")
    one = customer is not None or event is not None
    if one and (source is not None or count is not None or bad or seed is not None):
        end(ExitCode.USAGE, "--customer and --event send one outcome and cannot be combined with other sources.")
    if one == (left is None) or (at is not None and not one):
        end(ExitCode.USAGE, "One outcome needs --customer or --event, and --left or --stayed.")
    wrong: list[outcome_sender.WrongLine] = []
    bad_ones = 0
    with report_errors(), ProgressReporter("Outcomes") as progress:
        config, topic = StreamConfig.from_settings(settings()), settings().topics.outcomes
        if source is not None:
            lines, wrong = outcome_sender.read_file(source, config.schema, accepts_from=config.epoch)
            if not lines and not wrong:
                end(ExitCode.USAGE, f"{source}: the file has no outcomes. Nothing was sent.")
            messages = [(line.key, line.value) for line in lines]
        elif one:
            moment = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
            only = outcome_sender.single(
                config.schema, customer=customer, event=event, left=bool(left), at=moment, accepts_from=config.epoch
            )
            messages = [(only.key, only.value)]
        else:
            with connect(config.dsn, application_name="churn outcomes") as connection:
                simulated = list(
                    outcome_sender.simulate(
                        connection,
                        config.schema,
                        days=settings().monitoring.live_window_days,
                        count=count,
                        bad=bad,
                        seed=seed,
                    )
                )
            messages = [(each.key, each.value) for each in simulated]
            bad_ones = sum(each.is_bad for each in simulated)
        started = time.monotonic()
        sent = 0
        if not wrong or skip_wrong:
            sent = outcome_sender.send(
                config, messages, topic, rate=rate, progress=lambda number: progress("Outcomes", number)
            )
        seconds = time.monotonic() - started
    for line in wrong[:MAX_SHOWN]:
        error_console.print(f"Line {line.number}: {line.reason}", highlight=False, markup=False, soft_wrap=True)
    if len(wrong) > MAX_SHOWN:
        error_console.print(f"... and {len(wrong) - MAX_SHOWN:,} more.", highlight=False)
    if as_json:
        emit({"topic": topic, "sent": sent, "bad": bad_ones, "refused": len(wrong), "seconds": seconds})
    elif sent or not wrong:
        mixed = f", among them {bad_ones:,} bad." if bad else "."
        output.print(f"[green]{sent:,}[/green] outcomes to {topic} in {seconds:.1f} s{mixed}", highlight=False)
    if wrong:
        not_sent = "they were not sent" if sent or skip_wrong else "nothing was sent"
        end(
            ExitCode.CHECK_FAILED,
            f"{len(wrong):,} of {len(wrong) + len(messages):,} lines of {source} would be refused: {not_sent}.",
            remedy="" if skip_wrong else "Correct them, or send the others with --skip-wrong.",
        )


@app.command()
def reset(
    partition: Partition,
    to: Annotated[str, typer.Option(help="Offset to continue at, earliest (the oldest that Kafka holds) or latest.")],
    topic: Topic = None,
    reason: Reason = ACCEPTED,
    yes_drop: YesDrop = None,
) -> None:
    """Move the position in one Kafka partition of the outcomes topic forward. The offsets in between are never read.

    It shows what it drops and asks for the topic's name.

    Example: churn outcomes reset --partition 0 --to earliest --reason "lost by retention"
    """
    from churn_platform.operations import outcome_reset
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    with report_errors():
        name = topic or settings().topics.outcomes
        config = StreamConfig.from_settings(settings())
        with connect(config.dsn, autocommit=True, application_name="churn reset") as connection:
            with ProgressReporter("Reading Kafka"):
                move = outcome_reset.plan(connection, config, topic=name, partition=partition, to=to)
            if move is None:
                _print(f"{name}[{partition}] is already at that offset; nothing was changed.")
                return
            confirm_move(move, yes_drop, records="Outcomes", loss=LOSS)
            outcome_reset.apply(connection, move, reason=reason)
    report_move(move, skips="outcome_skips")


@app.command()
def skip(
    partition: Partition,
    offset: Annotated[int, typer.Option(min=0, help="Offset of the outcome.")],
    topic: Topic = None,
    reason: Reason = ACCEPTED,
    yes_drop: YesDrop = None,
) -> None:
    """Skip one outcome that has not been read yet. The outcomes before and after it are read.

    It asks for the topic's name.

    Example: churn outcomes skip --partition 0 --offset 1041 --reason "the job fails at it"
    """
    from churn_platform.operations import outcome_reset
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    with report_errors():
        name = topic or settings().topics.outcomes
        config = StreamConfig.from_settings(settings())
        with connect(config.dsn, autocommit=True, application_name="churn skip") as connection:
            with ProgressReporter("Reading Kafka"):
                move = outcome_reset.plan_skip(connection, config, topic=name, partition=partition, offset=offset)
            confirm_move(move, yes_drop, records="Outcomes", loss=LOSS)
            outcome_reset.apply_skip(connection, move, reason=reason)
    _print(f"The next run skips {name}[{partition}]@{offset}; outcome_skips records the reason.")


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
