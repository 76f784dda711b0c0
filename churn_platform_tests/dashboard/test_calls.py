"""The pages for people who call customers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.users import User, hash_password, write_users
from churn_platform.database import case_reading, retention_cases
from churn_platform.database.case_reading import Case
from churn_platform.database.retention_cases import CaseError
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform_tests.dashboard.accessibility import barriers, open_without_errors, unreachable
from churn_platform_tests.dashboard.site import Site, serving
from churn_platform_tests.worker.ledger import Scored
from churn_platform_tests.worker.teams import Team, new_team

LIST = "Whom to call today"
PASSWORD = "a long password"  # noqa: S105
MINUTE = timedelta(minutes=1)


@pytest.fixture
def team(connection: psycopg.Connection, bank_schema: CustomerSchema) -> Team:
    """A team that calls three customers a day and has four at risk: 1 in Spain, 2 to 4 in Germany, 1 first."""
    found = new_team(connection, bank_schema, cases_per_day=3, timezone=ZoneInfo("Europe/Berlin"))
    found.commit(
        Scored(1, 0.9, balance=9_000.0, country="Spain", ago=MINUTE),
        Scored(2, 0.9, balance=8_000.0, ago=MINUTE),
        Scored(3, 0.9, balance=7_000.0, ago=MINUTE),
        Scored(4, 0.9, balance=6_000.0, ago=MINUTE),
        explained=True,
    )
    return found


def case_of(team: Team, customer: int) -> Case:
    """Return the case of a customer."""
    [(number,)] = team.connection.execute(
        "select max(case_id) from retention_cases where customer_id = %s", (customer,)
    ).fetchall()
    found = case_reading.get(team.connection, number)
    assert found is not None
    return found


def last_change(team: Team, case: Case) -> str:
    """Return the number of the last change of a case, as forms carry it."""
    return str(case_reading.last_changes(team.connection, [case.case_id])[case.case_id])


def sent(site: Site, team: Team, customer: int, action: str, form: Mapping[str, str]) -> httpx.Response:
    """Send the form of a customer's case as the page has it now, with these changes."""
    case = case_of(team, customer)
    fields = {"action": action, "change": last_change(team, case), "back": "/calls", **form}
    return site.send(f"/calls/{case.case_id}", page=f"/calls/{case.case_id}", **fields)


def act(site: Site, team: Team, customer: int, action: str, /, **form: str) -> str:
    """Change a customer's case, and return where that leads."""
    answer = sent(site, team, customer, action, form)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def refused(site: Site, team: Team, customer: int, action: str, status: int, /, **form: str) -> str:
    """Try to change a customer's case, which has to be refused with this status, and return what the page says."""
    answer = sent(site, team, customer, action, form)
    assert answer.status_code == status, answer.text
    return answer.text


@pytest.fixture
def viewer(config: DashboardConfig, tmp_path: Path) -> Iterator[Site]:
    """The same dashboard for somebody who may not change cases."""
    users = tmp_path / "users"
    write_users(users, {"vera": User("vera", "viewer", hash_password(PASSWORD))})
    with serving(replace(config, users_file=users)) as site:
        answer = site.client.post("/login", data={"name": "vera", "password": PASSWORD}, headers={"origin": site.url})
        assert answer.status_code == 303
        yield site


# The list


def test_without_cases_the_list_says_what_is_missing(site: Site) -> None:
    page = site.page("/calls")
    assert page.figure("Left to call today") == "0"
    assert "Nobody to call: no case waits for a call." in page.text


@pytest.mark.usefixtures("team")
def test_shows_the_best_cases_within_the_capacity(site: Site) -> None:
    page = site.page("/calls")
    rows = page.rows(LIST)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1].split()[0] for row in rows] == ["1", "2", "3"]
    assert rows[0][2:5] == ["90 %", "9,000 EUR", "8,100 EUR"]
    assert "Balance of 125,510 euros raises the risk" in rows[0][5]
    assert page.figure("Left to call today") == "3"
    assert page.figure("Capacity") == "3"
    assert page.figure("Calls done today") == "0"
    assert page.figure("Priority of the list") == "21,600 EUR"
    assert "/customers/1" in page.links()


