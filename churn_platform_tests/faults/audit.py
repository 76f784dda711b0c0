"""The audit: compares what was sent with what the platform counted, and checks the invariants of `churn verify`."""

from typing import Final, LiteralString

from churn_platform.operations.verification.invariants import Invariant
from churn_platform.operations.verification.verify import check_invariants
from churn_platform_tests.faults.platform import FaultyPlatform

_COUNTED: Final = """
    select coalesce(sum(events), 0)::bigint, coalesce(sum(predictions), 0)::bigint,
        coalesce(sum(dead_letters), 0)::bigint, coalesce(sum(duplicates), 0)::bigint
    from stream_batches
"""
# A replay materializes its batch again, so that many materializations are allowed.
_REPORTED_TWICE: Final = """
    select e.partition from dagster.event_logs e join stream_batches b on b.batch = e.partition
    where e.dagster_event_type = 'ASSET_MATERIALIZATION' and e.asset_key = '["churn_predictions"]'
    group by e.partition, b.replays having count(*) > 1 + b.replays
"""
_FAILED_AND_SUCCEEDED: Final = """
    select f.run_id from dagster.event_logs f join dagster.event_logs s using (run_id)
    where f.dagster_event_type = 'PIPELINE_FAILURE' and s.dagster_event_type = 'PIPELINE_SUCCESS'
"""


def audit(platform: FaultyPlatform) -> list[Invariant]:
    """Check everything on a platform after FaultyPlatform.settle()."""
    invariants = check_invariants(platform.config)
    return [
        _all_that_was_sent(platform),
        _all_is_published(invariants),
        _never(platform, "a batch is reported twice", _REPORTED_TWICE),
        _never(platform, "a failed run succeeds", _FAILED_AND_SUCCEEDED),
        *invariants,
    ]


def violations(invariants: list[Invariant]) -> str:
    """Describe the invariants that do not hold, with the first violations; empty if all hold."""
    return "\n".join(
        f"{each.name}: {each.summary}; {'; '.join(each.violations)}" for each in invariants if not each.holds
    )


def _all_that_was_sent(platform: FaultyPlatform) -> Invariant:
    """Each message that Kafka has acknowledged has the expected result."""
    sent = platform.traffic.sent
    expected = (sent.messages, sent.predictions, sent.dead_letters, sent.duplicates)
    (counted,) = platform.rows(_COUNTED)
    counts = "{:,} events, {:,} predictions, {:,} dead letters and {:,} duplicates"
    return Invariant(
        "all that was sent",
        counted == expected,
        f"{counts.format(*counted)} are those that were sent",
        [] if counted == expected else [f"expected {counts.format(*expected)}"],
    )


def _never(platform: FaultyPlatform, name: str, query: LiteralString) -> Invariant:
    """The query finds what Dagster must never have recorded."""
    found = [str(each) for (each,) in platform.rows(query)]
    return Invariant(f"never: {name}", not found, f"{len(found)} found", found[:5])


def _all_is_published(invariants: list[Invariant]) -> Invariant:
    """The invariant `published` allows for a backlog; a platform that has settled has none."""
    left = sum(each.figures["not_yet_published"] for each in invariants if each.name == "published")
    return Invariant("all is published", left == 0, f"{left:,} predictions are not yet published")
