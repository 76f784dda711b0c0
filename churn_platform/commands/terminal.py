"""What all commands share: the two consoles, exit codes, progress, and errors on one screen."""

import errno
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn, Self

import typer
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

PIPED_COLUMNS: Final = 160


class _Console(Console):
    """A console that raises when its reader has closed the pipe. Rich itself would end the program with exit code 1."""

    def __init__(self, *, stderr: bool = False) -> None:
        """Write to stdout, or to stderr."""
        super().__init__(stderr=stderr)
        self._width = None  # Rich has read COLUMNS once; without a fixed width, it reads it at every output

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines. In a file or a pipe Rich assumes 80 columns, which would cut tables off.

        Rich reads the width of a table from here, not from `width`.
        """
        found = super().size
        return found if self.is_terminal else found._replace(width=max(found.width, PIPED_COLUMNS))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "The reader of the output has closed the pipe.")


# Rich uses colours only on a terminal, and not if NO_COLOR is set.
output = _Console()
error_console = _Console(stderr=True)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; docs/reference/cli-conventions.md lists its keys.")
]

# Without a terminal, a stage prints a line only if it takes longer than this, and then again after a while.
QUIET_SECONDS: Final = 2.0
REPEAT_SECONDS: Final = 10.0


class ExitCode(IntEnum):
    """Exit codes; docs/reference/cli-conventions.md documents them."""

    DONE = 0
    """Done, or every check passed."""
    CHECK_FAILED = 1
    """A check failed, or not everything was done: an invariant violated, a server down, a correction refused."""
    USAGE = 2
    """Invalid arguments; nothing was done."""
    IN_USE = 3
    """Refused because something writes: a live stream, the stack or another environment. Nothing was done."""
    FAILED = 4
    """It cannot be done or checked, because of a server, a file, a setting or a missing right."""


def end(code: ExitCode, problem: str, *, remedy: str = "", details: str = "") -> NoReturn:
    """End the command with one screen on stderr: the problem, the remedy and the details."""
    for text, style in ((problem, "red"), (remedy, "bold"), (details, "dim")):
        if text:
            error_console.print(Text(text, style=style), soft_wrap=True)
    raise typer.Exit(code)


def emit(found: Mapping[str, object] | Sequence[object]) -> None:
    """Print JSON. Characters that the output's encoding may lack are escaped."""
    output.print_json(json.dumps(found), ensure_ascii=not output.encoding.lower().startswith("utf"))


@contextmanager
def report_errors() -> Iterator[None]:
    """Show an error that a user can act on and end with its exit code. Other errors pass through."""
    import psycopg
    from confluent_kafka import KafkaException

    from churn_platform.environments.exceptions import EnvironmentConflictError
    from churn_platform.errors import PlatformError
    from churn_platform.operations.exceptions import StreamIsLiveError

    try:
        yield
    except (EnvironmentConflictError, StreamIsLiveError) as error:
        end(ExitCode.IN_USE, error.problem, remedy=error.remedy)
    except PlatformError as error:
        cause = error.__cause__
        remedy = error.remedy or (_postgres_remedy(cause) if isinstance(cause, psycopg.OperationalError) else "")
        end(ExitCode.FAILED, error.problem, remedy=remedy, details=error.details)
    except KafkaException as error:
        end(ExitCode.FAILED, error.args[0].str(), remedy="Is Kafka up? 'churn status' shows the embedded one.")
    except psycopg.OperationalError as error:
        end(ExitCode.FAILED, str(error), remedy=_postgres_remedy(error))
    except psycopg.errors.InsufficientPrivilege as error:
        end(ExitCode.FAILED, f"PostgreSQL refused: {error}", remedy="Give the login of DATABASE_URL the right.")
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn) as error:
        end(
            ExitCode.FAILED,
            f"The database has no schema of this version: {error.diag.message_primary}.",
            remedy="Run 'churn db upgrade'. 'churn settings' shows which database is used.",
        )
    except (psycopg.DataError, UnicodeEncodeError) as error:
        end(ExitCode.FAILED, f"PostgreSQL does not accept a value: {error}")


