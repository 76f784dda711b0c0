"""The duty that keeps the summary tables: they equal what plain SQL computes from all predictions."""

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from churn_platform.database import (
    churn_predictions,
    replaced_predictions,
    retention_keys,
    stored_outcomes,
    stream_batches,
    stream_positions,
    summary_state,
    worker_positions,
)
from churn_platform.database.averages import averages
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.database.stream_minutes import LATENCY_BOUNDS_MS
from churn_platform.local.stack import Stack
from churn_platform.retention.arm import arm_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.worker.summaries import NAME, SummariesConfig, SummariesDuty
from churn_platform_tests.database.conftest import new_database
from churn_platform_tests.database.customer_rows import BATCH, prediction_rows, scorable_customers
from churn_platform_tests.waiting import wait_until
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
        (select count(*) from everything e where e.customer_id = l.customer_id),
        (
            select max(o.outcome_timestamp) from customer_outcomes o
            where (o.event_id = l.event_id or (o.event_id is null and o.customer_id = l.customer_id))
              and o.churned = 1 and o.outcome_timestamp >= l.event_timestamp
        )
    from ranked l left join ranked p on p.customer_id = l.customer_id and p.place = 2
    where l.place = 1 order by 1
"""
KEPT_CUSTOMERS: LiteralString = """
    select customer_id, event_id, event_timestamp, batch, kafka_partition, kafka_offset, model_version, risk_score,
        prediction, high_risk, money_at_risk, segments ->> 'geography', previous_event_id, previous_event_timestamp,
        previous_kafka_offset, previous_batch, previous_risk_score, first_event_timestamp, predictions,
        left_at
    from customer_summary order by 1
"""
SEGMENTS: LiteralString = """
    select segments, arm, count(*), count(left_at), count(*) filter (where high_risk and left_at is null),
        sum(risk_score::double precision::numeric),
        coalesce(sum(money_at_risk::numeric) filter (where high_risk and left_at is null), 0)
    from customer_summary group by 1, 2 order by 1, 2
"""
KEPT_SEGMENTS: LiteralString = """
    select segments, arm, customers, left_customers, high_risk_customers, risk_sum, money_at_risk
    from customer_segment_summary order by 1, 2
"""
DAYS: LiteralString = """
    select (event_timestamp at time zone 'utc')::date, e.model_version, geography,
        case when age is null then 'missing' when age < 30 then '18 to 29' when age < 40 then '30 to 39'
            when age < 50 then '40 to 49' when age < 60 then '50 to 59' else '60 to 120' end as age_band,
        s.arm, count(*), sum(prediction), sum(risk_score::double precision::numeric),
        count(*) filter (where risk_score >= high_risk_threshold),
        sum(greatest(probability, 1 - probability)::numeric),
        count(*) filter (where greatest(probability, 1 - probability) >= 0.8),
        count(*) filter (where greatest(probability, 1 - probability) < 0.6),
        count(true_churn_label), count(*) filter (where prediction = true_churn_label),
        count(true_churn_label) filter (where prediction = 1), count(*) filter (where true_churn_label = 1),
        count(*) filter (where true_churn_label = 1 and prediction = 1),
        count(age), coalesce(sum(age::double precision::numeric), 0), sum(balance::double precision::numeric)
    from (select * from churn_predictions union all select * from archived_copy) as e join stream_batches using (batch)
    join (select customer_id, arm from customer_summary) as s using (customer_id)
    group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
"""
KEPT_DAYS: LiteralString = """
    select date, model_version, segments ->> 'geography', segments ->> 'age', arm, total_predictions, churn_count,
        risk_sum, high_risk_count, confidence_sum, high_confidence_count, low_confidence_count, labelled_count,
        correct_count, labelled_churn_count, left_count, left_churn_count, age_count, age_sum, balance_sum
    from prediction_summary order by 1, 2, 3, 4, 5
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
    closed, archived, share = list[str](), list[str](), 0.5
    steps = ("commit", "commit", "commit", "next batch", "replay", "archive", "follow", "restart", "share", "outcomes")
    for number in range(50):
        step = chance.choice(steps)
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
            summaries.start(control_share=share)
        elif step == "share" and not archived:  # archived predictions keep their arm
            share = chance.choice((0.0, 0.3, 0.5, 1.0))
            summaries.start(control_share=share)
        elif step == "outcomes":
            events = summaries.rows("select event_id, null, event_timestamp from churn_predictions order by event_id")
            about = chance.sample(events, min(5, len(events)))
            about += [(None, chance.randrange(25), datetime.now(UTC) - chance.choice((0, 20)) * HOUR)]
            tell(summaries.connection, about, churned=chance.choice((1, 1, 0)), first_offset=1_000 * number)
    summaries.follow()

    summaries.check()


