"""What `dg launch` and `dagster` say when they are asked for something that is not there: Dagster shows a traceback."""

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

import dagster as dg
from dagster_shared.check import CheckError

COMMANDS: Final = ("dg", "dagster")
ABOUT_KEYS: Final = (
    "The asset's page in Dagster's UI lists its partitions. Batches: 'select batch from stream_batches', such as "
    "20261124T091530123Z. Hours are written 2026-11-24-09:00, days 2026-11-24, in UTC and from STREAM_EPOCH on."
)


def show_plainly() -> None:
    """Let errors about the command line of Dagster's own commands end this process without a traceback."""
    if Path(sys.argv[0]).name not in COMMANDS:
        return
    otherwise = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        problem = _about_the_command_line(error, trace)
        if problem is None:
            otherwise(kind, error, trace)
        else:
            print(f"Error: {problem}", file=sys.stderr)  # noqa: T201  a command's last word

    sys.excepthook = show


def _about_the_command_line(error: BaseException, trace: TracebackType | None) -> str | None:
    """What is wrong and what to do; None for an error that says something about the code."""
    asked_here = any(Path(frame.filename).parts[-3:-1] == ("dagster", "_cli") for frame in traceback.extract_tb(trace))
    if not asked_here:
        return None
    if isinstance(error, dg.DagsterUnknownPartitionError) or "passed partition key" in str(error):
        return f"{error} {ABOUT_KEYS}"
    if isinstance(error, dg.DagsterInvalidSubsetError):
        return f"{error} 'dg list defs' lists assets and jobs."
    if isinstance(error, CheckError):
        said = str(error).removeprefix("Failure condition: ").rstrip(".")
        return f"{said}. {ABOUT_KEYS}" if "artition" in said else f"{said}."
    return None
