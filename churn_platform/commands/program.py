"""The output encoding and the exit code of `churn`, whatever it writes to and whatever error occurs."""

import codecs
import io
import sys
from collections.abc import Sequence
from typing import Any, Final

from typer._click.utils import PacifyFlushWrapper  # what Typer puts before a stdout that nobody reads any more
from typer.core import TyperGroup

from churn_platform.commands.terminal import ExitCode

BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as a shell reports a program that wrote to a reader who had left
IN_ASCII: Final = {"✓": "ok", "✗": "NOT", "…": "..."}
BRAILLE: Final = range(0x2800, 0x2900)  # Rich's spinners


def in_other_characters(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an output's encoding lacks; an error handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(map(_in_ascii, unknown)), error.end


def _in_ascii(character: str) -> str:
    if ord(character) in BRAILLE:
        return "."
    return IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()


codecs.register_error("churn", in_other_characters)


class Program(TyperGroup):
    """The command `churn`. A problem with its output does not change its exit code, except that its reader has left."""

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

        A character that the output's encoding does not have is written in other characters. An error that no command
        knows is a defect of the platform: its traceback ends with FAILED, because CHECK_FAILED is an answer. A reader
        who has left ends it with BROKEN_PIPE.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="churn")
        try:
            return super().main(args, prog_name, complete_var, standalone_mode, windows_expand_args, **extra)
        except SystemExit as end:
            # Typer's help and its errors are printed by a Rich console of its own, which ends with 1 in that case.
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