def tell(
    connection: psycopg.Connection,
    about: Sequence[tuple[UUID | None, int | None, datetime]],
    *,
    churned: int = 1,
    first_offset: int = 0,
) -> None:
    """Store outcomes of events or customers, with their times, as the reading of the topic does."""
    with connection.transaction():
        stored_outcomes.insert_all(
            connection,
            [
                ("outcomes", 0, first_offset + number, event_id, customer_id, churned, at)
                for number, (event_id, customer_id, at) in enumerate(about)
            ],
        )


def test_customers_who_left_are_no_money_at_risk_until_they_are_back(summaries: Summaries) -> None:
    (event, *_) = summaries.ledger.commit([Scored(1, 0.9, balance=10.0), Scored(2, 0.9, balance=100.0), Scored(3, 0.1)])
    summaries.follow()
    sums: LiteralString = (
        "select sum(customers), sum(left_customers), sum(high_risk_customers), sum(money_at_risk) "
        "from customer_segment_summary"
    )
    later = datetime.now(UTC) + HOUR

    tell(summaries.connection, [(event, None, later), (None, 2, datetime.now(UTC) - HOUR), (None, 3, later)])
    summaries.follow()
    assert summaries.rows(sums) == [(3, 2, 1, 100)]
    assert summaries.rows("select customer_id from customer_summary where left_at is not null order by 1") == [
        (1,),
        (3,),
    ]

    summaries.ledger.commit([Scored(1, 0.9, ago=-2 * HOUR, balance=10.0)])
    summaries.follow()
    assert summaries.rows(sums) == [(3, 1, 2, 110)]


def test_an_outcome_of_a_customer_without_events_counts_at_the_first_event(summaries: Summaries) -> None:
    tell(summaries.connection, [(None, 1, datetime.now(UTC) + HOUR)])
    summaries.follow()

    summaries.ledger.commit([Scored(1, 0.9), Scored(2, 0.9)])
    summaries.follow()

    assert summaries.rows("select customer_id from customer_summary where left_at is not null") == [(1,)]


