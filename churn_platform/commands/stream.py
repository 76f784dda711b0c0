"""`churn stream`: pause and resume the stream, move its position, recreate its topic, take it over."""

from typing import TYPE_CHECKING, Annotated

import typer

from churn_platform.commands.moves import YesDrop, confirm_move, report_move
from churn_platform.commands.stack import default_stack, servers_up
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    confirm_by_word,
    emit,
    end,
    output,
    report_errors,
)
from churn_platform.database.connections import connect

if TYPE_CHECKING:  # takes a moment to import
    import psycopg

app = typer.Typer(no_args_is_help=True)

Topic = Annotated[str | None, typer.Option(help="Events topic. Default: EVENTS_TOPIC.")]


@app.callback()
def _stream() -> None:
    """Pause and resume the stream, skip offsets, or take a stream over from another environment.

    Example: churn stream pause
    """


@app.command()
def pause(topic: Topic = None, as_json: AsJson = False) -> None:
    """Pause the stream. Until it is resumed, no event is read; the events stay in Kafka.

    Example: churn stream pause
    """

    from churn_platform.database import advisory_locks, stream_pauses
    from churn_platform.settings import settings

    with report_errors(), ProgressReporter("Connecting to PostgreSQL"):
        name = topic or settings().topics.events
        with connect(settings().postgres_dsn, autocommit=True, application_name="churn pause") as connection:
            _check_topic(connection, name)
            before = stream_pauses.paused_since(connection, name)
            stream_pauses.pause(connection, name)
            holder, _ = advisory_locks.lock_sessions(connection, name)
    live = holder is not None and holder.startswith(advisory_locks.SESSION_PREFIX)
    if as_json:
        emit({"topic": name, "changed": before is None, "live": live})
    elif before is not None:
        _print(f"{name} is already paused, since {before:%Y-%m-%d %H:%M:%S %Z}.")
    elif not live:
        other = "" if holder is None else f" {holder or 'A session without a name'!r} holds the stream's lock."
        _print(f"{name} is paused. No run is live, and none is launched until 'churn stream resume'.{other}")
    else:
        _print(
            f"{name} is paused. Live runs end after their current commit, within about 5 s, and commit "
            f"and publish all that they have read. None is launched until 'churn stream resume'."
        )


@app.command()
def resume(topic: Topic = None, as_json: AsJson = False) -> None:
    """Resume a paused stream where it stopped.

    Example: churn stream resume
    """

    from churn_platform.database import stream_pauses
    from churn_platform.settings import settings

    with report_errors(), ProgressReporter("Connecting to PostgreSQL"):
        name = topic or settings().topics.events
        with connect(settings().postgres_dsn, autocommit=True, application_name="churn resume") as connection:
            _check_topic(connection, name)
            was_paused = stream_pauses.resume(connection, name)
    if as_json:
        emit({"topic": name, "changed": was_paused})
    elif was_paused:
        _print(
            f"{name} is resumed. If events are unread, the sensor launches a run at its next tick, within about 5 s."
        )
    else:
        _print(f"{name} is not paused; nothing was changed.")


@app.command()
def reset(
    topic: Annotated[str, typer.Option(help="Events topic.")],
    partition: Annotated[int, typer.Option(min=0, help="Kafka partition.")],
    to: Annotated[str, typer.Option(help="Offset to continue at, earliest (the oldest that Kafka holds) or latest.")],
    reason: Annotated[str, typer.Option(help="The reason; recorded with the move.")] = "accepted by hand",
    yes_drop: YesDrop = None,
) -> None:
    """Move the stream's position in one Kafka partition forward. The offsets in between are never read.

    It shows what it drops and asks for the topic's name. The stream must be paused ('churn stream pause'); while a run
    is live, the exit code is 3.

    Example: churn stream reset --topic customer-events --partition 0 --to earliest --reason "lost by retention"
    """
    from churn_platform.operations import reset as stream_reset
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    with report_errors():
        config = StreamConfig.from_settings(settings())
        with stream_reset.hold_stream_lock(config, topic) as connection:
            with ProgressReporter("Reading Kafka"):
                move = stream_reset.plan(connection, config, topic=topic, partition=partition, to=to)
            if move is None:
                _print(f"{topic}[{partition}] is already at that offset; nothing was changed.")
                return
            confirm_move(move, yes_drop, records="Events", loss="are never scored")
            stream_reset.apply(connection, move, reason=reason)
    report_move(move, skips="stream_skips")


