"""`churn status`, `stream`, `dlq` and `verify` on real servers."""

import json
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import advisory_locks, stream_pauses
from churn_platform.local.stack import Stack
from churn_platform.settings import settings
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str, code: int = 0, typed: str | None = None) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, list(arguments), input=typed)
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def stream_all(stream: Stream) -> str:
    """Stream all events; return the batch."""
    return stream.stream(idle_seconds=0.5).batch


@pytest.mark.slow
def test_status_shows_the_stream(stream: Stream) -> None:
    stream.send([event(1), event(2), b"bad"])
    batch = stream_all(stream)
    run("stream", "pause")

    output = run("status")
    found = json.loads(runner.invoke(app, ["status", "--json"]).stdout)

    for expected in (stream.config.events_topic, batch, "1 today, 1 unresolved", "Paused", "Model version"):
        assert expected in output
    assert found["stream"]["topic"] == stream.config.events_topic
    assert (found["stream"]["waiting"], found["stream"]["model_version"]) == (0, 1)
    assert {server["name"] for server in found["servers"]} >= {"kafka", "postgres", "daemon"}


@pytest.mark.usefixtures("platform")
def test_status_works_without_a_topic_and_a_champion() -> None:
    outcome = runner.invoke(app, ["status"])

    assert "No champion model yet" in outcome.output
    assert "does not exist" in outcome.output


def test_pause_and_resume_report_the_effect(stream: Stream) -> None:
    topic = stream.config.events_topic
    assert "none is launched" in run("stream", "pause")
    assert "already paused" in run("stream", "pause")
    assert stream_pauses.paused_since(stream.connection, topic) is not None
    assert "is resumed" in run("stream", "resume")
    assert "not paused" in run("stream", "resume")
    with psycopg.connect(
        stream.config.dsn, autocommit=True, application_name=advisory_locks.session_name("run")
    ) as live:
        advisory_locks.lock_stream(live, topic)
        assert "within about 5 s" in run("stream", "pause")


def test_a_pause_reports_the_end_of_a_run_only_if_a_run_is_live(stream: Stream) -> None:
    with psycopg.connect(stream.config.dsn, autocommit=True, application_name="churn reset") as other:
        advisory_locks.lock_stream(other, stream.config.events_topic)

        output = run("stream", "pause")
        found = json.loads(run("stream", "pause", "--json"))

    assert "No run is live" in output
    assert "'churn reset' holds the stream's lock" in output
    assert "Live runs end" not in output
    assert not found["live"]


def test_a_topic_that_was_never_read_is_not_paused(stream: Stream) -> None:
    for command in ("pause", "resume"):
        output = run("stream", command, "--topic", "no-such-topic", code=ExitCode.FAILED)
        assert "'no-such-topic' was never read here" in output
        assert stream.config.events_topic in output
    assert stream.value("select count(*) from stream_pauses") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("stream")
def test_status_ends_with_1_while_kafka_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    settings.cache_clear()

    assert "does not answer" in run("status", code=ExitCode.CHECK_FAILED)
    outcome = runner.invoke(app, ["status", "--json"])
    assert (outcome.exit_code, json.loads(outcome.stdout)["stream"]["answered"]) == (ExitCode.CHECK_FAILED, False)


def test_reset_asks_for_the_topics_name_and_reports_what_it_drops(stream: Stream) -> None:
    topic = stream.config.events_topic
    stream.waiting()
    stream.send([event(number) for number in range(7)], partition=1)
    move = ("stream", "reset", "--topic", topic, "--partition", "1", "--to", "5")

    assert "nothing was changed" in run(*move, code=1, typed="yes\n")
    assert stream.waiting() == 7
    output = run(*move, typed=f"{topic}\n")

    assert f"offsets 0..4 of {topic}[1]: 5, of which Kafka still holds 5" in output
    assert stream.waiting() == 2
    latest = ("stream", "reset", "--topic", topic, "--partition", "1", "--to", "latest", "--yes-drop", topic)
    run(*latest, "--reason", "only a test")
    assert "nothing was changed" in run(*latest)
    assert stream.rows("select start_offset, end_offset, reason from stream_skips order by 1") == [
        (0, 5, "accepted by hand"),
        (5, 7, "only a test"),
    ]


