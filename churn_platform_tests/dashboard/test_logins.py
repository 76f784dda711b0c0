"""Logging in and out, roles, sessions, and users whom a proxy names."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from churn_platform.dashboard.access import MOST_OF_BOTH, MOST_OF_NAME, Access
from churn_platform.dashboard.app import create_app
from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.exceptions import DashboardError
from churn_platform.dashboard.users import User, hash_password, write_users
from churn_platform_tests.dashboard.protected import PASSWORD, Notes, Protected, protected
from churn_platform_tests.dashboard.site import serving

HERE, ELSEWHERE = "127.0.0.1", "10.0.0.9"


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """Where the file of users will be."""
    return tmp_path / "users"


@pytest.fixture
def dashboard(config: DashboardConfig, users_file: Path) -> Iterator[Protected]:
    """A dashboard with the viewer Max and Erika of the retention team."""
    with protected(replace(config, users_file=users_file)) as dashboard:
        dashboard.set_users(erika="retention", max="viewer")
        yield dashboard


def test_without_a_session_each_page_leads_to_the_login_and_then_back(dashboard: Protected) -> None:
    answer = dashboard.client.get("/notes?q=a%26b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fnotes%3Fq%3Da%2526b")

    form = dashboard.site.page(answer.headers["location"])
    assert form.value("next") == "/notes?q=a%26b"
    answer = dashboard.log_in("max", leads_to=form.value("next"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/notes?q=a%26b")
    assert "viewer max searches for a&b" in dashboard.site.page("/notes?q=a%26b").text


def test_a_wrong_password_keeps_the_place_and_does_not_say_which_part_is_wrong(dashboard: Protected) -> None:
    for name in ("max", "nobody"):
        answer = dashboard.log_in(name, "wrong password", leads_to="/notes?q=1")
        assert answer.status_code == 401
        assert "The name or the password is wrong." in answer.text
        assert 'value="/notes?q=1"' in answer.text
        assert "set-cookie" not in answer.headers
    assert dashboard.client.get("/notes").status_code == 303


def test_the_cookie_is_kept_from_scripts_and_other_sites(dashboard: Protected) -> None:
    cookie = dashboard.log_in("max").headers["set-cookie"].lower()

    assert cookie.startswith("churn_session=")
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} <= set(cookie.split("; "))
    assert "domain" not in cookie


def test_by_https_the_cookie_is_sent_by_nothing_else(config: DashboardConfig, users_file: Path) -> None:
    with protected(replace(config, users_file=users_file, origin="https://churn.example.com")) as dashboard:
        dashboard.set_users(max="viewer")
        cookie = dashboard.log_in("max").headers["set-cookie"]

    assert cookie.startswith("__Host-churn_session=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))


def test_logging_out_ends_the_session_for_every_holder_of_the_cookie(dashboard: Protected) -> None:
    dashboard.log_in("max")
    (cookie,) = dashboard.client.cookies.jar

    answer = dashboard.client.post("/logout", headers={"origin": dashboard.site.url})

    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert dashboard.client.get("/notes", headers={"cookie": f"{cookie.name}={cookie.value}"}).status_code == 303


def test_another_login_replaces_the_session_of_the_browser(dashboard: Protected) -> None:
    dashboard.log_in("max")
    (old,) = dashboard.client.cookies.jar

    dashboard.log_in("erika")

    assert "retention erika" in dashboard.site.page("/notes").text
    dashboard.client.cookies.clear()
    assert dashboard.client.get("/notes", headers={"cookie": f"{old.name}={old.value}"}).status_code == 303


def test_only_the_retention_team_changes_something(dashboard: Protected) -> None:
    dashboard.log_in("max")
    refused = dashboard.add_note("of a viewer")
    assert refused.status_code == 403
    assert "Only the retention team adds notes." in refused.text

    dashboard.log_in("erika")
    assert dashboard.add_note("called").status_code == 303
    assert dashboard.notes.added == [("erika", "called")]


def test_whoever_is_removed_or_changed_has_to_log_in_again(dashboard: Protected) -> None:
    dashboard.log_in("erika")
    dashboard.change_user("erika", role="viewer")
    assert dashboard.client.get("/notes").status_code == 303

    dashboard.log_in("erika")
    dashboard.change_user("erika", password=hash_password("another password"))
    assert dashboard.client.get("/notes").status_code == 303

    dashboard.log_in("erika", "another password")
    assert dashboard.client.get("/notes").status_code == 200
    dashboard.set_users(max="viewer")
    assert dashboard.client.get("/notes").status_code == 303


def test_after_five_wrong_passwords_even_the_right_one_has_to_wait(dashboard: Protected) -> None:
    for _ in range(MOST_OF_BOTH):
        assert dashboard.log_in("max", "wrong password").status_code == 401

    answer = dashboard.log_in("max")
    assert answer.status_code == 429
    assert 200 < int(answer.headers["retry-after"]) <= 300
    assert "Too many attempts" in answer.text
    assert dashboard.log_in("erika").status_code == 303, "others are not affected"


def test_a_stranger_elsewhere_cannot_lock_a_name_with_a_few_attempts(config: DashboardConfig, users_file: Path) -> None:
    write_users(users_file, {"max": User("max", "viewer", hash_password(PASSWORD))})
    access = Access(replace(config, users_file=users_file))
    for _ in range(MOST_OF_BOTH + 1):
        access.log_in("max", "wrong password", address=ELSEWHERE)
    assert isinstance(access.log_in("max", PASSWORD, address=HERE), str)


@pytest.mark.slow  # each attempt costs as much as an attacker's
def test_many_addresses_cannot_try_more_passwords_of_a_name(config: DashboardConfig, users_file: Path) -> None:
    write_users(users_file, {"max": User("max", "viewer", hash_password(PASSWORD))})
    access = Access(replace(config, users_file=users_file))
    for number in range(MOST_OF_NAME):
        assert access.log_in("max", "wrong password", address=f"10.0.1.{number}") == 0
    wait = access.log_in("max", PASSWORD, address=HERE)
    assert isinstance(wait, float)
    assert wait > 0


def test_logins_are_in_the_log_and_what_was_typed_is_not(
    dashboard: Protected, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "churn.dashboard"):
        dashboard.log_in("max")
        dashboard.log_in("max", "wrong password")
        dashboard.log_in("my-secret-password", "max")

    assert [each.getMessage() for each in caplog.records if each.name == "churn.dashboard"] == [
        f"max logged in from {HERE}.",
        f"A failed login of max from {HERE}.",
        f"A failed login of somebody who is not a user from {HERE}.",
    ]


def test_without_a_file_nobody_logs_in_until_it_is_there(config: DashboardConfig, users_file: Path) -> None:
    with protected(replace(config, users_file=users_file)) as dashboard:
        page = dashboard.log_in("max")
        assert page.status_code == 503
        assert "churn dashboard add-user NAME" in page.text
        assert str(users_file) not in page.text

        dashboard.set_users(max="viewer")
        assert dashboard.log_in("max").status_code == 303

        users_file.write_text("not a user\n")
        assert dashboard.client.get("/notes").status_code == 503


def test_a_damaged_file_is_refused_at_the_start(config: DashboardConfig, users_file: Path) -> None:
    users_file.write_text("not a user\n")

    with pytest.raises(DashboardError, match="Line 1"):
        create_app(replace(config, users_file=users_file))


def test_on_this_machine_nobody_has_to_log_in(config: DashboardConfig) -> None:
    notes = Notes()
    with serving(config, pages=notes.pages()) as site:
        assert "retention erika" in site.page("/notes").text
        assert site.client.get("/login").headers["location"] == "/"
        assert "Log out" not in site.client.get("/notes").text


# A proxy that names the user


def test_the_proxy_s_user_is_believed_with_the_role_of_the_file(config: DashboardConfig, users_file: Path) -> None:
    config = replace(config, proxy=HERE, users_file=users_file)
    with protected(config) as dashboard:
        write_users(users_file, {"erika": User("erika", "retention")})

        def page_for(name: str) -> str:
            return dashboard.client.get("/notes", headers={"x-forwarded-user": name}).text

        assert "retention erika searches" in page_for("erika")
        assert "viewer max@example.com searches" in page_for("max@example.com")
        assert "Log out" not in page_for("erika"), "the proxy would log the user in again"
        assert dashboard.log_in("erika", "").status_code == 401, "without a password only the proxy names Erika"


@pytest.mark.parametrize("proxy", [HERE, f"::ffff:{HERE}"])
def test_the_header_can_have_another_name(config: DashboardConfig, proxy: str) -> None:
    config = replace(config, proxy=proxy, proxy_header="Remote-User")
    with serving(config, pages=Notes().pages()) as site:
        assert site.client.get("/notes", headers={"remote-user": "max"}).status_code == 200
        assert site.client.get("/notes", headers={"x-forwarded-user": "max"}).status_code == 403


def test_the_header_of_anybody_else_is_not_believed(config: DashboardConfig) -> None:
    with serving(replace(config, proxy=ELSEWHERE), pages=Notes().pages()) as site:
        answer = site.client.get("/notes", headers={"x-forwarded-user": "erika", "x-forwarded-for": ELSEWHERE})

    assert answer.status_code == 403
    assert f"This request comes from {HERE}" in answer.text


@pytest.mark.parametrize("names", [[], [""], ["a b"], ["erika", "max"], ["erika:retention"]])
def test_the_proxy_has_to_name_exactly_one_user(config: DashboardConfig, names: list[str]) -> None:
    with serving(replace(config, proxy=HERE), pages=Notes().pages()) as site:
        answer = site.client.get("/notes", headers=[("x-forwarded-user", name) for name in names])

    assert answer.status_code == 403
    assert "X-Forwarded-User" in answer.text


def test_behind_a_proxy_one_can_also_log_in_directly(config: DashboardConfig, users_file: Path) -> None:
    with protected(replace(config, proxy=ELSEWHERE, users_file=users_file)) as dashboard:
        dashboard.set_users(max="viewer")
        assert dashboard.client.get("/notes", headers={"x-forwarded-user": "erika"}).status_code == 303
        dashboard.log_in("max")
        assert "viewer max" in dashboard.site.page("/notes").text