@app.command()
def recreate_topic(
    topic: Annotated[str, typer.Option(help="Events topic.")],
    yes_delete: Annotated[
        str | None,
        typer.Option("--yes-delete", metavar="TOPIC", help="For scripts: the topic's name, instead of a prompt."),
    ] = None,
) -> None:
    """Delete an events topic that the platform created, with its events, and create it again, empty.

    Use it for a log that lost its end, for example after a power failure. The stream refuses to read such a log,
    because new events get the offsets of events that were already read. Predictions stay. Unread events are lost and
    have to be sent again. It asks for the topic's name; the stream must be paused ('churn stream pause').

    Example: churn stream recreate-topic --topic customer-events
    """
    from churn_platform.operations import reset as stream_reset
    from churn_platform.settings import settings
    from churn_platform.stream.config import StreamConfig

    with report_errors():
        config = StreamConfig.from_settings(settings())
        embedded = "kafka" in default_stack().embedded
        with stream_reset.hold_stream_lock(config, topic) as connection:
            with ProgressReporter("Reading Kafka"):
                stream_reset.require_recreatable(connection, config, topic=topic, kafka_is_embedded=embedded)
            question = f"Deletes {topic} with all events in it. Type the topic's name to delete it"
            confirm_by_word(question, topic, given=yes_delete)
            with ProgressReporter("Deleting and creating the topic"):
                created = stream_reset.recreate_topic(connection, config, topic=topic, kafka_is_embedded=embedded)
    _print(f"{topic} is empty, with the new id {created.topic_id}. The stream reads it from its beginning.")


@app.command("take-over")
def take_over(
    yes: Annotated[
        str | None,
        typer.Option("--yes", metavar="WORD", help="For scripts: the confirmation word, instead of a prompt."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take PREDICTIONS_TOPIC, STREAM_GROUP and the database over from another environment, which is refused afterwards.

    Use it if the other environment will not run again, if its database was lost or recreated, if this database's own
    settings were changed on purpose, or if Kafka was replaced. Stop the other environment first: the exit code is 3
    while it publishes. What it has published stays in the topic. Events that this environment also reads are published
    again.

    Example: churn stream take-over
    """
    from churn_platform.environments.environment_guard import EnvironmentGuard
    from churn_platform.kafka import clients
    from churn_platform.settings import load_settings
    from churn_platform.stream.config import StreamConfig

    if as_json and yes is None:
        end(ExitCode.USAGE, "--json requires --yes WORD, because the command cannot ask.")
    with report_errors(), servers_up("kafka", "postgres"):
        config = StreamConfig.from_settings(load_settings())
        with (
            connect(config.dsn, autocommit=True, application_name="churn take-over") as connection,
            EnvironmentGuard(connection, clients.admin(config.kafka.client), config) as guard,
        ):
            with ProgressReporter("Reading Kafka and PostgreSQL"):
                conflicts = guard.conflicts()
            if conflicts:
                if not as_json:
                    for conflict in conflicts:
                        _print(conflict.problem)
                word = conflicts[0].holder
                confirm_by_word(f"Type {word} to take over", word, given=yes)
                guard.take_over()
    if as_json:
        emit({"taken_over": [conflict.problem for conflict in conflicts]})
    elif conflicts:
        _print(
            f"Taken over: this environment now publishes to {config.predictions_topic!r} as {config.kafka.group!r}. "
            f"Start it: 'churn up'."
        )
    else:
        _print("No other environment claims what this one writes to; nothing was changed.")


def _check_topic(connection: "psycopg.Connection", name: str) -> None:
    """End the command if the topic is not and never was read here, because a pause would have no effect."""
    from churn_platform.database import stream_positions
    from churn_platform.settings import settings

    if name != settings().topics.events and not stream_positions.is_known_topic(connection, name):
        end(
            ExitCode.FAILED,
            f"{name!r} was never read here; EVENTS_TOPIC is {settings().topics.events!r}. Nothing was changed.",
            remedy="Name a topic that the stream reads, or omit --topic.",
        )


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