def test_archived_predictions_keep_their_arm(summaries: Summaries) -> None:
    summaries.start(control_share=1.0)
    summaries.ledger.commit([Scored(customer, 0.5) for customer in range(4)])
    batch = summaries.ledger.batch
    summaries.ledger.next_batch()
    summaries.ledger.commit([Scored(customer, 0.5) for customer in range(4)])
    summaries.follow()
    summaries.archive(batch)

    summaries.start(control_share=0.0)
    summaries.follow()

    arms: LiteralString = "select arm, sum(total_predictions) from prediction_summary group by arm order by arm"
    assert summaries.rows(arms) == [("contact", 4), ("control", 4)]
    assert summaries.rows("select distinct arm from customer_summary") == [("contact",)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_arms_are_those_of_cases_and_follow_a_changed_share(summaries: Summaries, share: float) -> None:
    summaries.ledger.commit([Scored(customer, 0.5) for customer in range(100)])
    summaries.follow()

    summaries.start(control_share=share)
    summaries.follow()

    key = retention_keys.ensure_key(summaries.connection)
    for number in (100, 2**61):
        summaries.ledger.commit([Scored(number, 0.5)])
    summaries.follow()
    found = summaries.rows("select customer_id, arm from customer_summary")
    assert len(found) == 102
    assert summaries.rows(KEPT_SEGMENTS) == summaries.rows(SEGMENTS)
    assert found == [(customer, arm_of(customer, key=key, control_share=share)) for customer, _ in found]
    assert summaries.rows(KEPT_DAYS) == summaries.rows(DAYS)


def test_other_segments_lead_to_summaries_from_the_first_event_on(summaries: Summaries) -> None:
    for partition in range(3):
        summaries.ledger.commit([Scored(customer, 0.8, age=33.5) for customer in range(50)], partition=partition)
    summaries.follow()
    columns = tuple(
        replace(column, segment_bounds=(18.0, 65.0)) if column.name == "Age" else column
        for column in summaries.schema.columns
    )

    summaries.start(schema=replace(summaries.schema, columns=columns))
    assert summaries.duty.run(summaries.connection)  # in several parts
    assert summary_state.as_of(summaries.connection) is None
    summaries.follow()

    assert summaries.rows("select segments ->> 'age', sum(customers) from customer_segment_summary group by 1") == [
        ("18 to 64", 50)
    ]
    assert summaries.rows("select sum(total_predictions), sum(labelled_count) from prediction_summary") == [(150, 0)]
    assert summary_state.as_of(summaries.connection) is not None


def test_the_summaries_show_the_time_up_to_which_they_have_all_commits(summaries: Summaries) -> None:
    assert summary_state.as_of(summaries.connection) is None
    summaries.ledger.commit([Scored(1, 0.5)])
    summaries.follow()
    current = summary_state.as_of(summaries.connection)

    summaries.ledger.commit([Scored(2, 0.5)])
    behind = summary_state.as_of(summaries.connection)

    assert current is not None
    assert behind is not None
    assert behind < current
    assert not summary_state.is_current(summaries.connection)


def test_minutes_have_predictions_dead_letters_and_latencies(summaries: Summaries) -> None:
    summaries.ledger.commit([Scored(1, 0.5), Scored(1, 0.5), Scored(2, 0.5, ago=HOUR - timedelta(minutes=1))])
    summaries.connection.execute(
        "insert into dead_letter_events (topic_id, kafka_partition, kafka_offset, batch, topic, reason, received_at) "
        "select 'topic', 0, 1, batch, 'events', 'bad', max(predicted_at) from churn_predictions group by batch"
    )
    summaries.follow()
    summaries.ledger.commit([Scored(3, 0.5, ago=2 * HOUR)])
    summaries.follow()

    found = summaries.rows("select predictions, dead_letters, latency_counts from stream_minutes order by minute")
    counts = [sum(each) for each in zip(*(counts for *_, counts in found), strict=True)]
    assert sum(predictions for predictions, *_ in found) == 4
    assert sum(letters for _, letters, _ in found) == 1
    assert len(counts) == len(LATENCY_BOUNDS_MS) + 1
    assert sum(counts) == 4
    assert counts[-2:] == [1, 1]  # below an hour, and more

    summaries.connection.execute("update stream_minutes set minute = minute - interval '9 days'")
    summaries.start()
    summaries.follow()
    assert summaries.rows("select * from stream_minutes") == []


def test_a_replay_changes_no_minute(summaries: Summaries) -> None:
    summaries.ledger.commit(some(random.Random(1), 20))  # noqa: S311  a test, not a secret
    batch = summaries.ledger.batch
    summaries.ledger.next_batch()
    summaries.follow()
    before = summaries.rows("select * from stream_minutes")

    summaries.ledger.replay(summaries.schema, batch, risks=[0.1, 0.9])
    summaries.follow()

    summaries.check()
    assert summaries.rows("select * from stream_minutes") == before


def test_what_a_row_has_become_in_several_replays_counts(summaries: Summaries) -> None:
    summaries.start(most_offsets=30)
    summaries.ledger.commit(some(random.Random(2), 50))  # noqa: S311
    batch = summaries.ledger.batch
    summaries.ledger.next_batch()
    assert summaries.duty.run(summaries.connection)  # a part of the batch
    for risk in (0.9, 0.3):
        summaries.ledger.replay(summaries.schema, batch, risks=[risk])

    summaries.follow()

    summaries.check()


@pytest.mark.parametrize("table", ["prediction_summary", "customer_summary", "stream_minutes", "worker_positions"])
def test_a_worker_that_dies_in_the_middle_of_a_run_changes_nothing(summaries: Summaries, table: str) -> None:
    summaries.ledger.commit(some(random.Random(3), 30))  # noqa: S311
    summaries.follow()
    summaries.ledger.commit(some(random.Random(4), 30))  # noqa: S311
    dsn, password = summaries.connection.info.dsn, summaries.connection.info.password

    def connect() -> psycopg.Connection:
        return psycopg.connect(dsn, password=password, autocommit=True)

    failed = list[psycopg.Error]()
    with connect() as dying, connect() as blocking:

        def run() -> None:
            try:
                SummariesDuty(SummariesConfig(summaries.schema, control_share=0.5)).run(dying)
            except psycopg.Error as error:
                failed.append(error)

        with blocking.transaction():
            blocking.execute(sql.SQL("lock table {} in share mode").format(sql.Identifier(table)))
            thread = threading.Thread(target=run)
            thread.start()
            waits = "select exists (select from pg_locks where pid = %s and not granted)"
            pid = dying.info.backend_pid
            wait_until(lambda: blocking.execute(waits, (pid,)).fetchone() == (True,))
            summaries.connection.execute("select pg_terminate_backend(%s)", (pid,))
            thread.join()

    assert failed
    summaries.follow()
    summaries.check()


def test_of_two_workers_that_follow_at_the_same_time_one_begins_again(summaries: Summaries) -> None:
    dsn, password = summaries.connection.info.dsn, summaries.connection.info.password
    summaries.follow()
    stopped, errors = threading.Event(), list[psycopg.Error]()

    def work() -> None:
        duty = SummariesDuty(SummariesConfig(summaries.schema, control_share=0.5))
        with psycopg.connect(dsn, password=password, autocommit=True) as connection:
            while not stopped.is_set():
                try:
                    duty.run(connection)
                except psycopg.Error as error:
                    errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(20):
        summaries.ledger.commit(some(random.Random(number), 20), partition=number % 3)  # noqa: S311
    wait_until(lambda: worker_positions.behind(summaries.connection, NAME) == [])
    stopped.set()
    for thread in threads:
        thread.join()

    assert {type(error) for error in errors} <= {psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation}
    summaries.check()


def test_a_batch_is_archived_after_the_summaries_have_it(summaries: Summaries) -> None:
    summaries.ledger.commit([Scored(1, 0.5)])
    summaries.follow()
    batch = summaries.ledger.batch
    summaries.ledger.commit([Scored(2, 0.5)])
    summaries.ledger.next_batch()
    summaries.connection.execute("update stream_batches set reported = true")
    summaries.connection.execute("update stream_positions set published_to = next_offset")

    def assign() -> object:
        with summaries.connection.transaction(force_rollback=True):
            stream_batches.assign_archive(
                summaries.connection,
                before=datetime.now(UTC) + HOUR,
                folder="folder",
                max_batches=9,
                max_rows=9,
            )
            return stream_batches.assigned_archive(summaries.connection)

    assert assign() is None
    summaries.follow()
    assert assign() is not None
    summaries.ledger.replay(summaries.schema, batch, risks=[0.9])
    assert assign() is None
    summaries.follow()
    assert assign() is not None


def test_customers_of_any_schema_are_summarized(stack: Stack) -> None:
    schema = load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")
    table, customers = prediction_table(schema), scorable_customers(schema)
    rows = prediction_rows(table, customers)
    with psycopg.connect(new_database(stack, schema).writer, autocommit=True) as connection:
        stream_positions.add_positions(connection, topic="events", topic_id="topic", starts={0: 0})
        stream_batches.plan_batch(connection, BATCH)
        connection.execute("update stream_batches set opened = now(), high_risk_threshold = 0.5")
        with connection.transaction():
            churn_predictions.insert_new(connection, rows)
        connection.execute("insert into stream_ranges values (%s, 'topic', 0, 0, %s)", (BATCH, len(customers)))
        connection.execute("update stream_positions set next_offset = %s", (len(customers),))

        assert SummariesDuty(SummariesConfig(schema, control_share=0.5)).run(connection) is False

        key = retention_keys.ensure_key(connection)
        found = connection.execute("select customer_id, arm, segments from customer_summary").fetchall()
        assert {customer for customer, *_ in found} == set(customers[schema.id])
        assert {(customer, arm_of(customer, key=key, control_share=0.5)) for customer, *_ in found} == {
            (customer, arm) for customer, arm, _ in found
        }
        assert {name for *_, segments in found for name in segments} == {each.column for each in schema.segments}
        for each in averages(schema):
            names = sql.Identifier(each.sum), sql.Identifier(each.count), sql.Identifier(each.column)
            query = sql.SQL(
                "select (select sum({0}) / sum({1}) from prediction_summary) - (select avg({2}) from churn_predictions)"
            )
            assert connection.execute(query.format(*names)).fetchall() == [(pytest.approx(0, abs=1e-3),)]


def test_the_retention_team_reads_no_summary(summaries: Summaries) -> None:
    tables = ("customer_summary", "customer_segment_summary", "prediction_summary", "stream_minutes", "summary_state")
    for table in tables:
        rights = summaries.connection.execute(
            "select has_table_privilege('churn_reader', %(table)s, 'select'), "
            "has_table_privilege('churn_retention', %(table)s, 'select')",
            {"table": table},
        ).fetchone()
        assert rights == (True, False)