def test_reset_of_a_live_stream_is_refused_with_the_remedy(stream: Stream) -> None:
    topic = stream.config.events_topic
    with psycopg.connect(stream.config.dsn, autocommit=True) as live:
        advisory_locks.lock_stream(live, topic)

        output = run("stream", "reset", "--topic", topic, "--partition", "0", "--to", "latest", code=ExitCode.IN_USE)

    assert "churn stream pause" in output


@pytest.mark.slow
def test_dead_letters_are_listed_shown_corrected_and_resolved(stream: Stream) -> None:
    stream.send([event(1, Gender=None), event(2, Gender=None), b"\x1b[31mbad"], partition=0)
    stream_all(stream)

    listed = run("dlq", "list", "--reason", "gender", "--since", "1h", "--state", "open")
    assert " 0:0 " in listed  # not a time of the day
    assert " 0:1 " in listed
    assert " 0:2 " not in listed
    found = json.loads(run("dlq", "list", "--json", "--limit", "1"))
    assert [kind["count"] for kind in found["by_reason"]] == [2, 1]
    assert [dead_letter["state"] for dead_letter in found["dead_letters"]] == ["open"]
    shown = run("dlq", "show", "0:2")
    assert "\\x1b[31mbad" in shown
    assert "\x1b" not in shown
    assert "Gender" in run("dlq", "show", "0:1")

    assert "2 would be sent" in run("dlq", "retry", "--reason", "Gender", "--set", "Gender=Female", "--dry-run")
    assert stream.waiting() == 0
    assert "dead letter again" in run("dlq", "retry", "0:0", "--set", "Gender=Female", "--set", "Age=3", code=1)
    assert "2 sent" in run("dlq", "retry", "--reason", "Gender", "--set", "Gender=Female")
    again = ("dlq", "retry", "--reason", "Gender", "--set", "Gender=Female")
    assert "No open dead letter matches" in run(*again, code=ExitCode.CHECK_FAILED)
    assert "No open dead letter matches" in run(*again, "--dry-run", code=ExitCode.CHECK_FAILED)
    assert json.loads(run(*again, "--json", code=ExitCode.CHECK_FAILED))["sent"] == 0
    assert "2 are not resolved" in run("dlq", "retry", "0:0", "0:1", "--set", "Gender=Female", "--wait", "0", code=1)
    stream_all(stream)

    assert "0:0" in run("dlq", "list", "--state", "resolved")
    assert "No dead letter matches" in run("dlq", "list", "--state", "retried")
    assert len(stream.table_ids()) == 2
    run("verify")


@pytest.mark.slow
def test_one_dead_letter_is_retried_from_a_file(stream: Stream, tmp_path: Path) -> None:
    stream.send([b"half an eve"], partition=0)
    stream_all(stream)
    file = tmp_path / "corrected.json"
    file.write_text(json.dumps(event(5)))

    assert "--file" in run("dlq", "retry", "0:0", "--set", "Age=50", code=1)
    run("dlq", "retry", "0:0", "--file", str(file))
    stream_all(stream)

    assert stream.value("select customer_id from churn_predictions") == 15_600_005


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["0:1", "--reason", "x"],
        ["--reason", "x", "--file", "x.json"],
        ["0:1", "--since", "2h"],
        ["somewhere"],
        ["0:1", "--set", "Gender"],
        ["--reason", "x", "--since", "lately"],
        ["--reason", "x", "--since", "99999999d"],
        ["--reason", "x", "--limit", "99999999999999999999"],
    ],
)
def test_an_ambiguous_or_invalid_retry_is_refused(arguments: list[str]) -> None:
    run("dlq", "retry", *arguments, code=2)


