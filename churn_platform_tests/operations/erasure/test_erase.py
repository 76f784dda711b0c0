"""`churn customer`: an export and an erasure reach every place, and whatever happens later stores nothing again."""

import io
import json
import signal
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import customer_rows
from churn_platform.database.customer_columns import WITH_CUSTOMER_ID
from churn_platform.kafka.reading import read_all
from churn_platform.local.stack import Stack
from churn_platform.operations.backup.backup import Source, back_up
from churn_platform.operations.backup.restore import Target, write_files
from churn_platform.operations.recovery.files import find_problems
from churn_platform_tests.operations.erasure.lives import ERASED, OTHER, Life, files_with, places_with
from churn_platform_tests.operations.test_verification import violated
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

runner = CliRunner(env={"COLUMNS": "200"})

# Tables that hold no customer: states, sums, and documents about models and the platform.
WITHOUT_CUSTOMERS = {
    "canary_errors", "canary_scores", "challenger_keys", "challengers", "churn_batch_hours", "churn_metrics_daily",
    "churn_metrics_hourly", "created_topics", "customer_schemas", "customer_segment_summary", "customer_views",
    "dead_letter_totals", "dirty_hours", "drift_daily", "drift_hourly", "environment_identity", "environments",
    "erased_customers", "erasure_state", "erasures", "live_performance", "log_truncations", "model_evaluations",
    "model_promotions", "model_references", "model_versions", "operator_conditions", "outcome_positions",
    "outcome_reads", "outcome_skips", "prediction_summary", "retention_effect", "retention_keys",
    "schema_migrations", "shadow_comparisons", "spark_attempts", "spark_tasks", "stream_batches", "stream_lag",
    "stream_layouts", "stream_minutes", "stream_pauses", "stream_positions", "stream_ranges", "stream_recoveries",
    "stream_skips", "stream_topics", "stream_totals", "summary_state", "worker_observations", "worker_positions",
}  # fmt: skip
WITH_MESSAGES = {"dead_letter_events", "refused_outcomes", "alert_outbox", "spark_dead_letters"}