def test_is_filtered_by_owner_and_by_segment(site: Site, team: Team) -> None:
    act(site, team, 2, "assign-to-me")
    assert [row[0] for row in site.page("/calls?who=mine").rows(LIST)] == ["2"]
    assert [row[0] for row in site.page("/calls?who=nobody").rows(LIST)] == ["1", "3"]
    assert [row[0] for row in site.page("/calls?in_geography=Germany&who=nobody").rows(LIST)] == ["3"]
    assert "No case on today's list matches" in site.page("/calls?in_geography=France").text


def test_a_list_of_another_day_is_named_as_such(site: Site, team: Team) -> None:
    assert "Today's list is missing" not in site.page("/calls").text
    team.connection.execute("update retention_cases set list_day = '2020-02-01' where list_day is not null")
    assert "This is the list of 1 Feb 2020. Today's list is missing" in site.page("/calls").text


def test_says_when_the_calls_of_the_day_are_done(site: Site, team: Team) -> None:
    for customer in (1, 2, 3):
        act(site, team, customer, "contacted")
    team.follow()
    page = site.page("/calls")
    assert page.figure("Calls done today") == "3"
    assert "Today's calls are done" in page.text


def test_the_control_group_is_on_no_page(
    site: Site, connection: psycopg.Connection, bank_schema: CustomerSchema
) -> None:
    team = new_team(connection, bank_schema, control_share=0.5, cases_per_day=100)
    team.commit(*(Scored(number, 0.9) for number in range(100_001, 100_031)), explained=True)
    arms: dict[str, set[tuple[int, int]]] = {"contact": set(), "control": set()}
    for arm, case_id, customer in team.rows("select arm, case_id, customer_id from retention_cases"):
        arms[arm].add((case_id, customer))
    assert arms["control"]
    text = site.client.get("/calls").text + site.client.get("/calls/calls.csv").text
    assert all(str(customer) in text for _, customer in arms["contact"])
    assert not any(str(customer) in text for _, customer in arms["control"])
    for case_id, _ in arms["control"]:
        site.page(f"/calls/{case_id}", status=404)
        answer = site.send(
            f"/calls/{case_id}", page=f"/calls/{min(arms['contact'])[0]}", action="contacted", change="1"
        )
        assert answer.status_code == 404


def test_is_exported_without_formulas(site: Site, team: Team) -> None:
    act(site, team, 1, "note", note="=1+1")
    answer = site.client.get("/calls/calls.csv")
    assert answer.headers["content-disposition"].startswith('attachment; filename="calls-20')
    assert len(answer.text.splitlines()) == 4
    assert "'=1+1" in answer.text
    assert site.client.get("/calls/calls.xlsx").content.startswith(b"PK")


# Changes


def test_a_change_is_made_in_the_user_s_name_and_the_page_says_so(site: Site, team: Team) -> None:
    place = act(site, team, 1, "contacted", note="will think\r\nabout it", back="/calls?who=nobody")
    case = case_of(team, 1)
    assert (case.status, case.notes) == ("contacted", "will think\nabout it")
    change = case_reading.history(team.connection, case.case_id)[-1]
    assert (change.changed_by, change.login) == ("erika", "churn_retention_team")
    assert place == f"/calls?who=nobody&done={case.case_id}-{change.change}"
    page = site.page(place)
    assert f"Case {case.case_id} (customer 1): contacted; note: will think about it (erika" in page.text
    assert "Undo" in page.text


@pytest.mark.parametrize(
    ("before", "action", "form", "expected"),
    [
        ("", "assign-to-me", {}, ("assigned", "erika")),
        ("", "assign", {"owner": " ana "}, ("assigned", "ana")),
        ("assign-to-me", "assign", {"owner": "ana"}, ("assigned", "ana")),
        ("", "contacted", {}, ("contacted", None)),
        ("contacted", "assign", {"owner": "ana"}, ("contacted", "ana")),
        ("contacted", "kept", {}, ("kept", None)),
        ("contacted", "lost", {}, ("lost", None)),
        ("", "dismissed", {}, ("dismissed", None)),
        ("dismissed", "note", {"note": "on holiday"}, ("dismissed", None)),
    ],
)
def test_actions(
    site: Site, team: Team, before: str, action: str, form: dict[str, str], expected: tuple[str, str | None]
) -> None:
    if before:
        act(site, team, 1, before)
    act(site, team, 1, action, **form)
    case = case_of(team, 1)
    assert (case.status, case.owner) == expected
    assert case.notes == form.get("note")


