"""`churn clean`: delete what the platform has made, and nothing else."""

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
    confirm_by_word,
    emit,
    end,
    error_console,
    output,
    report_errors,
)

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.operations.cleanup.places import Cleanup
    from churn_platform.operations.cleanup.plan import Item, Kept, Writer


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what will be deleted and kept.")] = False,
    yes: Annotated[
        str | None,
        typer.Option("--yes", metavar="WORD", help="For scripts: the word to confirm with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what the platform has made: the stack's folder, files in S3, and in your own servers tables and topics.

    It lists everything and asks you to type a word before it deletes. --json requires --dry-run or --yes. While
    something still writes, nothing is deleted and the exit code is 3: run 'churn down' first.

    Example: churn clean --dry-run
    """
    if as_json and not dry_run and yes is None:
        end(ExitCode.USAGE, "--json requires --dry-run or --yes WORD, because the command cannot ask.")
    from churn_platform.operations.cleanup.places import Cleanup
    from churn_platform.settings import load_settings

    with report_errors():
        cleanup = Cleanup(default_stack(), load_settings())
        with ProgressReporter("Listing") as report:
            cleanup.collect(report)
            writers = cleanup.writers()
            if not writers:
                cleanup.check_deletable()  # so that a dry run fails where a real one would
        word, items = cleanup.word, cleanup.items
        if not as_json:
            _show(items, cleanup.kept, writers)
        deletes = bool(items and not writers and not dry_run)
        if deletes:
            confirm_by_word(f"Type {word} to delete all of it", word, given=yes, unchanged="nothing was deleted")
            _delete(cleanup)
    if as_json:
        content: dict[str, Sequence[Item | Kept | Writer]] = {"delete": items, "keep": cleanup.kept, "writers": writers}
        listed = {name: [asdict(each) for each in found] for name, found in content.items()}
        emit({"word": word, **listed, "deleted": deletes})
    elif deletes:
        output.print("Deleted. Kept:" if cleanup.kept else "Deleted. Nothing is left.")
        output.print(table_of([(each.place, each.name, each.reason) for each in cleanup.kept]))
    if writers:
        raise typer.Exit(ExitCode.IN_USE)


def _delete(cleanup: "Cleanup") -> None:
    """Delete everything, and report what is left."""
    from churn_platform.operations.cleanup.plan import InUseError

    try:
        with ProgressReporter("Deleting") as report:
            cleanup.delete(report)
            cleanup.collect(report)
    except InUseError as error:
        end(ExitCode.IN_USE, error.problem, remedy=error.remedy)
    for item in cleanup.items:
        error_console.print(Text(f"Not deleted: {item.place}, {item.name}", style="red"), soft_wrap=True)
    if cleanup.items:
        error_console.print("Run the command again.", style="bold")
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _show(items: Sequence["Item"], kept: Sequence["Kept"], writers: Sequence["Writer"]) -> None:
    for title, rows in (
        ("Will delete", [(each.place, each.name, each.detail) for each in items]),
        ("Will keep", [(each.place, each.name, each.reason) for each in kept]),
    ):
        if rows:
            output.print(Text(title, style="bold"))
            output.print(table_of(rows))
    if not items:
        output.print("There is nothing to delete.")
    for writer in writers:
        error_console.print(Text(f"Still writing: {writer.name}", style="red"), soft_wrap=True)
        error_console.print(Text(f"First: {writer.remedy}", style="bold"), soft_wrap=True)


def table_of(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Return a table of places, names and remarks."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=style) for cell, style in zip(row, ("dim", "", "dim"), strict=True)))
    return table
