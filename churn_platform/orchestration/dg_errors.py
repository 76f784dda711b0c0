"""Error messages of `dg launch` and `dagster` for invalid arguments, for which Dagster shows a traceback."""

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

import dagster as dg
from dagster_shared.check import CheckError

COMMANDS: Final = ("dg", "dagster")
KEYS_HINT: Final = (
    "The asset's page in Dagster's UI lists its partitions. Batches: 'select batch from stream_batches', such as "
    "20261124T091530123Z. Hours are written 2026-11-24-09:00, days 2026-11-24, in UTC and from STREAM_EPOCH on."
)


def report_errors() -> None:
    """Report errors in the arguments of Dagster's own commands without a traceback."""
    if Path(sys.argv[0]).name not in COMMANDS:
        return
    default_hook = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        problem = _explain_arguments(error, trace)
        if problem is None:
            default_hook(kind, error, trace)
        else:
            print(f"Error: {problem}", file=sys.stderr)  # noqa: T201  the output of a command

    sys.excepthook = show


def _explain_arguments(error: BaseException, trace: TracebackType | None) -> str | None:
    """Return what is wrong with the arguments and what to do; None for any other error."""
    is_from_cli = any(Path(frame.filename).parts[-3:-1] == ("dagster", "_cli") for frame in traceback.extract_tb(trace))
    if not is_from_cli:
        return None
    if isinstance(error, dg.DagsterUnknownPartitionError) or "passed partition key" in str(error):
        return f"{error} {KEYS_HINT}"
    if isinstance(error, dg.DagsterInvalidSubsetError):
        return f"{error} 'dg list defs' lists assets and jobs."
    if isinstance(error, CheckError):
        text = str(error).removeprefix("Failure condition: ").rstrip(".")
        return f"{text}. {KEYS_HINT}" if "artition" in text else f"{text}."
    return None
