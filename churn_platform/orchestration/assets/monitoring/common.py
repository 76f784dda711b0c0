"""Code that the monitoring assets share: group, owner, periods, check results, frames. It defines no asset."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import dagster as dg
import pandas as pd

from churn_platform.monitoring import pruning
from churn_platform.monitoring.verdicts import Verdict
from churn_platform.orchestration.assets.ui_metadata import Metadata
from churn_platform.settings import settings

SESSION: Final = "churn monitoring"
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
SEVERITY: Final = {Verdict.SHIFTED: dg.AssetCheckSeverity.WARN, Verdict.FAR: dg.AssetCheckSeverity.ERROR}


class GroupArguments(TypedDict):
    """Arguments that all assets of the group have in common."""

    group_name: str
    owners: list[str]


MONITORING: Final = GroupArguments(group_name="monitoring", owners=["team:ml-platform"])


def verdict_result(check: str, verdict: Verdict, description: str, metadata: Metadata) -> dg.AssetCheckResult:
    """Return a check's result: SHIFTED warns, FAR fails, any other verdict passes."""
    return dg.AssetCheckResult(
        check_name=check,
        passed=verdict not in SEVERITY,
        severity=SEVERITY.get(verdict, dg.AssetCheckSeverity.WARN),
        description=description,
        metadata=metadata,
    )


def period_starts(window: dg.TimeWindow, length: timedelta) -> list[datetime]:
    """Return the hours or days that start in a window, UTC."""
    start = window.start.astimezone(UTC)
    return [start + number * length for number in range(round((window.end.astimezone(UTC) - start) / length))]


def frame_of(rows: Sequence[Mapping[str, Any]], key: str) -> pd.DataFrame:
    """Return rows as a frame; without rows, an empty frame that has the key column."""
    return pd.DataFrame(list(rows)) if rows else pd.DataFrame({key: []})


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def complete_since() -> datetime:
    """Return the start of the first day of which no predictions have been archived or deleted."""
    return pruning.complete_since(
        datetime.now(UTC), archive_days=settings().lifecycle.archive_days, batch_seconds=settings().stream.batch_seconds
    )


def unchanged_note(*, is_unchanged: bool) -> Metadata:
    """Return the note on a partition whose rows were left unchanged; nothing for the others."""
    note = "Some of the data behind these figures has been archived or deleted, so the figures stay as they were."
    return {"note": note} if is_unchanged else {}
