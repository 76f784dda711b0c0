"""A customer in every place that the platform can store one, on real servers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg import sql

from churn_platform.alerts.call_list import read_call_list
from churn_platform.alerts.outbox import enqueue_cases
from churn_platform.alerts.policy import AlertPolicy
from churn_platform.archive import archive_next
from churn_platform.database import customer_file_scores, retention_cases, retention_effect
from churn_platform.database.advisory_locks import archive_lock
from churn_platform.database.customer_file_scores import FileScore
from churn_platform.database.prediction_columns import prediction_table
from churn_platform.files.artifacts import ASSETS, join, write_bytes
from churn_platform.files.parquet import to_parquet
from churn_platform.kafka import topics
from churn_platform.monitoring import outcomes
from churn_platform.orchestration.assets.ui_metadata import rows_table
from churn_platform.settings import settings
from churn_platform.stream.external_scoring import ScoringEngine, ScoringOrder
from churn_platform.worker.cases import CasesDuty
from churn_platform.worker.summaries import SummariesConfig, SummariesDuty
from churn_platform_tests.bank import CUSTOMER
from churn_platform_tests.spark.engines import Tasks
from churn_platform_tests.stream.streams import Killed, Stream, event
from churn_platform_tests.waiting import wait_until
from churn_platform_tests.worker.teams import new_config

ERASED = 15_987_654
OTHER = 15_600_001
SCHEMAS = ("public", "dagster", "mlflow", "optuna")


def places_with(connection: psycopg.Connection, text: str, schemas: Sequence[str] = SCHEMAS) -> list[str]:
    """Return the columns of tables in which a text occurs in any row, whatever the type of the column."""
    columns = connection.execute(
        "select table_schema, table_name, column_name, data_type from information_schema.columns "
        "join information_schema.tables using (table_schema, table_name) "
        "where table_schema = any(%s) and table_type = 'BASE TABLE'",
        (list(schemas),),
    ).fetchall()
    found = []
    for schema, table, column, kind in columns:
        value = sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(sql.Identifier(column))
        query = sql.SQL("select exists (select from {} where position({} in {}) > 0)").format(
            sql.Identifier(schema, table), sql.Literal(text), value
        )
        if connection.execute(query).fetchone() == (True,):
            found.append(f"{schema}.{table}.{column}")
    return found


def files_with(root: Path, customer_id: int) -> list[Path]:
    """Return the files below a folder that hold an id: as text, or in a column of a Parquet file."""
    found = []
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        if file.suffix == ".parquet":
            content = pd.read_parquet(file).to_csv()
        else:
            content = file.read_bytes().decode("utf-8", "replace")
        if str(customer_id) in content:
            found.append(file)
    return found


@dataclass
class Life:
    """A platform with a customer in every place, and others beside.

    Attributes:
        stream: the stream of the settings.
        root: the artifacts root of the settings.
        instance: Dagster's instance in the same database.
    """

    stream: Stream
    root: Path
    instance: dg.DagsterInstance

    def begin(self) -> None:
        """Store the customer everywhere."""
        self._stream_events()
        self._open_cases()
        self._ingest_outcomes()
        self._score_file()
        self._archive_first_batch()
        self._replay_last_batch()
        self._try_challenger_and_recover()
        self._leave_staged_rows()
        self._write_files()
        self._show_in_dagster()

    @property
    def connection(self) -> psycopg.Connection:
        """A connection to the platform's database."""
        return self.stream.connection

    def run(self, values: Sequence[dict[str, object] | bytes]) -> str:
        """Stream events into a new batch, whose key is returned. Everybody is at high risk."""
        self.stream.send(values)
        return self.stream.stream(high_risk_threshold=0.0, idle_seconds=0.5, linger=0.005).batch

    def summarize(self) -> None:
        """Let the worker follow the stream."""
        assert (
            SummariesDuty(SummariesConfig(self.stream.config.schema, control_share=0.0)).run(self.connection) is False
        )

    def own(self, **changes: object) -> dict[str, object]:
        """Return an event of the customer."""
        return event(0, CustomerId=ERASED, **changes)

    def _stream_events(self) -> None:
        others = [event(number) for number in range(4)]
        known = self.own()
        self.first = self.run([known, *others, known, self.own(Age=None)])
        bad = json.dumps({**self.own(), "Age": "old"}).encode()
        self.last = self.run([self.own(), bad, b"no JSON about 15987654", *[event(number) for number in range(3)]])
        self.summarize()
        wait_until(lambda: self.stream.value("select count(*) from high_risk_customers where reasons is null") == 0)

    def _open_cases(self) -> None:
        config = replace(
            new_config(self.stream.config.schema),
            policy=replace(new_config(self.stream.config.schema).policy, threshold=0.0),
            customer_url="https://crm.example/{customer_id}",
        )
        CasesDuty(config).run(self.connection)
        now = datetime.now(UTC)
        policy = AlertPolicy(
            mode="digest",
            digest_times=(now.time(),),
            quiet_hours=None,
            max_age=timedelta(hours=8),
            cases_per_day=10,
            timezone=ZoneInfo("UTC"),
        )
        assert enqueue_cases(self.connection, read_call_list, targets=["team"], policy=policy, now=now) > 1
        each = replace(policy, mode="each")
        self.connection.execute("delete from alerted_cases")
        assert enqueue_cases(self.connection, read_call_list, targets=["team"], policy=each, now=now) > 1
        [(case, entry)] = self.connection.execute(
            "select case_id, entry from retention_list_entries where customer_id = %s", (ERASED,)
        ).fetchall()
        with retention_cases.acting(self.connection, "somebody"):
            self.connection.execute(
                "update retention_cases set status = 'contacted', owner = 'somebody', notes = 'called 15987654' "
                "where case_id = %s",
                (case,),
            )
        retention_effect.settle(self.connection, [(entry, True, True)])
        retention_cases.block_contact(self.connection, ERASED, reason="asked", actor="somebody")

    def _ingest_outcomes(self) -> None:
        config = self.stream.config
        topic = settings().topics.outcomes
        topics.create_missing(self.stream.admin, config.kafka, [topic])
        self.send_outcomes(
            {"CustomerId": ERASED, "true_churn_label": 1},
            {"CustomerId": OTHER, "true_churn_label": 0},
            {"CustomerId": ERASED, "true_churn_label": "?"},
            {"event_id": self._event_of_customer(), "true_churn_label": 1},
        )

    def send_outcomes(self, *values: dict[str, object]) -> None:
        """Send outcomes and ingest them."""
        topic = settings().topics.outcomes
        producer = Producer(self.stream.config.kafka.client)
        for value in values:
            producer.produce(topic, json.dumps(value))
        assert producer.flush(30) == 0
        with psycopg.connect(self.stream.config.dsn) as connection:
            outcomes.ingest(connection, self.stream.admin, self.stream.config, topic)

    def _event_of_customer(self) -> str:
        row = self.connection.execute(
            "select event_id from churn_predictions where customer_id = %s and batch = %s", (ERASED, self.first)
        ).fetchone()
        assert row is not None
        return str(row[0])

    def _score_file(self) -> None:
        columns = {name: CUSTOMER[name] for name in CUSTOMER}
        customer_file_scores.replace_all(
            self.connection,
            prediction_table(self.stream.config.schema),
            [FileScore(each, 0.9, [], columns) for each in (ERASED, OTHER)],
            model_version=1,
            scored_at=datetime.now(UTC),
        )

    def _archive_first_batch(self) -> None:
        self.connection.execute(
            "update stream_batches set reported = true, closed = closed - interval '100 days' where batch = %s",
            (self.first,),
        )
        with archive_lock(self.connection) as held:
            assert held
            archived = archive_next(self.connection, str(self.root), before=datetime.now(UTC) - timedelta(days=90))
        assert archived is not None
        assert archived.batches == 1

    def _replay_last_batch(self) -> None:
        """Replay the batch. The worker has not corrected the summaries yet."""
        self.stream.materialize(self.last)

    def _try_challenger_and_recover(self) -> None:
        """Store what a shadow scores, and what a recovery remembers of the predictions topic."""
        self.connection.execute(
            "insert into shadow_predictions (event_id, event_timestamp, customer_id, model_version, risk_score, "
            "champion_version, champion_risk_score) select event_id, event_timestamp, customer_id, 2, risk_score, "
            "model_version, risk_score from churn_predictions"
        )
        self.connection.execute(
            "insert into recovered_predictions (event_id, risk_score, model_version, batch, kafka_partition, "
            "kafka_offset, published_at) select event_id, risk_score, model_version, batch, kafka_partition, "
            "kafka_offset, predicted_at from churn_predictions"
        )

    def _leave_staged_rows(self) -> None:
        """Stage rows with Spark's tasks, as if their run had died before it used them."""
        tasks = Tasks(self.stream.config)

        def die(order: ScoringOrder) -> None:
            tasks.score(order)
            raise Killed(order.attempt)

        self.stream.engine = ScoringEngine(die, backlog_events=1)
        with pytest.raises(Killed):
            self.stream.materialize(self.last)
        self.stream.engine = None

    def _write_files(self) -> None:
        schema, root = self.stream.config.schema, str(self.root)
        customers = pd.DataFrame({schema.id: [ERASED, OTHER], "Age": [50, 60], "Geography": ["Spain", "France"]})
        customers.attrs = {"file_rows": 2}
        values = [json.dumps({schema.id: str(each), "Age": "old"}) for each in (ERASED, OTHER)]
        quarantined = pd.DataFrame({"file": "a.csv", "row": [1, 2], "values": values, "reasons": "Age"})
        for name, frame in (("raw_customers", customers), ("quarantined_customers", quarantined)):
            write_bytes(join(root, ASSETS, f"{name}.parquet"), to_parquet(frame))
        lines = quarantined.to_csv(index=False, lineterminator="\r\n").encode()
        write_bytes(join(root, ASSETS, "customer_file_scores.parquet.rejected.csv"), lines)

    def _show_in_dagster(self) -> None:
        rows = [{"customer_id": each, "risk_score": 0.9} for each in (ERASED, OTHER)]
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization("high_risk_customers", metadata=rows_table("riskiest", rows))
        )
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("high_risk_customers"),
                check_name="rows",
                passed=False,
                description=f"Customer {ERASED} has two rows.",
            )
        )
