"""`churn stream`: pausing the stream, letting it go on, and moving its position by hand."""

from typing import TYPE_CHECKING, Annotated

import typer

from churn_platform.commands.terminal import AsJson, ExitCode, Working, emit, end, output, plain_errors

if TYPE_CHECKING:  # takes a moment to import
    import psycopg

app = typer.Typer(no_args_is_help=True)

Topic = Annotated[str | None, typer.Option(help="Events topic. Default: EVENTS_TOPIC.")]


@app.callback()
def _stream() -> None:
    """Pause and resume the stream, or skip offsets.

    Example: churn stream pause
    """


@app.command()
def pause(topic: Topic = None, as_json: AsJson = False) -> None:
    """Pause the stream: nothing is read until it is resumed, and events wait in Kafka.

    Example: churn stream pause
    """
    import psycopg

    from churn_platform.settings import settings
    from churn_platform.storage import ledger

    with plain_errors(), Working("Asking PostgreSQL"):
        name = topic or settings().events_topic
        with psycopg.connect(settings().postgres_dsn, autocommit=True, application_name="churn pause") as connection:
            _check_topic(connection, name)
            before = ledger.paused_since(connection, name)
            ledger.pause(connection, name)
            holder, _ = ledger.lock_sessions(connection, name)
    live = holder is not None and holder.startswith(ledger.SESSION_PREFIX)
    if as_json:
        emit({"topic": name, "changed": before is None, "live": live})
    elif before is not None:
        _say(f"{name} is paused already, since {before:%Y-%m-%d %H:%M:%S %Z}.")
    elif not live:
        other = "" if holder is None else f" {holder or 'A session without a name'!r} holds the stream's lock."
        _say(f"{name} is paused. No run is live, and none is launched until 'churn stream resume'.{other}")
    else:
        _say(
            f"{name} is paused. The live run ends after its current commit, within about 5 s, with all that it read "
            f"committed and published. None is launched until 'churn stream resume'."
        )


@app.command()
def resume(topic: Topic = None, as_json: AsJson = False) -> None:
    """Let a paused stream go on where it stopped.

    Example: churn stream resume
    """
    import psycopg

    from churn_platform.settings import settings
    from churn_platform.storage import ledger

    with plain_errors(), Working("Asking PostgreSQL"):
        name = topic or settings().events_topic
        with psycopg.connect(settings().postgres_dsn, autocommit=True, application_name="churn resume") as connection:
            _check_topic(connection, name)
            was_paused = ledger.resume(connection, name)
    if as_json:
        emit({"topic": name, "changed": was_paused})
    elif was_paused:
        _say(f"{name} is resumed: when events wait, the sensor launches a run at its next tick, within about 5 s.")
    else:
        _say(f"{name} is not paused; nothing was changed.")


@app.command()
def reset(
    topic: Annotated[str, typer.Option(help="Events topic.")],
    partition: Annotated[int, typer.Option(min=0, help="Kafka partition.")],
    to: Annotated[str, typer.Option(help="Offset to go on at, earliest (the oldest that Kafka holds) or latest.")],
    reason: Annotated[str, typer.Option(help="Why; recorded in stream_skips.")] = "accepted by hand",
    yes_drop: Annotated[
        str | None, typer.Option("--yes-drop", metavar="TOPIC", help="For scripts: the topic's name, not asked for.")
    ] = None,
) -> None:
    """Move the stream's position in one Kafka partition forward. The offsets between are never read.

    It says what it drops and asks for the topic's name. The stream has to be at rest ('churn stream pause'); exit code
    3 while it is not.

    Example: churn stream reset --topic customer-events --partition 0 --to earliest --reason "lost by retention"
    """
    from churn_platform.settings import settings
    from churn_platform.streaming import reset as resetting
    from churn_platform.streaming.config import StreamConfig

    with plain_errors():
        config = StreamConfig.from_settings(settings())
        with resetting.at_rest(config, topic) as connection:
            with Working("Asking Kafka"):
                move = resetting.plan(connection, config, topic=topic, partition=partition, to=to)
            if move is None:
                _say(f"{topic}[{partition}] stands there already; nothing was changed.")
                return
            _say(
                f"Drops offsets {move.position}..{move.end - 1} of {topic}[{partition}]: {move.dropped:,}, of which "
                f"Kafka still holds {move.still_held:,}. Their events are never scored."
            )
            word = yes_drop if yes_drop is not None else typer.prompt("Type the topic's name to drop them")
            if word != topic:
                end(ExitCode.NOT_SO, f"{word!r} is not {topic!r}: nothing was changed.")
            resetting.apply(connection, move, reason=reason)
    _say(f"{topic}[{partition}] goes on at offset {move.end}; stream_skips holds what was dropped, and why.")


def _check_topic(connection: "psycopg.Connection", name: str) -> None:
    """Make sure that a topic is read here, or was: a pause of another one would pause nothing."""
    from churn_platform.settings import settings
    from churn_platform.storage import ledger

    if name != settings().events_topic and not ledger.is_known_topic(connection, name):
        end(
            ExitCode.FAILED,
            f"{name!r} was never read here; EVENTS_TOPIC is {settings().events_topic!r}. Nothing was changed.",
            remedy="Name the topic whose stream you mean, or leave --topic out.",
        )


def _say(sentence: str) -> None:
    output.print(sentence, highlight=False, markup=False, soft_wrap=True)
