"""The page about data quality: what could not be scored, missing values, freshness and failed checks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg

from churn_platform.dashboard.charts import Axis, Bound, Chart, Heading, Series, line_chart
from churn_platform.dashboard.exceptions import NotFoundError
from churn_platform.dashboard.formats import duration, label, number, percent
from churn_platform.dashboard.model_charts import ROOM, names_of
from churn_platform.dashboard.page import Page, View, Visit
from churn_platform.database import (
    dead_letter_events,
    model_references,
    model_versions,
    operator_conditions,
    stored_outcomes,
    stream_lag,
)
from churn_platform.database.model_references import StoredFeature
from churn_platform.database.operator_conditions import StoredCondition
from churn_platform.database.pages import quality as reading
from churn_platform.database.pages.quality import Freshness, Hour, Rates
from churn_platform.database.stream_lag import StreamLag
from churn_platform.monitoring.verdicts import (
    DEAD_LETTER_RATE,
    MISSING_RATE_INCREASE,
    OUT_OF_RANGE_RATE,
    SCORE,
    Verdict,
    rate_verdict,
)

REFRESH_SECONDS: Final = 60
PERIODS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
}
MOST_LISTED: Final = 50
MOST_REFUSED: Final = 10
MOST_PAYLOAD: Final = 4_000
"""Bytes of a message that its page shows."""
SMALL_GROUP: Final = 30
"""With fewer predictions, rates are mostly chance."""
SILENT: Final = timedelta(seconds=60)
SLOW_COMMIT: Final = timedelta(minutes=5)
"""If events wait and none was read for this long, the page says so."""
MOST_DIRTY_HOURS: Final = 2
"""The present hour and the one before may have no metrics yet. More hours mean that metrics are not computed."""
CHECK_FAILED: Final = "check-failed"
_RUN: Final = re.compile(r"run ([0-9a-f-]{36})")


@dataclass(frozen=True)
class ColumnRates:
    """The rates of a column on the latest day, beside those of the day before and of the training data, 0..1."""

    name: str
    description: str
    predictions: float
    missing: float
    missing_before: float | None
    missing_in_training: float | None
    missing_verdict: Verdict
    out_of_range: float
    out_of_range_before: float | None
    out_of_range_verdict: Verdict


@dataclass(frozen=True)
class Source:
    """How current a part of the platform is.

    Attributes:
        name: of the part.
        latest: the time or the UTC day of its latest data; None if there is none.
        note: what else there is to say.
        is_late: whether something is wrong.
        asset: the Dagster asset with the details; empty if there is none.
    """

    name: str
    latest: datetime | date | None
    note: str
    is_late: bool = False
    asset: str = ""

    @property
    def is_day(self) -> bool:
        """Whether `latest` is a day."""
        return not isinstance(self.latest, datetime)


@dataclass(frozen=True)
class FailedCheck:
    """An asset check that failed as an error: the worker reports it as an operator condition."""

    check: str
    asset: str
    began: datetime
    run: str


def read(visit: Visit, connection: psycopg.Connection) -> View:
    """Return what is wrong with the data, and how current they are."""
    period = visit.choice("period", [*PERIODS], "24h")
    since = visit.now - PERIODS[period][1]
    hours = reading.hours(connection, since=since)
    kinds = reading.kinds(connection, since=since)
    kind = visit.choice("kind", [each.kind for each in kinds], "")
    counted = sum(each.dead_letters for each in kinds)
    dead_letters = max(sum(each.dead_letters for each in hours), counted)
    events = sum(each.predictions for each in hours) + dead_letters
    share = dead_letters / events if events else None
    refused = stored_outcomes.refused_since(connection, since)
    rates, compared = _rates(visit, connection)
    lag = stream_lag.latest(connection)
    sources = _sources(reading.freshness(connection), lag, visit.now)
    conditions = operator_conditions.open_conditions(connection)
    checks = [_failed_check(each) for each in conditions if each.name == CHECK_FAILED]
    late = [each.name for each in sources if each.is_late]
    return View(
        "quality.html.j2",
        "Data quality",
        {
            "period": period,
            "periods": [(name, text) for name, (text, _) in PERIODS.items()],
            "period_text": PERIODS[period][0].lower(),
            "dead_letters": dead_letters,
            "states": {
                "open": sum(each.open for each in kinds),
                "retried": sum(each.retried for each in kinds),
                "resolved": sum(each.resolved for each in kinds),
            },
            "events": events,
            "share": share,
            "share_verdict": None if share is None else rate_verdict(share, DEAD_LETTER_RATE),
            "share_bounds": DEAD_LETTER_RATE,
            "hours_chart": _hours_chart(hours, since, visit.now),
            "kinds": kinds,
            "counted": counted,
            "kind": kind,
            "listed": reading.of_kind(connection, kind, since=since, limit=MOST_LISTED) if kind else [],
            "most_listed": MOST_LISTED,
            "kind_address": lambda value: visit.address("/quality", kind=value) + "#listed",
            "refused": [*refused.items()][:MOST_REFUSED],
            "refused_total": sum(refused.values()),
            "rates": rates,
            "compared": compared,
            "missing_bounds": MISSING_RATE_INCREASE,
            "out_of_range_bounds": OUT_OF_RANGE_RATE,
            "small_group": SMALL_GROUP,
            "sources": sources,
            "checks": checks,
            "worker_is_silent": _is_silent(lag, visit.now),
            "quarantined_share": visit.schema.largest_quarantined_share,
            "problems": _problems(share, rates, late, checks),
        },
        refresh=REFRESH_SECONDS,
    )


def read_dead_letter(visit: Visit, connection: psycopg.Connection) -> View:
    """Return one dead letter. Its payload is shown to viewers alone: it holds whatever somebody has sent.

    Raises:
        NotFoundError: there is none at this place.
    """
    place = visit.place
    partition, offset = int(place["partition"]), int(place["offset"])
    found = dead_letter_events.find_at(connection, partition=partition, offset=offset, topic_id=place["topic"])
    if not found:
        raise NotFoundError(f"There is no dead letter at offset {offset} of partition {partition}.")
    (dead_letter,) = found
    is_shown = not visit.hides_controls
    return View(
        "dead_letter.html.j2",
        "Dead letter",
        {
            "dead_letter": dead_letter,
            "is_shown": is_shown,
            "payload": _text_of(dead_letter.payload) if is_shown else None,
            "size": None if dead_letter.payload is None else len(dead_letter.payload),
            "most_payload": MOST_PAYLOAD,
        },
    )


def _text_of(payload: bytes | None) -> str | None:
    """Return the beginning of a message as text; bytes that are not UTF-8 as escapes. None for a tombstone."""
    return None if payload is None else payload[:MOST_PAYLOAD].decode(errors="backslashreplace")


def _problems(
    share: float | None, rates: Sequence[ColumnRates], late: Sequence[str], checks: Sequence[FailedCheck]
) -> list[str]:
    """Return what is wrong, as sentences."""
    found = []
    if share is not None and share >= DEAD_LETTER_RATE[0]:
        found.append(f"{percent(share)} of the events are dead letters; usual is below {percent(DEAD_LETTER_RATE[0])}.")
    missing = [each.name for each in rates if each.missing_verdict in (Verdict.SHIFTED, Verdict.FAR)]
    if missing:
        found.append(f"More values than in training are missing in {', '.join(missing)}.")
    outside = [each.name for each in rates if each.out_of_range_verdict in (Verdict.SHIFTED, Verdict.FAR)]
    if outside:
        found.append(f"Values that the training data does not have are frequent in {', '.join(outside)}.")
    if late:
        found.append(f"Not up to date: {', '.join(late)}.")
    if checks:
        found.append(f"{number(len(checks))} asset {'check fails' if len(checks) == 1 else 'checks fail'}.")
    return found


def _hours_chart(hours: Sequence[Hour], since: datetime, now: datetime) -> Chart:
    known = {each.hour.astimezone(UTC): each for each in hours}
    first = since.replace(minute=0, second=0, microsecond=0)
    every = [first + timedelta(hours=each) for each in range(int((now - first) / timedelta(hours=1)) + 1)]
    shares = [_share(known.get(each)) for each in every]
    worst = max((each for each in shares if each is not None), default=None)
    summary = (
        "Nothing was read."
        if worst is None
        else f"In the worst hour {percent(worst, 2)} of the events were dead letters."
    )
    return line_chart(
        Heading("dead-letters", "Dead letters by hour", summary),
        every,
        [Series("Share of the events", shares, "bad")],
        x_title="Hour",
        y=Axis("share of the events", ticks=".1%", digits=4, range=(0, ROOM * max(worst or 0, DEAD_LETTER_RATE[0]))),
        bounds=[Bound(DEAD_LETTER_RATE[0], f"check warns from {percent(DEAD_LETTER_RATE[0], 0)}", "third")],
    )


def _share(hour: Hour | None) -> float | None:
    """Return the share of dead letters, 0..1; None if nothing was read."""
    total = 0 if hour is None else hour.predictions + hour.dead_letters
    return None if hour is None or not total else hour.dead_letters / total


# Missing and out-of-range values


def _rates(visit: Visit, connection: psycopg.Connection) -> tuple[list[ColumnRates], tuple[date, date | None] | None]:
    """Return the rates of each column, the worst first, and the days: the latest, and the one before."""
    found = reading.rates(connection)
    days = sorted({each.date for each in found}, reverse=True)
    if not days:
        return [], None
    before = {each.feature: each for each in found if each.date != days[0]}
    champion = model_versions.champion(connection)
    reference = {} if champion is None else model_references.find(connection, [champion.version])
    training = reference.get(champion.version, {}) if champion is not None else {}
    rows = [
        _column_rates(visit, each, before.get(each.feature), training.get(each.feature))
        for each in found
        if each.date == days[0] and each.feature != SCORE
    ]
    order = [Verdict.FAR, Verdict.SHIFTED, Verdict.STABLE, Verdict.TOO_FEW]
    rows.sort(key=lambda each: min(order.index(each.missing_verdict), order.index(each.out_of_range_verdict)))
    return rows, (days[0], days[1] if len(days) > 1 else None)


def _column_rates(visit: Visit, now: Rates, before: Rates | None, reference: StoredFeature | None) -> ColumnRates:
    column = visit.schema.by_name.get(now.feature)
    counts = [] if reference is None else reference["counts"]
    in_training = counts[-1] / sum(counts) if sum(counts) else None
    is_small = now.predictions < SMALL_GROUP
    increase = now.missing_rate - (in_training or 0.0)
    return ColumnRates(
        name=names_of(visit.schema).get(now.feature, label(now.feature)),
        description="" if column is None else column.description,
        predictions=now.predictions,
        missing=now.missing_rate,
        missing_before=None if before is None else before.missing_rate,
        missing_in_training=in_training,
        missing_verdict=Verdict.TOO_FEW if is_small else rate_verdict(increase, MISSING_RATE_INCREASE),
        out_of_range=now.out_of_range_rate,
        out_of_range_before=None if before is None else before.out_of_range_rate,
        out_of_range_verdict=Verdict.TOO_FEW if is_small else rate_verdict(now.out_of_range_rate, OUT_OF_RANGE_RATE),
    )


# Freshness


def _sources(found: Freshness, lag: StreamLag | None, now: datetime) -> list[Source]:
    waiting = None if lag is None else lag.waiting
    idle = found.last_commit is None or now - found.last_commit > SLOW_COMMIT
    is_stalled = bool(waiting) and idle
    drift_is_late = found.metrics_day is not None and (
        found.drift_day is None or found.metrics_day - found.drift_day > timedelta(days=1)
    )
    live_is_late = found.last_outcome is not None and (
        found.live_day is None or found.last_outcome.astimezone(UTC).date() - found.live_day > timedelta(days=1)
    )
    return [
        Source(
            "Stream",
            found.last_commit,
            f"{number(waiting)} events wait" if waiting is not None else "the lag is not known",
            is_stalled,
            "churn_predictions",
        ),
        Source(
            "Hourly metrics",
            found.metrics_hour,
            f"{number(found.dirty_hours)} hours are not up to date" if found.dirty_hours > 1 else "up to date",
            found.dirty_hours > MOST_DIRTY_HOURS,
            "churn_metrics_hourly",
        ),
        Source("Daily metrics", found.metrics_day, "", False, "churn_metrics_daily"),
        Source("Drift by hour", found.drift_hour, "", False, "drift_hourly"),
        Source(
            "Drift by day",
            found.drift_day,
            "behind the daily metrics" if drift_is_late else "",
            drift_is_late,
            "drift_daily",
        ),
        Source(
            "Outcomes",
            found.last_outcome,
            "" if found.last_outcome else "none was sent yet; live performance needs them",
            False,
            "customer_outcomes",
        ),
        Source(
            "Live performance",
            found.live_day,
            "behind the outcomes" if live_is_late else "",
            live_is_late,
            "live_performance",
        ),
        Source("Summaries of the dashboard", found.summaries, "kept by the resident worker"),
        Source(
            "Resident worker",
            found.worker,
            f"silent for more than {duration(SILENT.total_seconds())}: start it with churn up"
            if _is_silent(lag, now)
            else "",
            _is_silent(lag, now),
        ),
    ]


def _is_silent(lag: StreamLag | None, now: datetime) -> bool:
    return lag is None or now - lag.read_at > SILENT


def _failed_check(condition: StoredCondition) -> FailedCheck:
    """Return the check that a condition is about: the worker writes "NAME of ASSET", and the run into the details."""
    check, _, asset = condition.subject.rpartition(" of ")
    run = _RUN.search(condition.details)
    return FailedCheck(check, asset, condition.began, run.group(1) if run else "")


PAGES: Final[Sequence[Page]] = (
    Page("/quality", read, label="Data quality"),
    Page("/quality/dead-letters/{topic:path}/{partition:number}/{offset:number}", read_dead_letter),
)
