"""`churn alerts` on real servers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.alerts import StatusOption
from churn_platform.commands.terminal import ExitCode
from churn_platform.database import alert_outbox, operator_conditions
from churn_platform.database.alert_outbox import Status
from churn_platform.database.connections import connect
from churn_platform.settings import settings
from churn_platform_tests.alerts.receivers import Behaviour, HttpReceiver, SmtpReceiver, always

runner = CliRunner(env={"COLUMNS": "200"})


def run(*arguments: str, code: int = 0) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["alerts", *arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.fixture
def connection(platform: str) -> Iterator[psycopg.Connection]:
    """A session in the database that the settings name."""
    with connect(platform, application_name="test", autocommit=True) as connection:
        yield connection


def write(connection: psycopg.Connection, **statuses: Status) -> dict[str, int]:
    """Write a message to crm for each name, with this status; return their ids."""
    for name, status in statuses.items():
        payload = {"subject": f"About {name}", "text": "Call."}
        alert_outbox.add(connection, kind="case", reference=name, payload=payload, targets=["crm"])
        connection.execute(
            "update alert_outbox set status = %s, last_error = 'No answer.' where reference = %s", (str(status), name)
        )
    return {each.reference: each.id for each in alert_outbox.find(connection, statuses=list(Status))}


def statuses(connection: psycopg.Connection) -> dict[str, Status]:
    return {
        each.reference: each.status for each in alert_outbox.find(connection, statuses=list(Status), dismissed=True)
    }


def test_the_list_shows_what_waits_failed_or_is_in_doubt(connection: psycopg.Connection) -> None:
    write(connection, a=Status.SENT, b=Status.PENDING, c=Status.IN_DOUBT, d=Status.FAILED)

    output = run("list")
    found = json.loads(run("list", "--json"))

    assert "1 pending, 0 sending, 1 sent, 1 in doubt, 1 failed." in output
    assert "About c" in output
    assert "No answer." in output
    assert "About a" not in output
    assert found["by_status"] == {"pending": 1, "sending": 0, "sent": 1, "in_doubt": 1, "failed": 1}
    assert [each["reference"] for each in found["messages"]] == ["d", "c", "b"]
    assert "About a" in run("list", "--all")
    assert "About d" not in run("list", "--status", "in_doubt")
    assert json.loads(run("list", "--target", "mail", "--json"))["messages"] == []


def test_messages_are_retried_confirmed_and_dismissed_by_number(connection: psycopg.Connection) -> None:
    ids = write(connection, a=Status.IN_DOUBT, b=Status.IN_DOUBT, c=Status.FAILED, d=Status.SENT)

    assert "1 message confirmed." in run("confirm", str(ids["a"]))
    assert "1 message sent again." in run("retry", str(ids["b"]))
    assert "1 message dismissed." in run("dismiss", str(ids["c"]))
    output = run("retry", str(ids["d"]), "999", code=ExitCode.CHECK_FAILED)

    assert f"Not failed or in doubt, so nothing was changed: {ids['d']}, 999." in output
    assert statuses(connection) == {"a": Status.SENT, "b": Status.PENDING, "c": Status.FAILED, "d": Status.SENT}
    assert "(dismissed)" in run("list", "--all")
    assert "(dismissed)" not in run("list")


def test_a_target_is_retried_without_what_is_in_doubt(connection: psycopg.Connection) -> None:
    write(connection, a=Status.IN_DOUBT, b=Status.FAILED)

    assert json.loads(run("retry", "--target", "crm", "--json"))["unchanged"] == []
    assert statuses(connection) == {"a": Status.IN_DOUBT, "b": Status.PENDING}
    run("retry", "--target", "crm", "--in-doubt")
    assert statuses(connection) == {"a": Status.PENDING, "b": Status.PENDING}


def test_messages_are_chosen_by_number_or_by_target(connection: psycopg.Connection) -> None:
    ids = write(connection, a=Status.FAILED)

    for arguments in ((), (str(ids["a"]), "--target", "crm")):
        assert "Choose messages" in run("retry", *arguments, code=ExitCode.USAGE)
    assert statuses(connection) == {"a": Status.FAILED}


def test_conditions_are_listed_and_an_open_one_is_the_exit_code(connection: psycopg.Connection) -> None:
    assert "No condition was found yet" in run("conditions")
    began = datetime(2026, 11, 29, 12, tzinfo=UTC)
    number = operator_conditions.begin(
        connection, name="disk-full", subject="disk of CHURN_LOCAL", details="9 %", at=began
    )

    assert "disk of CHURN_LOCAL" in run("conditions", code=ExitCode.CHECK_FAILED)
    operator_conditions.end(connection, number, at=began)
    (found,) = json.loads(run("conditions", "--json"))["conditions"]
    assert (found["name"], found["began"], found["ended"]) == ("disk-full", *["2026-11-29T12:00:00+00:00"] * 2)


@pytest.mark.usefixtures("platform")
def test_a_test_message_shows_which_targets_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Set ALERT_TARGETS or OPERATOR_TARGETS." in run("test", code=ExitCode.FAILED)
    with SmtpReceiver() as smtp, HttpReceiver(always(Behaviour.REFUSE)) as http:
        monkeypatch.setenv("ALERT_TARGETS", f"team={smtp.url}")
        monkeypatch.setenv("OPERATOR_TARGETS", f"pager={http.url}/s3cret")
        settings.cache_clear()

        assert run("test", "team") == "team (digest): sent.\n"
        output = run("test", code=ExitCode.CHECK_FAILED)
        assert "The targets are team, pager." in run("test", "nobody", code=ExitCode.USAGE)

    assert output == "team (digest): sent.\npager (operator): refused. The webhook answered with status 410.\n"
    assert smtp.kept.total() == 2


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("mode", "kind"), [("digest", "digest"), ("each", "case")])
def test_a_test_message_is_like_those_that_the_target_gets(
    mode: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpReceiver() as http:
        monkeypatch.setenv("ALERT_TARGETS", f"team={http.url}/team both={http.url}/both")
        monkeypatch.setenv("OPERATOR_TARGETS", f"pager={http.url}/pager both={http.url}/both")
        monkeypatch.setenv("ALERT_MODE", mode)
        settings.cache_clear()

        found = json.loads(run("test", "--json"))["targets"]

    assert [(each["target"], each["kind"], each["result"]) for each in found] == [
        ("team", kind, "sent"),
        ("both", kind, "sent"),
        ("both", "operator", "sent"),
        ("pager", "operator", "sent"),
    ]
    bodies = [(path.rpartition("/")[2], body["kind"], body) for path, _, body in http.requests]
    assert [each[:2] for each in bodies] == [(each["target"], each["kind"]) for each in found]
    for _, kind_of_body, body in bodies:
        assert body["subject"].startswith("Test: ")
        assert body["reference"] == "test"
        if kind_of_body == "operator":
            assert (body["condition"]["name"], body["condition"]["state"]) == ("test", "began")
        else:
            assert [(each["case_id"], each["rank"]) for each in body["cases"]] == [(0, 1)]
            assert "nobody to call" in body["text"]


def test_the_options_name_every_status() -> None:
    assert [each.value for each in StatusOption] == [each.value for each in Status]
