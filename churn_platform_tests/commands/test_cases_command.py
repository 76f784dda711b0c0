"""`churn cases`, with the retention team's own login."""

import csv
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from python_calamine import CalamineWorkbook
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.commands.terminal import ExitCode
from churn_platform.local.environment import RETENTION_VARIABLE
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import settings
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

runner = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def team(platform: str, bank_schema: CustomerSchema) -> Iterator[Team]:
    """A team with six cases, all in the contact arm; the commands use the retention team's login."""
    assert settings().postgres.retention_url is not None
    with psycopg.connect(platform, autocommit=True) as connection:
        team = new_team(connection, bank_schema, cases_per_day=4)
        earlier = timedelta(minutes=1)
        team.commit(*(Scored(n, 0.8, balance=1000.0 * n, ago=earlier) for n in range(1, 7)), explained=True)
        yield team


def run(*arguments: str, code: int = 0) -> str:
    """Run a command, which must end with this exit code; return both outputs."""
    outcome = runner.invoke(app, ["cases", *arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


def as_json(*arguments: str) -> Any:
    """Return the JSON of a command."""
    return json.loads(run(*arguments, "--json"))


def case_of(customer: int) -> str:
    """Return the number of a customer's case."""
    [case] = [each for each in as_json("list", "--all")["cases"] if each["customer_id"] == customer]
    return str(case["case_id"])


def test_the_list_names_customers_and_reasons(team: Team) -> None:
    assert team.called() == [6, 5, 4, 3]

    lines = run("list").splitlines()

    assert lines[0] == f"Call list of {datetime.now(UTC):%Y-%m-%d} (UTC)"
    assert [line.split()[2] for line in lines[2:]] == ["6", "5", "4", "3"]
    assert "Balance of 125,510 euros, Active member: no" in lines[2]
    assert "Balance of 125,510 euros raises the risk" in run("show", case_of(6))
    found = as_json("list")
    assert found["day"] == f"{datetime.now(UTC):%Y-%m-%d}"
    assert [case["customer_id"] for case in found["cases"]] == [6, 5, 4, 3]
    assert len(as_json("list", "--all")["cases"]) == 6


def test_a_called_customer_leaves_the_list_and_is_not_on_tomorrow_s(team: Team) -> None:
    run("contact", case_of(6), "--note", "will think about it", "--by", "ana")
    assert [(case["rank"], case["customer_id"]) for case in as_json("list")["cases"]] == [(1, 5), (2, 4), (3, 3)]
    assert [line.split()[0] for line in run("list").splitlines()[2:]] == ["1", "2", "3"]
    assert as_json("show", case_of(5))["rank"] == 1

    team.wait(days=1)
    team.commit(Scored(6, 0.95, balance=6_000.0))

    assert [case["customer_id"] for case in as_json("list")["cases"]] == [5, 4, 3, 2]
    shown = as_json("show", case_of(6))
    assert (shown["status"], shown["notes"]) == ("contacted", "will think about it")
    assert [(each["changed_by"], each["status"]) for each in shown["history"]] == [
        ("worker", "open"),
        ("ana", "contacted"),
    ]


def test_an_assigned_case_stays_on_the_list_of_its_owner(team: Team) -> None:
    assert team.called()
    case = case_of(5)

    assert run("assign", case, "--to", "bo") == f"Case {case} (customer 5) is assigned to bo.\n"

    assert [each["customer_id"] for each in as_json("list", "--owner", "bo")["cases"]] == [5]
    assert "5" in run("list")
    assert "bo" in run("show", case)


def test_a_call_by_accident_is_taken_back(team: Team) -> None:
    assert team.called()
    case = case_of(6)
    run("contact", case, "--note", "wrong line", "--by", "ana")

    assert run("undo", case, "--by", "ana") == f"Case {case} (customer 6) is open.\n"

    shown = as_json("show", case)
    assert (shown["status"], shown["notes"], shown["contacted_at"]) == ("open", None, None)
    assert [each["takes_back"] for each in shown["history"]] == [None, None, shown["history"][1]["change"]]
    assert "cannot be taken back" in run("undo", case, code=ExitCode.FAILED)


@pytest.mark.parametrize("result", ["kept", "lost", "dismissed"])
def test_a_case_is_closed_with_its_result_and_cannot_be_changed_afterwards(team: Team, result: str) -> None:
    assert team.called()
    case = case_of(6)

    run("close", case, "--as", result)

    assert [each["customer_id"] for each in as_json("list", "--status", result)["cases"]] == [6]
    output = run("contact", case, code=ExitCode.FAILED)
    assert f"Case {case} is {result}, which cannot become contacted" in output
    assert f"churn cases show {case}" in output


def test_a_case_that_does_not_exist_is_named(team: Team) -> None:
    assert team.called()
    for arguments in (("show", "999"), ("contact", "999"), ("assign", "999", "--to", "ana")):
        assert "There is no case 999" in run(*arguments, code=ExitCode.FAILED)


def test_a_call_is_recorded_once_and_a_second_person_learns_of_the_first(team: Team) -> None:
    assert team.called()
    case = case_of(6)
    run("contact", case, "--note", "reached", "--by", "ana")
    before = as_json("show", case)

    output = run("contact", case, "--note", "not reached", "--by", "bo", code=ExitCode.FAILED)

    assert f"Case {case} is contacted already: ana recorded this at {before['contacted_at'][:10]}" in output
    assert "Nothing was changed." in output
    assert as_json("show", case) == before


def test_a_call_that_was_taken_back_is_not_named_as_the_one_that_counts(team: Team) -> None:
    assert team.called()
    case = case_of(6)
    run("contact", case, "--by", "ana")
    run("undo", case, "--by", "ana")
    run("contact", case, "--by", "bo")

    output = run("contact", case, "--by", "cy", code=ExitCode.FAILED)

    assert f"Case {case} is contacted already: bo recorded this at" in output


def test_a_number_may_be_written_with_a_sign(team: Team) -> None:
    assert team.called()

    assert f"Case {case_of(6)} (customer 6) is contacted" in run("contact", f"#{case_of(6)}")
    assert as_json("show", f"#{case_of(6)}")["customer_id"] == 6


def test_the_id_of_a_customer_leads_to_the_case(team: Team) -> None:
    team.commit(Scored(15_634_602, 0.9))
    assert team.called()
    case = case_of(15_634_602)

    output = run("contact", "15634602", code=ExitCode.FAILED)

    assert "There is no case 15634602. Nothing was changed." in output
    assert f"Customer 15634602 has case {case} (open)." in output
    assert as_json("show", case)["status"] == "open"
    assert "'ana' is not the number of a case" in run("show", "ana", code=ExitCode.FAILED)
    assert "'\u0663' is not the number of a case" in run("show", "\u0663", code=ExitCode.FAILED)
    assert "There is no case 999" in run("show", "9" * 5000, code=ExitCode.FAILED)


def test_controls_are_never_shown_whatever_the_login(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.connection.execute("update retention_cases set arm = 'control', list_rank = null, list_day = null")

    for variable in (RETENTION_VARIABLE, "DATABASE_URL"):
        monkeypatch.setenv(RETENTION_VARIABLE, os.environ[variable])
        settings.cache_clear()
        assert as_json("list", "--all") == {"day": None, "cases": []}
        assert run("list") == "Nobody to call.\n"
        assert "churn cases list --all" in run("contact", "6", code=ExitCode.FAILED)  # the id of a control
        assert list(csv.reader(io.StringIO(run("export", "-", "--all"))))[1:] == []


def test_a_login_to_another_database_is_refused(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    other = team.connection.info.dsn.replace(team.connection.info.dbname, "another")
    monkeypatch.setenv(RETENTION_VARIABLE, f"{other} password=secret")
    settings.cache_clear()

    output = run("list", code=ExitCode.FAILED)

    assert "dbname=another" in output
    assert "secret" not in output


def test_the_list_is_exported_and_no_note_becomes_a_formula(team: Team, tmp_path: Path) -> None:
    assert team.called()
    run("assign", case_of(6), "--to", "=cmd", "--note", "=HYPERLINK(1)")

    assert "4 cases in" in run("export", str(tmp_path / "calls.csv"))
    run("export", str(tmp_path / "calls.xlsx"))

    rows = list(csv.DictReader(io.StringIO((tmp_path / "calls.csv").read_text(encoding="utf-8-sig"))))
    assert [row["customer_id"] for row in rows] == ["6", "5", "4", "3"]
    assert (rows[0]["owner"], rows[0]["notes"]) == ("'=cmd", "'=HYPERLINK(1)")
    sheet = CalamineWorkbook.from_path(tmp_path / "calls.xlsx").get_sheet_by_index(0).to_python()
    assert [row[1] for row in sheet] == ["Customer", 6.0, 5.0, 4.0, 3.0]
    assert len(list(csv.reader(io.StringIO(run("export", "-", "--all"))))) == 7
    assert "neither .csv nor .xlsx" in run("export", str(tmp_path / "calls.txt"), code=ExitCode.USAGE)


def test_a_list_of_another_day_is_shown_with_a_warning(team: Team) -> None:
    team.connection.execute("update retention_cases set list_day = list_day - 1 where list_day is not null")

    assert "this is not today's list" in run("list")


def test_a_customer_who_does_not_want_calls_is_blocked_with_the_platform_s_login(team: Team) -> None:
    run("block", "6", "--reason", "asked in writing", "--by", "ana")

    assert [case["customer_id"] for case in as_json("list", "--status", "dismissed")["cases"]] == [6]
    team.commit(Scored(6, 0.99))
    assert 6 not in team.called()
    assert run("unblock", "6") == "Customer 6 may be called again.\n"
    assert "was not on the do-not-contact list" in run("unblock", "6")
    for wrong in ("six", "1_0", "\u0663", "+6", " 6", "9" * 20):
        assert "is not the id of a customer" in run("block", wrong, "--reason", "x", code=ExitCode.USAGE)
