"""Invariants of sums: hours, days, summaries and high-risk predictions agree with what they are computed from."""

from collections.abc import Iterable

import psycopg

from churn_platform.database import stream_batches, verification
from churn_platform.database.verification import Comparison
from churn_platform.lanes import Lane
from churn_platform.operations.verification.extracts import Progress
from churn_platform.operations.verification.invariants import EXAMPLES, Findings, Invariant
from churn_platform.stream.config import StreamConfig


def hours(connection: psycopg.Connection, config: StreamConfig, progress: Progress) -> list[Invariant]:
    """Check the sums per batch and hour against the rows, hours against batches, and days against hours."""
    progress("Computing hours and days again", 0)
    compared = (
        (
            "hours of batches",
            verification.compare_batch_hours(connection, config.schema, examples=EXAMPLES),
            "{count:,} sums per batch and hour are those of their predictions",
        ),
        (
            "hours",
            verification.compare_hours(connection, config.schema, examples=EXAMPLES),
            "{current:,} hours are the sums of their batches; {outdated:,} more are out of date",
        ),
        (
            "days",
            verification.compare_days(connection, config.schema, examples=EXAMPLES),
            "{current:,} days are the sums of their hours; {outdated:,} more are out of date",
        ),
    )
    return _invariants(compared)


def summaries(connection: psycopg.Connection, progress: Progress) -> list[Invariant]:
    """Check the summary tables against predictions and sums per batch, if the worker has followed all commits."""
    progress("Computing summaries again", 0)
    compared = (
        (
            "summary of customers",
            verification.compare_customer_summary(connection, examples=EXAMPLES),
            "{current:,} customers have their latest prediction; {outdated:,} more are out of date",
        ),
        (
            "summary of segments",
            verification.compare_segment_summary(connection, examples=EXAMPLES),
            "{current:,} combinations of segments are the sums of their customers",
        ),
        (
            "summary of days",
            verification.compare_day_summary(connection, examples=EXAMPLES),
            "{current:,} days are the sums of their batches; {outdated:,} more are out of date",
        ),
    )
    return _invariants(compared)


def _invariants(compared: Iterable[tuple[str, Comparison, str]]) -> list[Invariant]:
    invariants = []
    for name, result, summary in compared:
        found = Findings()
        found.add(result.wrong, result.examples)
        current = result.count - result.outdated - result.wrong
        summary = summary.format(count=result.count, current=current, outdated=result.outdated)
        invariants.append(found.invariant(name, summary, count=result.count, outdated=result.outdated))
    return invariants


def high_risk(connection: psycopg.Connection, progress: Progress) -> Invariant:
    """Check that high_risk_customers holds the predictions at or above the threshold, with their scores."""
    progress("Comparing high-risk predictions", 0)
    result = verification.compare_high_risk(connection, examples=EXAMPLES)
    found = Findings()
    found.add(result.wrong, result.examples)
    return found.invariant(
        "high-risk predictions",
        f"{result.count:,} rows of high_risk_customers match the predictions at or above the threshold of their batch, "
        "or their alert was sent",
        count=result.count,
    )


def at_most_one(connection: psycopg.Connection) -> list[Invariant]:
    """Check that at most one batch of each lane is open, and at most one model version is champion."""
    batches = stream_batches.open_batches(connection)
    by_lane: dict[Lane, list[str]] = {}
    for batch in batches:
        by_lane.setdefault(batch.reads, []).append(batch.batch)
    there = ", ".join(each.batch for each in batches) or "none"
    # Those of two layouts read the same partitions, and only one layout is in effect.
    problems = [", ".join(each.batch for each in batches)] if len({lane.of for lane in by_lane}) > 1 else []
    problems += [f"{lane}: {', '.join(keys)}" for lane, keys in sorted(by_lane.items()) if len(keys) > 1]
    allowed = "at most one is allowed" if all(lane.of == 1 for lane in by_lane) else "one of each lane is allowed"
    champions = [f"version {version}" for version in verification.champions(connection)]
    holds = len(champions) <= 1
    return [
        Invariant("open batch", not problems, f"{there}; {allowed}", problems, {"count": len(batches)}),
        Invariant(
            "champion",
            holds,
            f"{', '.join(champions) or 'none'}; at most one is allowed",
            [] if holds else [", ".join(champions)],
            {"count": len(champions)},
        ),
    ]