ERASE_IN_A_PROCESS = """
from churn_platform.operations.erasure.config import ErasureConfig
from churn_platform.operations.erasure.erase import erase
from churn_platform.settings import settings
erase(ErasureConfig.from_settings(settings()), {customer}, erased_by="test")
"""


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run a command, which must end with this exit code; return its output."""
    outcome = runner.invoke(app, ["customer", *arguments], input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.stdout


def erase(customer_id: int = ERASED) -> dict[str, Any]:
    """Erase a customer; return the report."""
    report: dict[str, Any] = json.loads(run("erase", str(customer_id), "--yes", str(customer_id), "--json"))
    return report


def test_every_table_is_known_to_erasures(database: str) -> None:
    with psycopg.connect(database) as connection:
        tables = {
            name
            for (name,) in connection.execute(
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
            )
        }
        with_id = {
            name
            for (name,) in connection.execute(
                "select table_name from information_schema.columns join information_schema.tables "
                "using (table_schema, table_name) where table_schema = 'public' and column_name = 'customer_id' "
                "and table_type = 'BASE TABLE'"
            )
        }

    known = {place.table for place in customer_rows.PLACES}
    assert tables == known | WITH_MESSAGES | WITHOUT_CUSTOMERS, (
        "Add a new table to customer_rows.PLACES if its rows are about customers, or to WITHOUT_CUSTOMERS."
    )
    assert with_id == set(WITH_CUSTOMER_ID)
    assert with_id <= known


def test_nothing_is_left_of_a_customer_who_was_in_every_place(life: Life, tmp_path: Path) -> None:
    planned = json.loads(run("erase", str(ERASED), "--dry-run", "--json"))
    assert [place for place, count in planned["counts"].items() if not count] == []
    exported = export(tmp_path / "customer.zip")
    assert [place for place, count in exported["searched"].items() if not count] == []
    others_before = rows_of_others(life)

    report = erase()

    expected = {place: count for place, count in planned["counts"].items() if place != "Dagster's metadata"}
    assert {place: report["counts"][place] for place in expected} == expected
    assert places_with(life.connection, str(ERASED)) == []
    assert files_with(life.root, ERASED) == []
    assert files_with(life.root, OTHER) != []
    assert rows_of_others(life) == others_before
    assert violated(life.stream) == set()
    life.summarize()
    assert violated(life.stream) == set()
    assert erase()["counts"] == {**{place: 0 for place in report["counts"] if not place.startswith("file ")}}
    audit = life.stream.rows("select erased_by, login, finished is not null, counts::text from erasures")
    assert all(finished and str(ERASED) not in str(row) for *row, finished, _ in [(a, b, c, d) for a, b, c, d in audit])


def rows_of_others(life: Life) -> dict[str, int]:
    """Return the number of rows about others, by table. What Spark has staged is of nobody: an erasure discards it."""
    found = {}
    for table in set(WITH_CUSTOMER_ID) - {"spark_predictions"}:
        query = sql.SQL("select count(*) from {} where customer_id <> {}").format(sql.Identifier(table), ERASED)
        row = life.connection.execute(query).fetchone()
        found[table] = 0 if row is None else int(row[0])
    return found


def export(file: Path) -> dict[str, Any]:
    """Export the customer to a ZIP file; return its index."""
    run("export", str(ERASED), "--output", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        index: dict[str, Any] = json.loads(archive.read("index.json"))
        documents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert index["customer_id"] == ERASED
    assert all(str(OTHER) not in text for text in documents.values())
    return index


def test_an_export_to_standard_output_is_json(life: Life) -> None:
    found = json.loads(run("export", str(ERASED)))

    [summary] = found["places"]["customer_summary"]
    assert summary["customer_id"] == ERASED
    assert "15987654" in found["places"]["dead_letter_events"][0]["payload"]
    assert len(found["places"]["archive"]) == found["searched"]["archive"] == 2
    assert json.loads(run("export", "1"))["searched"]["churn_predictions"] == 0
    run("export", "1", "--output", "customer.txt", code=ExitCode.USAGE)
    assert life.root.exists()


def test_an_erasure_has_to_be_confirmed_with_the_id(life: Life) -> None:
    run("erase", str(ERASED), typed="yes\n", code=ExitCode.CHECK_FAILED)
    run("erase", str(ERASED), "--yes", "1", code=ExitCode.CHECK_FAILED)
    run("erase", str(ERASED), "--json", code=ExitCode.USAGE)
    run("erase", "somebody", "--yes", "somebody", code=ExitCode.USAGE)
    run("erase", "9" * 30, "--dry-run", code=ExitCode.USAGE)  # more than 64 bits

    assert life.stream.value("select count(*) from erased_customers") == 0
    assert "churn_predictions" in run("erase", str(ERASED), typed=f"{ERASED}\n")
    assert life.stream.value("select count(*) from erased_customers") == 1


def test_nothing_about_an_erased_customer_is_stored_later(life: Life) -> None:
    erase()

    life.run([life.own(), event(9)])
    life.send_outcomes({"CustomerId": ERASED, "true_churn_label": 1}, {"CustomerId": ERASED})
    life.stream.materialize(life.last)
    life.summarize()
    life._score_file()

    assert places_with(life.connection, str(ERASED)) == []
    assert violated(life.stream) == set()
    assert life.stream.rows("select count(*), count(payload) from refused_outcomes where reason like '%%erased%%'") == [
        (5, 0)
    ]


def test_an_erasure_that_is_killed_is_completed_by_the_next_one(life: Life) -> None:
    """Killed before, in and after the transaction, it has erased all rows or none, and no sum is wrong."""
    moments = (
        "select count(*) > 0 from pg_stat_activity where application_name = 'churn erasure'",
        "select count(*) > 0 from pg_locks where relation = 'erasure_state'::regclass and mode = 'ExclusiveLock'",
        "select count(*) > 0 from erasures where finished is null",
    )
    for moment in moments:
        process = subprocess.Popen([sys.executable, "-c", ERASE_IN_A_PROCESS.format(customer=ERASED)])
        wait_until(lambda: life.stream.value(moment) is True or process.poll() is not None)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert violated(life.stream) == set()

    erase()

    assert places_with(life.connection, str(ERASED)) == []
    assert files_with(life.root, ERASED) == []
    assert violated(life.stream) == set()


def test_a_restored_backup_is_erased_again(life: Life) -> None:
    """The tables are as they were before the erasure. Only the artifacts know of it."""
    backup = {
        table: life.connection.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall()
        for table in ("do_not_contact",)
    }
    erase()
    with psycopg.connect(life.stream.config.dsn) as connection:
        for row in backup["do_not_contact"]:
            connection.execute("insert into do_not_contact values (%s, %s, %s, %s)", row)
    assert places_with(life.connection, str(ERASED)) != []

    found = json.loads(run("erase-again", "--json"))

    assert len(found["erased"]) == 1
    assert places_with(life.connection, str(ERASED)) == []
    assert json.loads(run("erase-again", "--json")) == {"added_to_the_list": 0, "erased": []}


def test_what_only_messages_and_files_of_a_backup_bring_back_is_erased_again(life: Life) -> None:
    """These customers never had a prediction, so no table has their ids in a column."""
    of_message, of_file = 15_777_001, 15_777_002
    life.run([json.dumps({**event(CustomerId=of_message), "Age": "old"}).encode()])
    rejected = f'file,row,values,reasons\r\na.csv,1,"{{""CustomerId"": ""{of_file}""}}",Age\r\n'.encode()
    file = life.root / "assets" / "customer_file_scores.parquet.rejected.csv"
    backup = life.stream.rows("select * from dead_letter_events")
    for each in (of_message, of_file):
        erase(each)
    with psycopg.connect(life.stream.config.dsn) as connection:
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(backup[0]))
        connection.execute("delete from dead_letter_events")
        connection.cursor().executemany(sql.SQL("insert into dead_letter_events values ({})").format(marks), backup)
    file.write_bytes(rejected)

    found = json.loads(run("erase-again", "--json"))

    assert len(found["erased"]) == 2
    for each in (of_message, of_file):
        assert places_with(life.connection, str(each)) == []
        assert files_with(life.root, each) == []


def test_an_erasure_after_a_restore_keeps_the_list_of_earlier_ones(life: Life, stack: Stack) -> None:
    """Somebody restored the database to before the first erasure, and erases another customer before recovering."""
    erase()
    name = str(conninfo_to_dict(life.stream.config.dsn)["dbname"])
    with psycopg.connect(make_conninfo(stack.owner_dsn, dbname=name)) as owner:
        owner.execute("truncate erased_customers, erasure_state")

    erase(OTHER)

    kept = json.loads((life.root / "assets" / ".erased-customers.json").read_text())
    assert len(kept["hashes"]) == life.stream.value("select count(*) from erased_customers") == 2


def test_the_files_of_an_earlier_backup_bring_back_no_archived_rows(life: Life, stack: Stack, tmp_path: Path) -> None:
    """An erasure replaces an archive file by another, so the one in the backup is missing, and should be."""
    config, name = life.stream.config, str(conninfo_to_dict(life.stream.config.dsn)["dbname"])
    owner_dsn, root, backup = make_conninfo(stack.owner_dsn, dbname=name), str(life.root), str(tmp_path / "backup")
    source = Source(config=config, owner_dsn=owner_dsn, outcomes_topic="outcomes", artifacts_root=root, settings={})
    written = back_up(source, backup, lambda _step, _count: None)
    erase()
    target = Target(owner_dsn=owner_dsn, schema=config.schema, artifacts_root=root)

    write_files(backup, written, target, lambda _step, _count: None, replaces=False)

    assert files_with(life.root, ERASED) == []


def test_a_ledger_of_before_an_erasure_finds_the_archive_file_of_after_it(life: Life) -> None:
    """Only the database was restored. The file that it names is gone, and its successor holds all other customers."""
    [(former,)] = life.stream.rows("select archive from stream_batches where archive is not null")
    erase()
    [(successor,)] = life.stream.rows("select archive from stream_batches where archive is not null")
    assert former != successor
    life.connection.execute("update stream_batches set archive = %s where archive is not null", (former,))
    assert not [problem for problem in find_problems(life.connection) if "archive file" in problem]

    erase(1)

    assert life.stream.rows("select archive from stream_batches where archive is not null") == [(successor,)]
    assert OTHER in pd.read_parquet(str(successor))["customer_id"].tolist()


def test_the_report_says_until_when_kafka_keeps_what(life: Life) -> None:
    stream = life.stream

    remains = {each["place"]: each for each in erase()["remains"]}

    until = datetime.fromisoformat(remains[f"Kafka topic {stream.config.events_topic}"]["until"])
    retention = stream.config.kafka.retention
    assert abs(until - (datetime.now(UTC) + retention)) < timedelta(minutes=5)
    assert any(place.startswith("customers file") for place in remains)


def test_a_compacted_topic_gets_a_tombstone(life: Life) -> None:
    stream = life.stream
    compact(stream, stream.config.predictions_topic)

    report = erase()

    assert report["counts"]["tombstones"] == 1
    messages = list(read_all(stream.config.kafka, stream.config.predictions_topic))
    [tombstone] = [each for each in messages if each.value() is None]
    assert tombstone.key() == str(ERASED).encode()
    assert tombstone.partition() == next(each.partition() for each in messages if each.key() == tombstone.key())
    assert violated(stream) == set()


def compact(stream: Stream, topic: str) -> None:
    """Make a topic compacted."""
    entry = ConfigEntry(
        "cleanup.policy",
        "compact",
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in stream.admin.incremental_alter_configs([resource]).values():
        future.result()
