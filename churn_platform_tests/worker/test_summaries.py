"""The duty that keeps the summary tables: they equal what plain SQL computes from all predictions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from churn_platform.database import replaced_predictions, worker_positions
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.worker.summaries import NAME, SummariesConfig, SummariesDuty
from churn_platform_tests.worker.ledger import FollowedLedger, Scored

HOUR = timedelta(hours=1)
COUNTRIES = ("France", "Germany", "Spain")

# All predictions that there ever were: those that a test archives are moved to archived_copy.
CUSTOMERS: LiteralString = """
    with everything as (
        select * from churn_predictions union all select * from archived_copy
    ), ranked as (
        select e.*, risk_score >= high_risk_threshold as high_risk,
            row_number() over (
                partition by customer_id order by event_timestamp desc, kafka_offset desc, event_id desc
            ) as place
        from everything e join stream_batches using (batch)
    )
    select l.customer_id, l.event_id, l.event_timestamp, l.batch, l.kafka_partition, l.kafka_offset, l.model_version,
        l.risk_score, l.prediction, l.high_risk, l.balance, l.geography, p.event_id, p.event_timestamp, p.kafka_offset,
        p.batch, p.risk_score,
        (select min(event_timestamp) from everything e where e.customer_id = l.customer_id),
        (select count(*) from everything e where e.customer_id = l.customer_id)
    from ranked l left join ranked p on p.customer_id = l.customer_id and p.place = 2
    where l.place = 1 order by 1
"""
KEPT_CUSTOMERS: LiteralString = """
    select customer_id, event_id, event_timestamp, batch, kafka_partition, kafka_offset, model_version, risk_score,
        prediction, high_risk, money_at_risk, segments ->> 'geography', previous_event_id, previous_event_timestamp,
        previous_kafka_offset, previous_batch, previous_risk_score, first_event_timestamp, predictions
    from customer_summary order by 1
"""
SEGMENTS: LiteralString = """
    select segments, count(*), count(*) filter (where high_risk), sum(risk_score::double precision::numeric),
        coalesce(sum(money_at_risk::numeric) filter (where high_risk), 0)
    from customer_summary group by 1 order by 1
"""
KEPT_SEGMENTS: LiteralString = """
    select segments, customers, high_risk_customers, risk_sum, money_at_risk from customer_segment_summary order by 1
"""
DAYS: LiteralString = """
    select (event_timestamp at time zone 'utc')::date, e.model_version, geography,
        case when age is null then 'missing' when age < 30 then '18 to 29' when age < 40 then '30 to 39'
            when age < 50 then '40 to 49' when age < 60 then '50 to 59' else '60 to 120' end as age_band,
        count(*), sum(prediction), sum(risk_score::double precision::numeric),
        count(*) filter (where risk_score >= high_risk_threshold),
        sum(greatest(probability, 1 - probability)::numeric),
        count(*) filter (where greatest(probability, 1 - probability) >= 0.8),
        count(*) filter (where greatest(probability, 1 - probability) < 0.6),
        count(true_churn_label), count(*) filter (where prediction = true_churn_label),
        count(true_churn_label) filter (where prediction = 1), count(*) filter (where true_churn_label = 1),
        count(*) filter (where true_churn_label = 1 and prediction = 1),
        count(age), coalesce(sum(age::double precision::numeric), 0), sum(balance::double precision::numeric)
    from (select * from churn_predictions union all select * from archived_copy) as e join stream_batches using (batch)
    group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""
KEPT_DAYS: LiteralString = """
    select date, model_version, segments ->> 'geography', segments ->> 'age', total_predictions, churn_count, risk_sum,
        high_risk_count, confidence_sum, high_confidence_count, low_confidence_count, labelled_count, correct_count,
        labelled_churn_count, left_count, left_churn_count, age_count, age_sum, balance_sum
    from prediction_summary order by 1, 2, 3, 4
"""


@dataclass
class Summaries:
    """A ledger of three partitions, and the duty that follows it."""

    connection: psycopg.Connection
    schema: CustomerSchema
    ledger: FollowedLedger = field(init=False)
    duty: SummariesDuty = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = FollowedLedger(self.connection, partitions=3)
        self.connection.execute("create temp table archived_copy as select * from churn_predictions")
        self.start()

    def start(self, **changes: Any) -> None:
        """Start the duty, as after the start of its process."""
        config = SummariesConfig(schema=self.schema, control_share=0.5, most_offsets=40)
        self.duty = SummariesDuty(replace(config, **changes))

    def follow(self) -> None:
        """Let the duty run until it has followed everything."""
        while self.duty.run(self.connection):
            pass

    def rows(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.connection.execute(query).fetchall()

    def archive(self, batch: str) -> None:
        """Move the rows of a batch out of churn_predictions."""
        with self.connection.transaction():
            self.connection.execute(
                "insert into archived_copy select * from churn_predictions where batch = %s", (batch,)
            )
            self.connection.execute("delete from churn_predictions where batch = %s", (batch,))
            self.connection.execute("update stream_batches set archived = now() where batch = %s", (batch,))

    def check(self) -> None:
        """Require that the tables equal what plain SQL computes."""
        assert self.rows(KEPT_CUSTOMERS) == self.rows(CUSTOMERS)
        assert self.rows(KEPT_SEGMENTS) == self.rows(SEGMENTS)
        assert self.rows(KEPT_DAYS) == self.rows(DAYS)
        assert worker_positions.behind(self.connection, NAME) == []
        assert replaced_predictions.batches(self.connection) == []


@pytest.fixture
def summaries(database: str, bank_schema: CustomerSchema) -> Iterator[Summaries]:
    """Summaries of a ledger without events."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield Summaries(connection, bank_schema)


def some(chance: random.Random, count: int) -> list[Scored]:
    """Return predictions of some customers, some of them late."""
    return [
        Scored(
            chance.randrange(25),
            round(chance.random(), 3),
            ago=chance.choice((0, 0, 0, 1, 30, 50)) * HOUR,
            balance=round(chance.random() * 100_000, 2),
            age=chance.choice((None, 25.0, 33.5, 61.0)),
            country=chance.choice(COUNTRIES),
            label=chance.choice((None, None, 0, 1)),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_the_tables_equal_what_plain_sql_computes_whatever_happened(summaries: Summaries, seed: int) -> None:
    chance, ledger = random.Random(seed), summaries.ledger  # noqa: S311  a test, not a secret
    closed, archived = list[str](), list[str]()
    for _ in range(40):
        step = chance.choice(("commit", "commit", "commit", "next batch", "replay", "archive", "follow", "restart"))
        if step == "commit":
            ledger.commit(some(chance, chance.randrange(1, 30)), partition=chance.randrange(3))
        elif step == "next batch":
            closed.append(ledger.batch)
            ledger.next_batch()
        elif step == "replay" and closed:
            batch = chance.choice(closed)
            of_batch = summaries.connection.execute("select event_id from churn_predictions where batch = %s", (batch,))
            # Of three events of a customer, one that is archived is not known when a replay refuses another.
            refused = [event for (event,) in of_batch if not archived and chance.random() < 0.05]
            ledger.replay(summaries.schema, batch, risks=[chance.random() for _ in range(7)], refused=refused)
        elif step == "archive" and closed:
            summaries.follow()
            archived.append(closed.pop(0))
            summaries.archive(archived[-1])
        elif step == "follow":
            summaries.duty.run(summaries.connection)
        elif step == "restart":
            summaries.start()
    summaries.follow()

    summaries.check()