@pytest.mark.parametrize(
    ("action", "form", "status", "text"),
    [
        ("assign", {"owner": " "}, 422, "The name of the owner is empty"),
        ("assign", {"owner": "a" * 65}, 422, "The owner has 65 characters; at most 64 are possible"),
        ("assign", {"owner": "erika\u202e"}, 422, "erika\\u202e"),
        ("assign", {"owner": "eri\nka"}, 422, "characters that nobody sees"),
        ("note", {}, 422, "The note is empty"),
        ("contacted", {"change": "x"}, 422, "does not say from which state"),
        ("sell", {}, 404, "There is no action"),
        ("expired", {}, 404, "There is no action"),
    ],
)
def test_a_form_that_cannot_be_used_changes_nothing(
    site: Site, team: Team, action: str, form: dict[str, str], status: int, text: str
) -> None:
    before = team.rows("select count(*) from retention_case_history")
    assert text in refused(site, team, 1, action, status, **form)
    assert team.rows("select count(*) from retention_case_history") == before


def test_a_change_of_a_state_that_somebody_else_has_changed_is_refused(site: Site, team: Team) -> None:
    case = case_of(team, 1)
    seen = last_change(team, case)
    retention_cases.change(team.connection, case.case_id, actor="ana", status="contacted", note="reached her")
    text = refused(site, team, 1, "note", 409, change=seen, note="nobody answers")
    assert "was changed since you opened the page. ana: contacted; note: reached her." in text
    assert "Your note was not stored: \u201cnobody answers\u201d" in text
    assert case_of(team, 1).notes == "reached her"


def test_whoever_comes_second_learns_who_did_what_even_if_the_action_is_no_longer_possible(
    site: Site, team: Team
) -> None:
    case = case_of(team, 1)
    seen = last_change(team, case)
    retention_cases.change(team.connection, case.case_id, actor="ana", status="dismissed")
    text = refused(site, team, 1, "contacted", 409, change=seen, note="nobody answers")
    assert "was changed since you opened the page. ana: dismissed." in text
    assert "Your note was not stored" in text


def test_a_form_that_leads_elsewhere_leads_to_the_case(site: Site, team: Team) -> None:
    for place in ("https://example.com/calls2", "//example.com", "/model"):
        assert act(site, team, 1, "note", note="hello", back=place).startswith(
            f"/calls/{case_of(team, 1).case_id}?done="
        )


def test_a_viewer_sees_everything_and_changes_nothing(viewer: Site, site: Site, team: Team) -> None:
    act(site, team, 1, "note", note="prefers e-mail")
    case = case_of(team, 1)
    assert "prefers e-mail" in viewer.page("/calls").text
    page = viewer.page(f"/calls/{case.case_id}")
    assert "prefers e-mail" in page.text
    assert page.root.xpath("//main//form[@method='post']") == []
    assert viewer.page("/calls").root.xpath("//main//form[@method='post']") == []
    token = viewer.page("/now").root.xpath("string(//input[@name='token']/@value)")
    answer = viewer.client.post(
        f"/calls/{case.case_id}", data={"token": token, "action": "contacted"}, headers={"origin": viewer.url}
    )
    assert answer.status_code == 403
    assert case_of(team, 1).status == "open"


# Taking back


@pytest.mark.parametrize(
    "actions", [["contacted"], ["dismissed"], ["assign-to-me", "contacted"], ["contacted", "kept"], ["assign-to-me"]]
)
def test_undo_restores_the_case_and_the_history_keeps_both_changes(site: Site, team: Team, actions: list[str]) -> None:
    for action in actions[:-1]:
        act(site, team, 1, action, note="before")
    before = case_of(team, 1)
    act(site, team, 1, actions[-1], note="by accident")
    place = act(site, team, 1, "take-back")
    after = case_of(team, 1)
    fields = ("status", "owner", "notes", "contacted_at", "closed_at")
    assert [getattr(after, name) for name in fields] == [getattr(before, name) for name in fields]
    history = case_reading.history(team.connection, after.case_id)
    assert history[-1].takes_back == history[-2].change
    page = site.page(place)
    assert 'undid "' in page.text
    returns = before.rank is not None and after.rank is None
    assert ("the undone call returns in a moment" in page.text) == returns


