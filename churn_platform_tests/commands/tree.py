"""The tree of churn's commands, from typer, and the keys of their JSON, from the documentation."""

import re
from collections.abc import Iterator, Sequence

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from churn_platform.cli import app
from churn_platform.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "reference" / "cli-conventions.md").read_text()
KEYS = {
    words: re.findall(r"`(\w+)`", keys)
    for words, keys in re.findall(r"^\| `churn (.+?) --json` \| (.+) \|$", PAGE, flags=re.MULTILINE)
}
"""Keys of a command's JSON, by its words."""

Command = TyperCommand | TyperGroup


def root() -> TyperGroup:
    """Return the command `churn` itself."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def commands(group: TyperGroup | None = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Yield every command and group of commands with the words that name it, `churn` (no words) first."""
    group = group or root()
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            assert isinstance(command, TyperCommand)
            yield (*path, name), command


def parse(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that name the command of a command line. Options and values are parsed; nothing is run.

    Args:
        words: without `churn` itself.

    Raises:
        UsageError: there is no such command or option, or a value is invalid.
    """
    group, path, left = root(), [], list(words)
    while True:
        name, command, left = group.resolve_command(group.make_context("churn", list(left)), left)
        assert command is not None
        path.append(str(name))
        if not isinstance(command, TyperGroup):
            command.make_context(str(name), left)
            return tuple(path)
        if command.invoke_without_command and (not left or left[0].startswith("-")):
            command.make_context(str(name), left)
            return tuple(path)
        group = command
