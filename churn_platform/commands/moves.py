"""What commands say about a position that moves forward over offsets. The moves themselves are in operations/."""

from typing import TYPE_CHECKING, Annotated

import typer

from churn_platform.commands.terminal import confirm_by_word, output

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.reset import Move

YesDrop = Annotated[
    str | None, typer.Option("--yes-drop", metavar="TOPIC", help="For scripts: the topic's name, instead of a prompt.")
]


def confirm_move(move: "Move", given: str | None, *, records: str, loss: str) -> None:
    """Show what is dropped, and end the command unless the topic's name is typed.

    Args:
        move: the plan.
        given: the topic's name, if the command line has it; None asks.
        records: what the topic holds, such as "Outcomes".
        loss: what never happens to those that are dropped, such as "never count".
    """
    if move.truncated:
        _print(
            f"The log of {move.topic}[{move.kafka_partition}] was truncated below {move.position} and has grown past "
            f"it. {records} that it holds below {move.end} and that were not read before {loss}."
        )
    if move.dropped:
        _print(
            f"Drops offsets {move.position}..{move.end - 1} of {move.topic}[{move.kafka_partition}]: {move.dropped:,}, "
            f"of which Kafka still holds {move.still_held:,}. Their {records.lower()} {loss}."
        )
    confirm_by_word("Type the topic's name to drop them", move.topic, given=given)


def report_move(move: "Move", *, skips: str) -> None:
    """Print where the position is now, and which tables record why.

    Args:
        move: that was made.
        skips: name of the table of skipped offsets.
    """
    kept = " and ".join(table for table, holds in (("log_truncations", move.truncated), (skips, move.dropped)) if holds)
    place = f"{move.topic}[{move.kafka_partition}]"
    _print(f"{place} continues at offset {move.end}; {kept} records what was dropped, and why.")


def _print(text: str) -> None:
    output.print(text, highlight=False, markup=False, soft_wrap=True)
