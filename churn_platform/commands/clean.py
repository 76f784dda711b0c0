"""`churn clean`: deletes what the platform has made, and nothing else."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.stack import default_stack
from churn_platform.commands.terminal import (
    AsJson,
    ExitCode,
    ProgressReporter,
    complaints,
    emit,
    end,
    output,
    report_errors,
)

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.cleanup.places import Platform
    from churn_platform.operations.cleanup.plan import Item, Kept, Writer


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go and what would stay.")] = False,
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="WORD", help="For scripts: the word that is asked for otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what the platform has made: the stack's folder, files in S3, and in your own servers tables and topics.

    It lists all of it and asks for a word. --json goes with --dry-run or --yes. It is refused with exit code 3 while
    something still writes: 'churn down' first.

    Example: churn clean --dry-run
    """
    if as_json and not dry_run and yes is None:
        end(ExitCode.USAGE, "With --json say --dry-run, or --yes WORD: nothing is asked then.")
    from churn_platform.operations.cleanup.places import Platform
    from churn_platform.settings import load_settings

    with report_errors():
        platform = Platform(default_stack(), load_settings())
        with ProgressReporter("Looking") as report:
            platform.look(report)
            writers = platform.writers()
            if not writers:
                platform.rehearse()  # what a real one would be refused, a dry run is refused, too
        word, items = platform.word, platform.items
        if not as_json:
            _show(items, platform.kept, writers)
        deletes = bool(items and not writers and not dry_run)
        if deletes:
            _confirm(word, yes)
            _remove(platform)
    if as_json:
        told: dict[str, Sequence[Item | Kept | Writer]] = {"delete": items, "keep": platform.kept, "writers": writers}
        listed = {name: [asdict(each) for each in found] for name, found in told.items()}
        emit({"word": word, **listed, "deleted": deletes})
    elif deletes:
        output.print("Deleted. What stays:" if platform.kept else "Deleted; nothing of it is left.")
        output.print(_table([(each.place, each.name, each.reason) for each in platform.kept]))
    if writers:
        raise typer.Exit(ExitCode.IN_USE)


def _remove(platform: "Platform") -> None:
    """Delete, and look what is left."""
    from churn_platform.operations.cleanup.plan import StillWrittenToError

    try:
        with ProgressReporter("Looking") as report:
            platform.remove(report)
            platform.look(report)
    except StillWrittenToError as error:
        end(ExitCode.IN_USE, f"{error} Nothing was deleted.")
    for item in platform.items:
        complaints.print(Text(f"Still there: {item.place}, {item.name}", style="red"), soft_wrap=True)
    if platform.items:
        complaints.print("Run the command again.", style="bold")
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _confirm(word: str, given: str | None) -> None:
    typed = given if given is not None else typer.prompt(f"Type {word} to delete all of it")
    if typed != word:
        end(ExitCode.CHECK_FAILED, f"{typed!r} is not {word!r}: nothing was deleted.")


def _show(items: Sequence["Item"], kept: Sequence["Kept"], writers: Sequence["Writer"]) -> None:
    for title, rows in (
        ("Goes", [(each.place, each.name, each.detail) for each in items]),
        ("Stays", [(each.place, each.name, each.reason) for each in kept]),
    ):
        if rows:
            output.print(Text(title, style="bold"))
            output.print(_table(rows))
    if not items:
        output.print("There is nothing of the platform's to delete.")
    for writer in writers:
        complaints.print(Text(f"First: {writer.remedy}", style="bold"), soft_wrap=True)
        complaints.print(Text(f"Still writes: {writer.name}", style="red"), soft_wrap=True)


def _table(rows: Sequence[tuple[str, str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=style) for cell, style in zip(row, ("dim", "", "dim"), strict=True)))
    return table