def test_after_an_undo_the_change_before_can_be_taken_back_and_then_none(site: Site, team: Team) -> None:
    act(site, team, 1, "assign-to-me")
    act(site, team, 1, "contacted")
    act(site, team, 1, "take-back")
    act(site, team, 1, "take-back")
    case = case_of(team, 1)
    assert (case.status, case.owner) == ("open", None)
    assert "cannot be taken back" in refused(site, team, 1, "take-back", 409)


def test_a_call_that_was_taken_back_is_on_the_list_again_and_counts_for_nothing(site: Site, team: Team) -> None:
    entries = team.rows("select entry, case_id, arm from retention_list_entries order by entry")
    act(site, team, 1, "contacted")
    team.follow()
    assert team.called() == [2, 3]
    act(site, team, 1, "take-back")
    team.follow()
    assert team.called() == [1, 2, 3]
    assert site.page("/calls").figure("Calls done today") == "0"
    assert team.rows("select entry, case_id, arm from retention_list_entries order by entry") == entries


def test_a_case_that_is_open_again_gets_the_score_that_it_has_missed(site: Site, team: Team) -> None:
    act(site, team, 1, "dismissed")
    act(site, team, 2, "contacted")
    act(site, team, 3, "dismissed")
    team.commit(Scored(1, 0.65), Scored(2, 0.2), Scored(3, 0.1))
    for customer in (1, 2, 3):
        act(site, team, customer, "take-back")
    team.follow()
    assert sorted(case[:3] for case in team.cases())[:3] == [
        (1, "open", 0.65),
        (2, "expired", 0.2),
        (3, "expired", 0.1),
    ]
    assert team.rows("select count(*) from retention_cases where reopened_at is not null and closed_at is null") == [
        (0,)
    ]


def test_what_the_platform_has_changed_cannot_be_taken_back(site: Site, team: Team) -> None:
    expired = case_of(team, 1).case_id
    retention_cases.close(team.connection, [expired], reasons=["The risk fell to 30%."])
    with pytest.raises(CaseError, match="cannot be taken back"):
        retention_cases.take_back(team.connection, expired, actor="erika")
    assert "The platform has closed this case" in site.page(f"/calls/{expired}").text
    retention_cases.block_contact(team.connection, 2, reason="asked us", actor="ana")
    assert "cannot be taken back" in refused(site, team, 2, "take-back", 409)
    assert "cannot be taken back" in refused(site, team, 3, "take-back", 409)


def test_a_customer_who_does_not_want_to_be_called_gets_no_open_case_by_an_undo(site: Site, team: Team) -> None:
    act(site, team, 1, "dismissed")
    retention_cases.block_contact(team.connection, 1, reason="asked us", actor="ana")
    assert "does not want to be called" in refused(site, team, 1, "take-back", 409)


def test_a_case_whose_customer_has_a_newer_one_stays_closed(site: Site, team: Team) -> None:
    act(site, team, 1, "dismissed")
    old = case_of(team, 1)
    team.commit(Scored(1, 0.95))
    assert case_of(team, 1).case_id != old.case_id
    with pytest.raises(CaseError, match="the customer has a newer case"):
        retention_cases.take_back(team.connection, old.case_id, actor="erika")


def test_a_change_of_the_day_before_yesterday_stays(site: Site, team: Team) -> None:
    act(site, team, 1, "contacted")
    team.connection.execute("update retention_case_history set changed_at = changed_at - interval '25 hours'")
    assert "cannot be taken back" in refused(site, team, 1, "take-back", 409)


def test_the_database_takes_back_nothing_else(team: Team) -> None:
    """Whoever sets the setting cannot make up a state."""
    case = case_of(team, 1)
    number = retention_cases.change(team.connection, case.case_id, actor="ana", status="contacted")
    statement = "update retention_cases set status = 'assigned', owner = 'ana' where case_id = %s"
    with team.connection.transaction():
        team.connection.execute("select set_config('churn.takes_back', %s, true)", (str(number),))
        with pytest.raises(psycopg.Error, match="cannot be taken back") as error:
            team.connection.execute(statement, (case.case_id,))
    assert error.value.sqlstate == retention_cases.CONFLICT


# A case, and my calls


