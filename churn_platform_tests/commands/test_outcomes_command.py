"""`churn outcomes` on real servers."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Message, TopicPartition
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.kafka import topics
from churn_platform.kafka.reading import read_all
from churn_platform.monitoring import outcomes
from churn_platform.monitoring.outcomes import IngestResult
from churn_platform.settings import settings
from churn_platform_tests.stream.streams import Stream, event

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["outcomes", *arguments], input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def sent(stream: Stream) -> list[Message]:
    """Return the messages in the outcomes topic."""
    return list(read_all(stream.config.kafka, settings().topics.outcomes))


def fields(message: Message) -> dict[str, object]:
    """Return the outcome in a message."""
    found = json.loads(message.value() or b"")
    assert isinstance(found, dict)
    return found


def ingest(stream: Stream) -> IngestResult:
    """Ingest all outcomes in the topic."""
    return outcomes.ingest(stream.connection, stream.admin, stream.config, settings().topics.outcomes)


@pytest.mark.slow
def test_outcomes_are_simulated_for_customers_with_predictions_and_the_topic_is_recorded(stream: Stream) -> None:
    stream.send([event(number, true_churn_label=number % 2) for number in range(40)])
    stream.send([event(number) for number in range(100, 140)])
    stream.stream()
    before = datetime.now(UTC)

    output = run("send", "--seed", "1")

    assert f"80 outcomes to {settings().topics.outcomes}" in output
    found = {int(str(fields(message)["CustomerId"])): fields(message) for message in sent(stream)}
    assert len(found) == 80
    for number in range(40):
        assert found[15_600_000 + number]["true_churn_label"] == number % 2
    assert {found[15_600_000 + number]["true_churn_label"] for number in range(100, 140)} <= {0, 1}
    assert all(datetime.fromisoformat(str(each["outcome_timestamp"])) >= before for each in found.values())
    assert {message.key() for message in sent(stream)} == {str(customer).encode() for customer in found}
    topic = topics.describe(stream.admin, settings().topics.outcomes)
    assert stream.rows("select topic_id, topic from created_topics where topic like '%outcomes%'") == [
        (topic.topic_id, topic.name)
    ]
    assert len(topic.partitions) == settings().topics.partitions
    assert ingest(stream).rejected == 0


@pytest.mark.slow
def test_bad_outcomes_are_refused_when_they_are_read(stream: Stream) -> None:
    stream.send([event(number) for number in range(60)])
    stream.stream()

    output = run("send", "--count", "50", "--bad", "1", "--seed", "3")

    assert "50 outcomes" in output
    assert "among them 50 bad" in output
    assert ingest(stream) == IngestResult(rejected=50)
    assert stream.value("select count(distinct reason) from refused_outcomes") != 1


def test_without_predictions_no_outcome_is_simulated(stream: Stream) -> None:
    assert "churn produce" in run("send", code=ExitCode.FAILED)
    assert settings().topics.outcomes not in stream.admin.list_topics(timeout=10).topics


def test_outcomes_of_a_csv_file_are_sent_by_column_name(stream: Stream, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text(
        "CustomerId,Surname,true_churn_label,outcome_timestamp,event_id\n"
        "15600001,Müller,1,2026-11-25T12:00:00+01:00,\n"
        ",,0,,order-7\n"
    )

    run("send", "--from", str(file))

    by_key = {message.key(): fields(message) for message in sent(stream)}
    assert by_key[b"15600001"] == {
        "true_churn_label": 1,
        "CustomerId": 15_600_001,
        "outcome_timestamp": "2026-11-25T12:00:00+01:00",
    }
    assert {"true_churn_label": 0, "event_id": "order-7"} in by_key.values()
    assert ingest(stream) == IngestResult(left=1, stayed=1)


def test_a_file_with_a_wrong_line_is_not_sent_and_the_line_is_reported(stream: Stream, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.json"
    lines = ('{"CustomerId": 1, "true_churn_label": 1}', "", '{"CustomerId": 1, "true_churn_label": "yes"}')
    file.write_text("\n".join(lines))

    output = run("send", "--from", str(file), code=ExitCode.CHECK_FAILED)

    assert 'Line 3: true_churn_label: expected 0 or 1, got "yes".' in output
    assert "1 of 2 lines" in output
    assert "nothing was sent" in output
    assert settings().topics.outcomes not in stream.admin.list_topics(timeout=10).topics
    assert "they were not sent" in run("send", "--from", str(file), "--skip-wrong", code=ExitCode.CHECK_FAILED)
    assert ingest(stream) == IngestResult(left=1)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.json", None, "cannot be read: No such file or directory"),
        ("outcomes.csv", b"customer;left\n1;1\n", "has no column true_churn_label"),
        (
            "outcomes.csv",
            "CustomerId,true_churn_label\nMüller,1\n".encode("latin-1"),
            "is not in UTF-8: byte 29 is 0xfc",
        ),
        ("outcomes.json", '{"CustomerId": 1, "true_churn_label": 1}\n'.encode("utf-16"), "is in UTF-16-LE"),
        ("outcomes.json", '{"CustomerId": 1, "true_churn_label": 1}\n'.encode("utf-16-be"), "is in UTF-16-BE"),
        ("outcomes.json", '{"CustomerId": 1, "true_churn_label": 1}\n'.encode("utf-32"), "is in UTF-32-LE"),
        ("outcomes.csv", "CustomerId,true_churn_label\n1,1\n".encode("utf-16"), "is in UTF-16-LE"),
    ],
)
def test_an_unreadable_file_is_reported(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    assert problem in run("send", "--from", str(tmp_path / name), code=ExitCode.FAILED)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("name", "content"),
    [("outcomes.json", ""), ("outcomes.json", "\n \n"), ("outcomes.csv", ""), ("outcomes.csv", "true_churn_label\n")],
)
def test_a_file_without_outcomes_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)

    assert "the file has no outcomes" in run("send", "--from", str(tmp_path / name), code=ExitCode.USAGE)


def test_a_line_above_the_limit_of_a_message_is_refused_with_the_limit(stream: Stream, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.json"
    good = {"CustomerId": 1, "true_churn_label": 1}
    file.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'note': 'x' * 3_000_000})}\n")

    output = run("send", "--from", str(file), code=ExitCode.CHECK_FAILED)

    assert "Line 2: The outcome has 3,000,052 bytes, more than the limit of 999,000 bytes" in output
    assert "Is Kafka up?" not in output
    run("send", "--from", str(file), "--skip-wrong", code=ExitCode.CHECK_FAILED)
    assert ingest(stream) == IngestResult(left=1)


def test_the_longest_outcome_is_sent(stream: Stream, tmp_path: Path) -> None:
    start = '{"true_churn_label": 1, "event_id": "' + "x" * 200 + '", "note": "'
    (tmp_path / "one.json").write_text(start + "x" * (999_000 - len(start) - 2) + '"}')

    run("send", "--from", str(tmp_path / "one.json"))

    assert ingest(stream) == IngestResult(left=1)


def test_a_csv_row_with_more_values_than_the_header_is_refused(stream: Stream, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text("CustomerId,true_churn_label\n1,1\n2,0,1,5\n3,0\n")

    output = run("send", "--from", str(file), code=ExitCode.CHECK_FAILED)

    assert "Line 3: The row has 4 values, but the header has 2 columns." in output
    assert settings().topics.outcomes not in stream.admin.list_topics(timeout=10).topics


def test_options_of_simulated_outcomes_are_refused_with_a_file() -> None:
    run("send", "--from", "outcomes.csv", "--count", "3", code=ExitCode.USAGE)


def test_lost_outcomes_are_accepted_after_the_topics_name(stream: Stream, tmp_path: Path) -> None:
    topic = settings().topics.outcomes
    (tmp_path / "one.json").write_text('{"CustomerId": 1, "true_churn_label": 1}\n' * 5)
    run("send", "--from", str(tmp_path / "one.json"))
    ingest(stream)
    run("send", "--from", str(tmp_path / "one.json"))
    [partition] = {message.partition() for message in sent(stream)}  # they have one key
    for future in stream.admin.delete_records([TopicPartition(topic, partition or 0, 8)]).values():
        future.result()
    move = ("reset", "--partition", str(partition), "--to", "8")

    assert "nothing was changed" in run(*move, code=ExitCode.CHECK_FAILED, typed="yes\n")
    output = run(*move, "--reason", "lost by retention", typed=f"{topic}\n")

    assert f"Drops offsets 5..7 of {topic}[{partition}]: 3, of which Kafka still holds 0." in output
    assert ingest(stream) == IngestResult(left=2)
    assert "is at offset 10" in run(*move, code=ExitCode.FAILED)
    assert "nothing was changed" in run("reset", "--partition", str(partition), "--to", "latest")
    assert stream.rows("select start_offset, end_offset, reason from outcome_skips") == [(5, 8, "lost by retention")]


def test_one_outcome_is_skipped_after_the_topics_name(stream: Stream, tmp_path: Path) -> None:
    topic = settings().topics.outcomes
    (tmp_path / "one.json").write_text('{"CustomerId": 1, "true_churn_label": 1}\n' * 3)
    run("send", "--from", str(tmp_path / "one.json"))
    [partition] = {message.partition() for message in sent(stream)}

    output = run("skip", "--partition", str(partition), "--offset", "1", "--yes-drop", topic)

    assert "The next run skips" in output
    assert ingest(stream) == IngestResult(left=2)


@pytest.mark.usefixtures("stream")
def test_a_missing_outcomes_topic_is_reported_with_a_remedy() -> None:
    output = run("reset", "--partition", "0", "--to", "latest", code=ExitCode.FAILED)

    assert "churn outcomes send" in output
    assert settings().topics.outcomes in output


def test_one_outcome_is_sent_for_a_customer_or_an_event(stream: Stream) -> None:
    run("send", "--customer", "15600001", "--left", "--at", "2026-11-24T09:15:30+01:00")
    run("send", "--event", "order-7", "--stayed", "--at", "2026-11-24")

    found = [fields(message) for message in sent(stream)]
    assert {"CustomerId": 15600001, "true_churn_label": 1, "outcome_timestamp": "2026-11-24T09:15:30+01:00"} in found
    assert {"event_id": "order-7", "true_churn_label": 0, "outcome_timestamp": "2026-11-24T00:00:00+00:00"} in found
    assert ingest(stream) == IngestResult(left=1, stayed=1)


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--customer", "15600001"], ExitCode.USAGE, "--left or --stayed"),
        (["--left"], ExitCode.USAGE, "--customer or --event"),
        (["--at", "2026-11-24"], ExitCode.USAGE, "--customer or --event"),
        (["--customer", "1", "--left", "--count", "3"], ExitCode.USAGE, "cannot be combined"),
        (["--customer", "S-1", "--left"], ExitCode.FAILED, "CustomerId: expected a whole number"),
        (["--customer", "1", "--left", "--at", "2099-01-01"], ExitCode.FAILED, "must be in the past"),
    ],
)
@pytest.mark.usefixtures("stream")
def test_an_outcome_that_would_be_rejected_is_not_sent(arguments: list[str], code: ExitCode, problem: str) -> None:
    assert problem in run("send", *arguments, code=code)
