"""`churn clean`: deletes what the platform has made, and nothing else."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from churn_platform.commands.stack import the_stack
from churn_platform.commands.terminal import complaints, output, plain_errors

if TYPE_CHECKING:  # Kafka's client is slow to import
    from churn_platform.clean.places import Platform
    from churn_platform.clean.plan import Item, Kept, Report, Writer

STILL_WRITTEN_TO: Final = 3


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go and what would stay.")] = False,
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="WORD", help="For scripts: the word that is asked for otherwise.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs, with --dry-run or --yes: what goes, stays and still writes.")
    ] = False,
) -> None:
    """Delete what the platform has made: the stack's folder, files in S3, and in your own servers tables and topics.

    It lists all of it and asks for a word. It is refused while something still writes: 'churn down' first. Exit code 0:
    done, or nothing to do; 1: not done; 2: wrong use; 3: something still writes.

    Example: churn clean --dry-run
    """
    if as_json and not dry_run and yes is None:
        complaints.print("With --json say --dry-run, or --yes WORD: nothing is asked then.", style="red")
        raise typer.Exit(2)
    from churn_platform.clean.places import Platform
    from churn_platform.settings import load_settings

    with plain_errors():
        platform = Platform(the_stack(), load_settings())
        with _reporting() as report:
            platform.look(report)
            writers = platform.writers()
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
        output.print_json(json.dumps({"word": word, **listed, "deleted": deletes}))
    elif deletes:
        output.print("Deleted. What stays:" if platform.kept else "Deleted; nothing of it is left.")
        output.print(_table([(each.place, each.name, each.reason) for each in platform.kept]))
    if writers:
        raise typer.Exit(STILL_WRITTEN_TO)


def _remove(platform: "Platform") -> None:
    """Delete, and look what is left."""
    from churn_platform.clean.plan import StillWrittenToError

    try:
        with _reporting() as report:
            platform.remove(report)
            platform.look(report)
    except StillWrittenToError as error:
        complaints.print(Text(f"{error} Nothing was deleted.", style="red"), soft_wrap=True)
        raise typer.Exit(STILL_WRITTEN_TO) from error
    for item in platform.items:
        complaints.print(Text(f"Still there: {item.place}, {item.name}", style="red"), soft_wrap=True)
    if platform.items:
        complaints.print("Run the command again.", style="bold")
        raise typer.Exit(1)


def _confirm(word: str, given: str | None) -> None:
    typed = given if given is not None else typer.prompt(f"Type {word} to delete all of it")
    if typed != word:
        complaints.print(Text(f"{typed!r} is not {word!r}: nothing was deleted.", style="red"), soft_wrap=True)
        raise typer.Exit(1)


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


@contextmanager
def _reporting() -> Iterator["Report"]:
    """Show on stderr what is being done: one line that changes on a terminal, nothing elsewhere."""
    with complaints.status("Looking") as status:
        yield status.update