def _postgres_remedy(error: Exception) -> str:
    """Return what to do about a failed connection. libpq gives the reason only as text."""
    text = str(error)
    if "SSL" in text or "certificate" in text:
        return (
            "Check sslmode and sslrootcert in DATABASE_URL or DATABASE_OWNER_URL, or PGSSLMODE and PGSSLROOTCERT: "
            "verify-full needs the CA that signed the server's certificate, and the host that it names."
        )
    if "password" in text:
        return (
            "Correct the user and the password in DATABASE_URL or DATABASE_OWNER_URL (with special characters "
            "percent-encoded). 'churn settings' shows the host and the user."
        )
    if "does not exist" in text:
        return "Create it in PostgreSQL, or correct DATABASE_URL. 'churn settings' shows its parts."
    return (
        "Is PostgreSQL up? 'churn status' shows the embedded one, 'churn up' starts it; "
        "DATABASE_URL names your own server."
    )


class ProgressReporter:
    """Shows the progress on stderr: a line that changes on a terminal, else a line for each long stage.

    Use it as a context manager, and call it at the start of each stage.
    """

    def __init__(
        self,
        stage: str,
        *,
        total: int | None = None,
        console: Console = error_console,
        quiet_seconds: float = QUIET_SECONDS,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        """Name the first stage.

        Args:
            stage: a short text.
            total: the final count, if it is known; then a bar is shown.
            console: where to show it.
            quiet_seconds: without a terminal, a stage that is shorter prints nothing.
            repeat_seconds: without a terminal, the time between two lines of the same stage.
        """
        self._stage, self._count, self._total = stage, 0, total
        self._console, self._quiet_seconds, self._repeat_seconds = console, quiet_seconds, repeat_seconds
        columns = (BarColumn(bar_width=30), MofNCompleteColumn()) if total else ()
        self._display = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *columns,
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._display.add_task(stage, total=total)
        self._ended = threading.Event()
        self._printer = threading.Thread(target=self._print_lines, daemon=True)

    def __call__(self, stage: str, count: int = 0) -> None:
        """Start a stage, or update its count."""
        self._stage, self._count = stage, count
        if self._console.is_terminal:
            self._display.update(self._task, description=stage if self._total else self._text(), completed=count)

    def __enter__(self) -> Self:
        """Start to show the stage."""
        if self._console.is_terminal:
            self._display.start()
        else:
            self._printer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the line."""
        self._ended.set()
        if self._console.is_terminal:
            self._display.stop()
        else:
            self._printer.join()

    def _text(self) -> str:
        of = f" of {self._total:,}" if self._total else ""
        return f"{self._stage}: {self._count:,}{of}" if self._count else self._stage

    def _print_lines(self) -> None:
        """Print a line for each stage that takes long, and repeat it until the stage ends."""
        printed, at = "", 0.0
        while not self._ended.wait(self._quiet_seconds):
            if self._stage != printed or time.monotonic() - at >= self._repeat_seconds:
                self._console.print(Text(self._text()), soft_wrap=True)
                printed, at = self._stage, time.monotonic()


def confirm_replacing(file: Path) -> None:
    """Ask whether the file may be replaced; end the command if not, or if there is no terminal to ask on."""
    size = f"{file.stat().st_size:,} bytes"
    if not sys.stdin.isatty():
        end(
            ExitCode.FAILED,
            f"{file} already exists ({size}). It was not changed.",
            remedy="Name another file with --output, or replace it with --force.",
        )
    if not typer.confirm(f"{file} already exists ({size}). Replace it?", err=True):
        end(ExitCode.CHECK_FAILED, f"{file} was not changed.")


def confirm_by_word(question: str, word: str, *, given: str | None, unchanged: str = "nothing was changed") -> None:
    """End the command unless this word is typed.

    Args:
        question: asks for the word.
        word: that confirms.
        given: what an option has instead, for scripts; None asks.
        unchanged: what is said about another word.
    """
    typed = given if given is not None else typer.prompt(question)
    if typed != word:
        end(ExitCode.CHECK_FAILED, f"{typed!r} is not {word!r}: {unchanged}.")


def duration(seconds: float | None) -> str:
    """Return a number of seconds as text, "" for None."""
    if seconds is None:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"


def printable(text: str) -> str:
    """Return the text with unprintable characters escaped, so that it cannot control a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )
