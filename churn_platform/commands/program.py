"""The output encoding and the exit code of `churn`, whatever it writes to and whatever error occurs."""

import codecs
import io
import sys
from collections.abc import Sequence
from typing import Any, Final

from typer._click.utils import PacifyFlushWrapper  # what Typer puts around a stdout whose reader has closed the pipe
from typer.core import TyperGroup

from churn_platform.commands.terminal import ExitCode

BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as a shell reports a program that wrote to a closed pipe
IN_ASCII: Final = {"✓": "ok", "✗": "NOT", "…": "..."}
BRAILLE: Final = range(0x2800, 0x2900)  # Rich's spinners


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an output's encoding lacks; an error handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(map(_in_ascii, unknown)), error.end


def _in_ascii(character: str) -> str:
    if ord(character) in BRAILLE:
        return "."
    return IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()


codecs.register_error("churn", replace_unencodable)


class Program(TyperGroup):
    """The command `churn`. Only a closed pipe changes its exit code; other problems with its output do not."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line.

        Characters that the output's encoding lacks are replaced. An unexpected error is a defect of the platform: it
        prints a traceback and the exit code is FAILED, because CHECK_FAILED would be the result of a check. If the
        reader of the output has closed the pipe, the exit code is BROKEN_PIPE.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="churn")
        try:
            return super().main(args, prog_name, complete_var, standalone_mode, windows_expand_args, **extra)
        except SystemExit as end:
            # Typer prints its help and errors with its own Rich console, which exits with 1 in that case.
            if isinstance(sys.stdout, PacifyFlushWrapper) or isinstance(end.__context__, BrokenPipeError):
                raise SystemExit(BROKEN_PIPE) from end
            raise
        except (
            Exception
        ):  # a defect: its traceback is for a report, and its exit code must not be that of a failed check
            if not standalone_mode:
                raise
            sys.excepthook(*sys.exc_info())
            raise SystemExit(ExitCode.FAILED) from None
