"""A replay by Spark gives the same rows, sums and topic as one in this process."""

import pytest

from churn_platform_tests.spark.engines import every_kind, spark
from churn_platform_tests.stream.streams import Stream

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]

PREDICTIONS = """
    select row_to_json(p)::jsonb - 'predicted_at' from churn_predictions p order by event_id
"""
DEAD_LETTERS = """
    select row_to_json(d)::jsonb from dead_letter_events d order by kafka_partition, kafka_offset
"""
HIGH_RISK = "select event_id, batch, risk_score, alert_sent from high_risk_customers order by 1"
HOURS = """
    select row_to_json(h)::jsonb - 'risk_sum', round(risk_sum::numeric, 6) from churn_batch_hours h order by 1
"""


def state(stream: Stream) -> dict[str, object]:
    """Return everything that a replay writes, apart from times of its own."""
    tables = {name: stream.rows(query) for name, query in vars().items()}
    return tables


@pytest.mark.parametrize("again", [1])
def test_a_replay_by_spark_writes_what_a_replay_in_this_process_writes(stream: Stream, again: int) -> None:
    stream.send(every_kind(3_000))
    batch = stream.stream(commit_events=500)
    stream.materialize(batch.batch)
    queries = {"predictions": PREDICTIONS, "dead letters": DEAD_LETTERS, "high risk": HIGH_RISK, "hours": HOURS}
    before = {name: stream.rows(query) for name, query in queries.items()}
    counts, published = stream.batch(batch.batch), stream.published_ids()

    stream.engine = spark(stream.config)
    stream.materialize(batch.batch)

    for name, query in queries.items():
        assert stream.rows(query) == before[name], name
    after = stream.batch(batch.batch)
    assert (after.events, after.predictions, after.dead_letters, after.duplicates) == (
        counts.events,
        counts.predictions,
        counts.dead_letters,
        counts.duplicates,
    )
    assert after.replays == 2
    assert stream.published_ids() == published
    assert stream.rows("select * from spark_attempts") == []
