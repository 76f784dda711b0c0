"""The accounts: everything that was sent against the ledger, the rows, the hours and the predictions topic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, LiteralString

import msgspec
import numpy as np

from churn_platform.streaming.reader import read_all
from churn_platform_tests.faults.platform import FaultyPlatform


@dataclass(frozen=True)
class Finding:
    """One law, whether it holds, and the numbers."""

    law: str
    holds: bool
    seen: str


class _Published(msgspec.Struct):
    event_id: str
    risk_score: float


_LEDGER: Final = """
    select coalesce(sum(events), 0)::bigint, coalesce(sum(predictions), 0)::bigint,
        coalesce(sum(dead_letters), 0)::bigint, coalesce(sum(duplicates), 0)::bigint
    from stream_batches
"""
# Laws of the database alone: each query counts what breaks one.
_BROKEN: Final[dict[str, LiteralString]] = {
    "every batch: events = predictions + dead letters + duplicates": """
        select count(*) from stream_batches where events <> predictions + dead_letters + duplicates
    """,
    "every batch counts its own rows and letters": """
        select count(*) from stream_batches b where archived is null and (predictions, dead_letters) is distinct from (
            (select count(*) from churn_predictions p where p.batch = b.batch),
            (select count(*) from dead_letter_events d where d.batch = b.batch)
        )
    """,
    "every event id is there once": "select count(*) - count(distinct event_id) from churn_predictions",
    "every position is there once, as a row or a letter, and in its batch's range": """
        with positions as (
            select batch, kafka_partition, kafka_offset from churn_predictions
            union all select batch, kafka_partition, kafka_offset from dead_letter_events
        ), placed as (
            select r.topic_id, p.kafka_partition, p.kafka_offset
            from positions p left join stream_ranges r
              on r.batch = p.batch and r.kafka_partition = p.kafka_partition
              and p.kafka_offset >= r.start_offset and p.kafka_offset < r.end_offset
        )
        select count(*) - count(distinct (topic_id, kafka_partition, kafka_offset))
            + count(*) filter (where topic_id is null)
        from placed
    """,
    "at most one batch is open": """
        select greatest(count(*) - 1, 0) from stream_batches where opened is not null and closed is null
    """,
    "hours equal a recount of their predictions": """
        with recount as (
            select date_trunc('hour', event_timestamp, 'UTC') as hour_timestamp, count(*) as total_predictions,
                sum(prediction) as churn_count, count(*) filter (where risk_score >= 0.7) as high_risk_count,
                avg(risk_score) as avg_risk_score, avg(age) as avg_age, avg(balance) as avg_balance
            from churn_predictions group by 1
        )
        select count(*) from churn_metrics_hourly h full join recount r using (hour_timestamp)
        where (h.total_predictions, h.churn_count, h.high_risk_count)
            is distinct from (r.total_predictions, r.churn_count, r.high_risk_count)
          or abs(h.avg_risk_score - r.avg_risk_score) > 1e-6 * r.avg_risk_score
          or abs(h.avg_age - r.avg_age) > 1e-6 * r.avg_age
          or abs(h.avg_balance - r.avg_balance) > 1e-6 * r.avg_balance
    """,
    "days are the sums of their hours": """
        with recount as (
            select (hour_timestamp at time zone 'UTC')::date as date, sum(total_predictions) as total_predictions,
                sum(churn_count) as churn_count, sum(high_risk_count) as high_risk_count
            from churn_metrics_hourly group by 1
        )
        select count(*) from churn_metrics_daily d full join recount r using (date)
        where (d.total_predictions, d.churn_count, d.high_risk_count)
            is distinct from (r.total_predictions, r.churn_count, r.high_risk_count)
    """,
}


def audit(platform: FaultyPlatform) -> list[Finding]:
    """Check every law on a platform that has settled; see FaultyPlatform.settle()."""
    return [*_against_what_was_sent(platform), *_of_the_database(platform), *_of_the_topic(platform)]


def broken(findings: list[Finding]) -> str:
    """The laws that do not hold, a line each; empty when all do."""
    return "\n".join(f"{finding.law}: {finding.seen}" for finding in findings if not finding.holds)


def _against_what_was_sent(platform: FaultyPlatform) -> Iterator[Finding]:
    sent = platform.traffic.sent
    expected = (sent.messages, sent.predictions, sent.dead_letters, sent.duplicates)
    (counted,) = platform.rows(_LEDGER)
    yield Finding(
        "events, predictions, dead letters and duplicates in the ledger are those that were sent",
        counted == expected,
        f"{counted}, sent {expected}",
    )


def _of_the_database(platform: FaultyPlatform) -> Iterator[Finding]:
    for law, query in _BROKEN.items():
        count = platform.value(query)
        yield Finding(law, count == 0, f"{count} do not")


def _of_the_topic(platform: FaultyPlatform) -> Iterator[Finding]:
    """The topic, as a read_committed reader sees it, against the table."""
    decode = msgspec.json.Decoder(_Published).decode
    published = [
        decode(message.value() or b"") for message in read_all(platform.config, platform.config.predictions_topic)
    ]
    scores = {each.event_id: np.float32(each.risk_score) for each in published}
    stored = {
        event_id: (np.float32(risk), replays)
        for event_id, risk, replays in platform.rows(
            "select event_id::text, risk_score, replays from churn_predictions join stream_batches using (batch)"
        )
    }
    twice = len(published) - len(scores)
    yield Finding("no prediction is published twice", twice == 0, f"{twice} are")
    missing, strange = len(stored.keys() - scores.keys()), len(scores.keys() - stored.keys())
    yield Finding(
        "the topic holds the table's predictions", missing == strange == 0, f"{missing} missing, {strange} strange"
    )
    other = sum(
        scores[event_id] != risk for event_id, (risk, replays) in stored.items() if replays == 0 and event_id in scores
    )
    yield Finding("scores on the topic are those of the table", other == 0, f"{other} of {len(scores)} differ")
