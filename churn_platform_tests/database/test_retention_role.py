"""The retention team's login: reads and changes cases of the contact arm, learns nothing of the control arm."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.database import case_reading, retention_cases
from churn_platform.database.retention_cases import CaseError
from churn_platform.local.environment import RETENTION_VARIABLE
from churn_platform.local.stack import Stack
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

SECRET_RISK = 0.987654


@dataclass
class Retention:
    """A team with a case in each arm, and the retention team's own session."""

    team: Team
    connection: psycopg.Connection
    contact: int
    control: int

    def case(self, customer: int) -> int:
        """Return the number of a customer's case."""
        [(number,)] = self.team.connection.execute(
            "select case_id from retention_cases where customer_id = %s", (customer,)
        ).fetchall()
        return int(number)


@pytest.fixture
def retention(stack: Stack, database: str, bank_schema: CustomerSchema) -> Iterator[Retention]:
    """A contact and a control with a case each."""
    name = str(conninfo_to_dict(database)["dbname"])
    login = make_conninfo(stack.environment[RETENTION_VARIABLE], dbname=name)
    with (
        psycopg.connect(database, autocommit=True) as connection,
        psycopg.connect(login, autocommit=True) as retention,
    ):
        team = new_team(connection, bank_schema, control_share=0.5)
        team.commit(*(Scored(number, SECRET_RISK) for number in range(1, 40)), explained=True)
        arms = dict(team.rows("select arm, min(customer_id) from retention_cases group by 1"))
        yield Retention(team, retention, contact=arms["contact"], control=arms["control"])


def test_it_reads_the_call_list_and_the_history_of_the_contact_arm_only(retention: Retention) -> None:
    controls = {case for (case,) in retention.team.rows("select case_id from retention_cases where arm = 'control'")}
    assert controls
    for query in (
        "select case_id from v_call_list",
        "select case_id from v_retention_case_history",
        "select case_id from retention_cases",
    ):
        found = {case for (case,) in retention.connection.execute(query).fetchall()}
        assert found
        assert not found & controls


def test_it_changes_status_owner_and_notes_and_the_history_names_its_login(retention: Retention) -> None:
    case = retention.case(retention.contact)

    retention.connection.execute(
        "update retention_cases set status = 'assigned', owner = 'ana', notes = 'calls tomorrow' where case_id = %s",
        (case,),
    )
    retention_cases.change(retention.connection, case, status="contacted", note="reached", actor="ana")

    found = case_reading.get(retention.connection, case)
    assert found is not None
    assert (found.status, found.owner, found.notes) == ("contacted", "ana", "calls tomorrow\nreached")
    assert found.contacted_at is not None
    assert found.rank is None
    assert [
        (each.changed_by, each.login, each.status) for each in case_reading.history(retention.connection, case)
    ] == [
        ("worker", "churn_platform", "open"),
        ("churn_retention_team", "churn_retention_team", "assigned"),
        ("ana", "churn_retention_team", "contacted"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "update retention_cases set risk_score = 0",
        "update retention_cases set arm = 'control'",
        "update retention_cases set priority = 1e9",
        "update retention_cases set contacted_at = null",
        "update retention_cases set list_rank = 1, list_day = current_date",
        "update retention_cases set status = 'expired'",
        "insert into retention_cases (customer_id) values (1)",
        "delete from retention_cases",
        "truncate retention_cases",
        "alter table retention_cases disable row level security",
        "select * from retention_case_history",
        "insert into retention_case_history (case_id, changed_by, login, status) values (1, 'a', 'b', 'open')",
        "select * from retention_keys",
        "select * from challenger_keys",
        "select * from shadow_predictions",
        "select * from retention_list_entries",
        "select * from do_not_contact",
        "insert into do_not_contact values (1, 'a', 'b')",
        "select * from churn_predictions",
        "select * from high_risk_customers",
        "select * from v_top_risk_customers",
        "select * from customer_outcomes",
        "select * from worker_observations",
        "select require_advanced(1, 1, 1, 1, 1)",
        "create table public.mine (a integer)",
        "set role churn_writer",
        "set session authorization churn_platform",
        "select pg_read_file('postgresql.conf')",
    ],
)
def test_it_may_not(retention: Retention, statement: LiteralString) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        retention.connection.execute(statement)


def test_it_changes_cases_and_not_the_call_list(retention: Retention) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="cannot update view"):
        retention.connection.execute("update v_call_list set status = 'dismissed'")


def test_it_reads_no_other_table(retention: Retention) -> None:
    names = retention.team.rows(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'S')"
    )
    readable = set()
    for (name,) in names:
        try:
            retention.connection.execute(sql.SQL("select * from {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            continue
        readable.add(name)

    assert readable == {"retention_cases", "v_call_list", "v_retention_case_history"}


def test_a_control_s_case_is_neither_changed_nor_shown(retention: Retention) -> None:
    case = retention.case(retention.control)

    assert (
        retention.connection.execute(
            "update retention_cases set status = 'contacted' where case_id = %s", (case,)
        ).rowcount
        == 0
    )
    assert case_reading.get(retention.connection, case) is None
    with pytest.raises(CaseError, match=f"There is no case {case}"):
        retention_cases.change(retention.connection, case, status="contacted", actor="ana")
    assert retention.team.rows("select distinct status from retention_cases where arm = 'control'") == [("open",)]


@pytest.mark.parametrize("source", ["v_call_list", "v_retention_case_history", "retention_cases"])
def test_a_function_of_its_own_sees_no_control(retention: Retention, source: LiteralString) -> None:
    """A cheap function in a condition would run before a view's own condition if the view were no barrier."""
    seen: list[str] = []
    retention.connection.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
    retention.connection.execute(
        "create function pg_temp.tell(id bigint) returns boolean language plpgsql cost 0.0000001 as "
        "$$ begin raise notice '%', id; return true; end $$"
    )
    retention.connection.execute(sql.SQL("select case_id from {} where pg_temp.tell(case_id)").format(sql.SQL(source)))

    controls = {
        str(case) for (case,) in retention.team.rows("select case_id from retention_cases where arm = 'control'")
    }
    assert seen
    assert not set(seen) & controls


def test_statistics_show_nothing_of_the_table(retention: Retention, stack: Stack) -> None:
    owner = make_conninfo(stack.owner_dsn, dbname=retention.connection.info.dbname)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("analyze")

    assert retention.connection.execute(
        "select count(*) from pg_stats where tablename = 'retention_cases'"
    ).fetchone() == (0,)


@pytest.mark.parametrize(("before", "after"), [("kept", "open"), ("contacted", "assigned"), ("dismissed", "contacted")])
def test_a_change_that_is_not_allowed_is_an_error_that_names_both_states(
    retention: Retention, before: str, after: str
) -> None:
    case = retention.case(retention.contact)
    retention_cases.change(retention.connection, case, status=before, actor="ana")

    with pytest.raises(CaseError, match=f"Case {case} is {before}, which cannot become {after}"):
        retention_cases.change(retention.connection, case, status=after, owner="ana", actor="ana")


def test_the_list_is_current_for_the_team_after_its_own_changes(retention: Retention) -> None:
    first, *others = [each.case_id for each in case_reading.call_list(retention.connection)]

    retention_cases.change(retention.connection, first, status="contacted", actor="ana")
    assert [each.case_id for each in case_reading.call_list(retention.connection)] == others

    retention.team.follow()
    assert len(case_reading.call_list(retention.connection)) == 9  # ten a day, and one was called
