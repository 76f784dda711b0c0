"""What the commands share: the two consoles, exit codes, progress, and errors on one screen."""

import errno
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Final, NoReturn, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

PIPED_COLUMNS: Final = 160


class _Console(Console):
    """A console that leaves it to the program how to end when its reader has left: Rich itself would end it with 1."""

    @property
    def width(self) -> int:
        """Columns of a line. A file or a pipe has no edge: at Rich's 80 columns, tables would lose what they hold."""
        found = super().width
        return found if self.is_terminal else max(found, PIPED_COLUMNS)

    @width.setter
    def width(self, columns: int) -> None:
        self._width = columns

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "The reader of the output has left.")


# Rich colours neither what is no terminal nor, with NO_COLOR in the environment, a terminal.
output = _Console()
complaints = _Console(stderr=True)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; docs/reference/cli-conventions.md lists its keys.")
]

# Where lines stay, what ends sooner says nothing, and what goes on says so again after a while.
QUIET_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 10.0


class ExitCode(IntEnum):
    """How a command ends; docs/reference/cli-conventions.md says the same to its readers."""

    DONE = 0
    """Done, or what was asked about is so."""
    CHECK_FAILED = 1
    """What was asked about is not so, or not all was done: a law is broken, a server down, a correction refused."""
    USAGE = 2
    """The command line means nothing; nothing was done."""
    IN_USE = 3
    """Refused, because something writes: a live stream, the stack, another environment. Nothing was done."""
    FAILED = 4
    """It cannot be done or found out: a server, a file, a setting or a right is in the way."""


def end(code: ExitCode, problem: str, *, remedy: str = "", details: str = "") -> NoReturn:
    """End the command with one screen on stderr: what to do, what is wrong, and what helps to understand it."""
    for text, style in ((remedy, "bold"), (problem, "red"), (details, "dim")):
        if text:
            complaints.print(Text(text, style=style), soft_wrap=True)
    raise typer.Exit(code)


def emit(found: Mapping[str, object] | Sequence[object]) -> None:
    """Print for programs, as JSON; characters that the output's encoding may not have are escaped as JSON does."""
    output.print_json(json.dumps(found), ensure_ascii=not output.encoding.lower().startswith("utf"))


@contextmanager
def report_errors() -> Iterator[None]:
    """Show an error that a user can do something about on one screen, and end with its code; let others through."""
    import psycopg
    from confluent_kafka import KafkaException

    from churn_platform.errors import PlatformError
    from churn_platform.files.exceptions import ArtifactNotFoundError, ArtifactStoreError
    from churn_platform.local.errors import StackError
    from churn_platform.operations.cleanup.plan import CleanError
    from churn_platform.stream.exceptions import EnvironmentConflictError, StreamIsLiveError

    try:
        yield
    except (EnvironmentConflictError, StreamIsLiveError) as error:
        end(ExitCode.IN_USE, error.problem, remedy=error.remedy)
    except PlatformError as error:
        cause = error.__cause__
        remedy = error.remedy or (_about_postgres(cause) if isinstance(cause, psycopg.OperationalError) else "")
        end(ExitCode.FAILED, error.problem, remedy=remedy)
    except StackError as error:
        end(ExitCode.FAILED, error.problem, remedy=error.remedy, details=error.details)
    except ArtifactStoreError as error:
        end(ExitCode.FAILED, error.problem, remedy=error.remedy)
    except (ArtifactNotFoundError, CleanError) as error:
        end(ExitCode.FAILED, str(error))
    except KafkaException as error:
        end(ExitCode.FAILED, error.args[0].str(), remedy="Is Kafka up? 'churn status' shows the embedded one.")
    except psycopg.OperationalError as error:
        end(ExitCode.FAILED, str(error), remedy=_about_postgres(error))
    except psycopg.errors.InsufficientPrivilege as error:
        end(ExitCode.FAILED, f"PostgreSQL refused: {error}", remedy="Give the login of DATABASE_URL the right.")
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn) as error:
        end(
            ExitCode.FAILED,
            f"The database has no schema of this version: {error.diag.message_primary}.",
            remedy="Run 'churn db upgrade'. 'churn settings' shows which database is meant.",
        )
    except (psycopg.DataError, UnicodeEncodeError) as error:
        end(ExitCode.FAILED, f"PostgreSQL cannot take a value that was given: {error}")


def _about_postgres(error: Exception) -> str:
    """What to do about a PostgreSQL that does not let in; libpq says why in words alone."""
    said = str(error)
    if "password" in said:
        return (
            "Correct the user and the password in DATABASE_URL or DATABASE_OWNER_URL (what is special in a password is "
            "percent-encoded). 'churn settings' shows which host and user are meant."
        )
    if "does not exist" in said:
        return "Create it in PostgreSQL, or correct DATABASE_URL. 'churn settings' shows what is meant."
    return (
        "Is PostgreSQL up? 'churn status' shows the embedded one, 'churn up' starts it; "
        "DATABASE_URL names one of your own."
    )


class ProgressReporter:
    """What is being done, on stderr: a line that changes on a terminal; elsewhere a line once something takes long.

    Used as a context manager, and told of each stage by being called.
    """

    def __init__(self, stage: str, *, total: int | None = None) -> None:
        """Name the first stage.

        Args:
            stage: in a few words.
            total: how many of something the whole will be, if that is known; a bar is shown then.
        """
        self._stage, self._count, self._total = stage, 0, total
        columns = (BarColumn(bar_width=30), MofNCompleteColumn()) if total else ()
        self._display = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *columns,
            TimeElapsedColumn(),
            console=complaints,
            transient=True,
        )
        self._task = self._display.add_task(stage, total=total)
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def __call__(self, stage: str, count: int = 0) -> None:
        """Take note of a stage, and of how many of something are done in it."""
        self._stage, self._count = stage, count
        if complaints.is_terminal:
            self._display.update(self._task, description=stage if self._total else self._said(), completed=count)

    def __enter__(self) -> Self:
        """Begin to show."""
        if complaints.is_terminal:
            self._display.start()
        else:
            self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a terminal as it was."""
        self._ended.set()
        if complaints.is_terminal:
            self._display.stop()
        else:
            self._teller.join()

    def _said(self) -> str:
        of = f" of {self._total:,}" if self._total else ""
        return f"{self._stage}: {self._count:,}{of}" if self._count else self._stage

    def _tell(self) -> None:
        """Write lines where they stay: one for a stage that lasts, and one now and then while it goes on."""
        told, at = "", 0.0
        while not self._ended.wait(QUIET_SECONDS):
            if self._stage != told or time.monotonic() - at >= AGAIN_SECONDS:
                complaints.print(Text(self._said()), soft_wrap=True)
                told, at = self._stage, time.monotonic()


def duration(seconds: float | None) -> str:
    """A number of seconds for a person, "" for None."""
    if seconds is None:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