@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["list", "--since", "99999999d"], 2, "before the year 1"),
        (["list", "--since", "9" * 5000 + "s"], 2, "--since"),
        (["list", "--since", "0001-01-01T00:00:00+14:00"], 2, "before the year 1"),
        (["list", "--since", "9999-12-31T23:59:59-14:00"], 2, "after the year 9999"),
        (["list", "--since", "9999-12-31T23:59:59-05:00"], 2, "after the year 9999"),
        (["list", "--since", "99990000d"], 2, "before the year 1"),
        (["list", "--since", "2026-02-30"], 2, "expected a time"),
        (["list", "--since", ""], 2, "expected a time"),
        (["list", "--since", "0001-01-01"], 0, "No dead letter matches"),
        (["list", "--limit", "99999999999999999999"], 2, "--limit"),
        (["list", "--reason", "\udcff"], 4, "does not accept a value"),
        (["list", "--reason", "\0"], 4, "does not accept a value"),
        (["show", "99999999999999999999:99999999999999999999"], 4, "There is no dead letter at"),
        (["show", "0:" + "9" * 5000], 2, "is not a place"),
        (["show", "0:1", "--topic-id", "\0"], 4, "does not accept a value"),
        (["retry", "0:99999999999999999999"], 4, "There is no dead letter at"),
    ],
)
def test_unusual_arguments_are_refused_with_one_message(arguments: list[str], code: int, expected: str) -> None:
    assert expected in run("dlq", *arguments, code=code)


@pytest.mark.slow
def test_a_value_that_is_not_a_json_number_is_text_in_a_correction(stream: Stream) -> None:
    stream.send([event(1, Age=7)], partition=0)
    stream_all(stream)

    for age in ("NaN", "Infinity", "1e999"):
        assert f'got "{age}"' in run("dlq", "retry", "0:0", "--set", f"Age={age}", code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--partition", "99999999999999999999", "--to", "1"],
        ["--partition", "0", "--to", "99999999999999999999"],
        ["--partition", "0", "--to", "9" * 5000],
        ["--partition", "0", "--to", "-5"],
    ],
)
def test_a_reset_to_an_invalid_offset_is_refused_with_one_message(stream: Stream, arguments: list[str]) -> None:
    stream.waiting()
    output = run("stream", "reset", "--topic", stream.config.events_topic, *arguments, code=ExitCode.FAILED)
    assert stream.config.events_topic in output or "--to" in output


@pytest.mark.parametrize("topic", ["../x", "", "no-such-topic"])
def test_a_topic_that_cannot_be_recreated_is_refused_before_the_prompt(stream: Stream, topic: str) -> None:
    output = run("stream", "recreate-topic", "--topic", topic, code=ExitCode.FAILED)

    assert f"{topic!r} is not read as events; EVENTS_TOPIC is {stream.config.events_topic!r}" in output
    assert "Type the topic's name" not in output


def test_an_events_topic_that_does_not_exist_is_refused_before_the_prompt(stream: Stream) -> None:
    topic = stream.config.events_topic
    for future in stream.admin.delete_topics([topic]).values():
        future.result()
    wait_until(lambda: topic not in stream.admin.list_topics(timeout=10).topics)

    output = run("stream", "recreate-topic", "--topic", topic, code=ExitCode.FAILED)

    assert topic in output
    assert "Type the topic's name" not in output


def test_a_database_without_the_schema_and_a_login_without_rights_are_reported(
    stream: Stream, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(stack.owner_dsn, autocommit=True) as owner:
        owner.execute("create role nobodys login password 'x'")
    for changes, expected in (({"dbname": "postgres"}, "churn db upgrade"), ({"user": "nobodys"}, "permission denied")):
        dsn = make_conninfo(stream.config.dsn, **{"password": "x"} if "user" in changes else {}, **changes)
        monkeypatch.setenv("DATABASE_URL", dsn)
        settings.cache_clear()
        for command in (["dlq", "list"], ["dlq", "show", "0:1"], ["stream", "pause"], ["stream", "resume"]):
            assert expected in run(*command, code=ExitCode.FAILED)


@pytest.mark.usefixtures("stream")
def test_a_missing_dead_letter_is_an_error() -> None:
    assert "churn dlq list" in run("dlq", "show", "0:9", code=ExitCode.FAILED)


@pytest.mark.slow
def test_verify_ends_with_1_if_an_invariant_is_violated(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream_all(stream)

    assert "Every invariant holds" in run("verify")
    stream.connection.execute("delete from churn_predictions where kafka_partition = 1")
    output = run("verify", code=1)
    found = json.loads(runner.invoke(app, ["verify", "--json"]).stdout)

    assert "✗ rows of batches" in output
    assert "is published, but not in the table" in output
    assert not found["holds"]
    assert {invariant["name"] for invariant in found["invariants"] if not invariant["holds"]} == {
        "rows of batches",
        "hours of batches",
        "published",
    }