def test_a_case_shows_everything_that_is_known(site: Site, team: Team) -> None:
    act(site, team, 1, "assign", owner="ana", note="knows the branch")
    act(site, team, 1, "contacted")
    case = case_of(team, 1)
    page = site.page(f"/calls/{case.case_id}")
    rows = page.rows("History")
    assert [row[2:4] for row in rows] == [
        ["erika", "contacted"],
        ["erika", "assigned to ananote: knows the branch"],
        ["worker", "opened"],
    ]
    for text in ("Balance of 125,510 euros raises the risk", "9,000 EUR", "Spain", "ana", "Undo this change"):
        assert text in page.text
    site.page("/calls/999999", status=404)


def test_my_calls_are_those_that_i_own_or_have_called(site: Site, team: Team) -> None:
    act(site, team, 1, "contacted")
    act(site, team, 1, "kept")
    act(site, team, 2, "assign-to-me")
    act(site, team, 3, "contacted")
    act(site, team, 3, "take-back")
    retention_cases.change(team.connection, case_of(team, 4).case_id, actor="ana", status="contacted")
    page = site.page("/calls/mine")
    caption = "Cases that erika owns or has called, the newest first"
    assert {(row[0].split()[0], row[1]) for row in page.rows(caption)} == {("2", "assigned"), ("1", "kept")}
    assert (page.figure("Kept"), page.figure("To call")) == ("1", "1")
    assert [row[0].split()[0] for row in site.page("/calls/mine?show=closed").rows(caption)] == ["1"]
    assert "None of your cases has this status" in site.page("/calls/mine?show=contacted").text


def test_without_calls_my_calls_say_what_to_do(site: Site) -> None:
    assert "No cases of yours" in site.page("/calls/mine").text


# In the browser


@pytest.mark.parametrize("path", ["/calls", "/calls/mine", "/calls/{case}"])
def test_has_no_barriers(window: BrowserContext, site: Site, team: Team, path: str) -> None:
    act(site, team, 1, "assign-to-me", note="prefers e-mail")
    done = act(site, team, 2, "contacted")
    page = window.new_page()
    errors = open_without_errors(page, f"{path.format(case=case_of(team, 1).case_id)}?{done.partition('?')[2]}")
    assert barriers(page) == []
    assert unreachable(page) == []
    assert errors == []


def opened(window: BrowserContext, path: str) -> Page:
    """Open a page."""
    page = window.new_page()
    page.goto(path)
    return page


def test_a_click_records_a_call_and_another_takes_it_back(window: BrowserContext, team: Team) -> None:
    page = opened(window, "/calls")
    page.get_by_role("button", name="Contacted customer 2").click()
    expect(page.locator("#done")).to_contain_text("customer 2): contacted")
    expect(page.get_by_role("row")).to_have_count(3)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#done")).to_contain_text("undid")
    assert case_of(team, 2).status == "open"


def test_renewal_keeps_what_is_written_while_other_cases_leave_the_list(window: BrowserContext, team: Team) -> None:
    page = opened(window, "/calls")
    page.locator(f"#note-{case_of(team, 2).case_id} summary").click()
    note = page.get_by_role("textbox", name="Note for customer 2")
    note.fill("nobody answ")
    retention_cases.change(team.connection, case_of(team, 1).case_id, actor="ana", status="contacted")
    team.follow()
    page.evaluate("fetchPage()")
    expect(page.get_by_role("row")).to_have_count(3)  # the header, 2 and 3: the team has called one of three
    expect(note).to_have_value("nobody answ")
    expect(note).to_be_focused()
    note.press_sequentially("ers")
    page.get_by_role("button", name="Only add the note for customer 2").click()
    expect(page.locator("#done")).to_contain_text("nobody answers")


def test_a_written_note_is_not_sent_from_a_state_that_was_not_seen(window: BrowserContext, team: Team) -> None:
    page = opened(window, "/calls")
    page.locator(f"#note-{case_of(team, 2).case_id} summary").click()
    page.get_by_role("textbox", name="Note for customer 2").fill("nobody answers")
    retention_cases.change(team.connection, case_of(team, 2).case_id, actor="ana", owner="ana", status="assigned")
    page.evaluate("fetchPage()")
    expect(page.locator(f"#case-{case_of(team, 2).case_id} .owner")).to_contain_text("ana")
    page.get_by_role("button", name="Contacted customer 2").click()
    expect(page.get_by_role("alert")).to_contain_text("ana: assigned to ana")
    expect(page.get_by_role("alert")).to_contain_text("nobody answers")
    assert case_of(team, 2).status == "assigned"
