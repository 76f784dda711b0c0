"""What other sites, other users of the machine and somebody on the network cannot do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.security import HEADERS, MOST_FORM_BYTES
from churn_platform_tests.conftest import copy_database
from churn_platform_tests.dashboard.conftest import config_of
from churn_platform_tests.dashboard.protected import Protected, protected

PUBLIC = "https://churn.example.com"


@pytest.fixture(scope="module")
def with_logins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DashboardConfig:
    """A configuration with a file of users. Nothing here changes the database, so all tests share one."""
    database = copy_database(request.getfixturevalue("stack"), request.getfixturevalue("template_database"))
    config = config_of(request.getfixturevalue("stack"), database, request.getfixturevalue("bank_schema"))
    return replace(config, users_file=tmp_path_factory.mktemp("users") / "users", origin=PUBLIC)


@pytest.fixture(scope="module")
def dashboard(with_logins: DashboardConfig) -> Iterator[Protected]:
    """A dashboard on which Erika, of the retention team, is logged in."""
    with protected(replace(with_logins, origin="")) as dashboard:
        dashboard.set_users(erika="retention")
        assert dashboard.log_in("erika").status_code == 303
        yield dashboard


# Forms of other sites


def test_a_form_of_the_page_itself_is_accepted(dashboard: Protected) -> None:
    assert dashboard.add_note("ours", **{"sec-fetch-site": "same-origin"}).status_code == 303
    assert dashboard.notes.added[-1] == ("erika", "ours")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
def test_a_form_of_another_site_changes_nothing_even_with_the_token(
    dashboard: Protected, headers: Mapping[str, str]
) -> None:
    before = list(dashboard.notes.added)

    answer = dashboard.add_note("theirs", **headers)

    assert answer.status_code == 403
    assert "Nothing was changed" in answer.text
    assert dashboard.notes.added == before


def test_a_form_without_an_origin_changes_nothing(dashboard: Protected) -> None:
    answer = dashboard.client.post("/notes", data={"token": dashboard.token(), "text": "theirs"})

    assert answer.status_code == 403


@pytest.mark.parametrize("token", [None, "", "wrong", "ä\ud800", "x" * 43])
def test_a_form_without_the_token_changes_nothing(dashboard: Protected, token: str | None) -> None:
    before = list(dashboard.notes.added)
    form = {"text": "theirs"} if token is None else {"text": "theirs", "token": token}
    body = "&".join(f"{name}={value}" for name, value in form.items()).encode(errors="replace")

    answer = dashboard.client.post("/notes", content=body, headers={"origin": dashboard.site.url})

    assert answer.status_code == 403
    assert dashboard.notes.added == before


def test_a_token_is_good_for_its_own_session_alone(dashboard: Protected, with_logins: DashboardConfig) -> None:
    with protected(replace(with_logins, origin="")) as other:
        other.log_in("erika")
        form = {"token": other.token(), "text": "theirs"}

    answer = dashboard.client.post("/notes", data=form, headers={"origin": dashboard.site.url})

    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_another_site_logs_nobody_in_or_out(dashboard: Protected, path: str) -> None:
    form = {"name": "erika", "password": "correct horse battery"}

    answer = dashboard.client.post(path, data=form, headers={"origin": "https://evil.example"})

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert dashboard.client.get("/notes").status_code == 200


@pytest.mark.parametrize("host", ["churn.example.com", None])
def test_the_public_address_is_an_origin_of_forms_whatever_host_the_proxy_names(
    with_logins: DashboardConfig, host: str | None
) -> None:
    config = replace(with_logins, hosts=[*with_logins.hosts, "churn.example.com"])
    with protected(config) as dashboard:
        dashboard.set_users(erika="retention")
        form = {"name": "erika", "password": "correct horse battery"}
        given = {"origin": PUBLIC, **({"host": host} if host else {})}
        assert dashboard.client.post("/login", data=form, headers=given).status_code == 303
        assert dashboard.client.post("/login", data=form, headers={**given, "origin": f"{PUBLIC}:1"}).status_code == 403


# Names that lead here


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8050", "localhost.evil.example", "", "127.0.0.1@evil"])
def test_a_name_that_is_not_ours_is_refused(dashboard: Protected, host: str) -> None:
    for path in ("/notes", "/healthz", "/static/dashboard.js", "/login"):
        answer = dashboard.client.get(path, headers={"host": host})
        assert answer.status_code == 400
        assert "erika" not in answer.text


@pytest.mark.parametrize("host", ["localhost:8050", "127.0.0.1", "[::1]:8050", "LOCALHOST"])
def test_the_names_of_this_machine_are_ours(dashboard: Protected, host: str) -> None:
    assert dashboard.client.get("/healthz", headers={"host": host}).text == "ok"


# Headers


def _get(path: str, **headers: str) -> Callable[[httpx.Client], httpx.Response]:
    return lambda client: client.get(path, headers=headers)


ANSWERS: Mapping[str, tuple[int, Callable[[httpx.Client], httpx.Response]]] = {
    "page": (200, _get("/notes")),
    "first page": (307, _get("/")),
    "redirect to the login": (303, _get("/notes", cookie="churn_session=wrong")),
    "login": (200, _get("/login")),
    "health": (200, _get("/healthz")),
    "static file": (200, _get("/static/dashboard.js")),
    "no such file": (404, _get("/static/../app.py")),
    "no such page": (404, _get("/nothing")),
    "wrong host": (400, _get("/notes", host="evil.example")),
    "wrong method": (405, lambda client: client.delete("/notes")),
    "refused form": (403, lambda client: client.post("/notes")),
    "too long": (413, lambda client: client.post("/notes", content=b"a=" + b"x" * MOST_FORM_BYTES)),
    "unreadable": (400, lambda client: client.post("/notes", content=b"a=1&b")),
    "defect": (500, _get("/broken", connection="close")),  # the server closes the connection then
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_has_the_headers_that_protect_it(dashboard: Protected, kind: str) -> None:
    status, request = ANSWERS[kind]
    answer = request(dashboard.client)

    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in HEADERS} == dict(HEADERS)
    assert answer.headers["cache-control"] == ("no-cache" if kind == "static file" else "no-store")
    assert "server" not in answer.headers


def test_no_script_is_allowed_in_a_page_and_no_page_has_one(dashboard: Protected) -> None:
    answer = dashboard.client.get("/notes")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    page = dashboard.site.page("/notes").root
    assert page.xpath("//script[not(@src) and not(@type = 'application/json')]") == []
    assert page.xpath("//@*[starts-with(name(), 'on')]") == []
    assert [each for each in page.xpath("//@src | //@href") if not str(each).startswith(("/", "#"))] == []


def test_what_a_user_types_is_shown_as_text(dashboard: Protected) -> None:
    answer = dashboard.client.get("/notes", params={"q": "<script>alert(1)</script>"})

    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script>alert" not in answer.text
    missing = dashboard.client.get("/%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in missing.text


# Redirects


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "//[",
        "javascript:alert(1)",
        "evil.example",
        "",
    ],
)
def test_the_login_leads_to_no_other_site(dashboard: Protected, place: str) -> None:
    form = dashboard.site.page(f"/login?{httpx.QueryParams(next=place)}")
    assert form.value("next") == "/"

    answer = dashboard.log_in("erika", leads_to=place)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


# What cannot be read


@pytest.mark.parametrize("path", ["/notes?q=%00", "/notes?q=a%00b"])
def test_a_character_that_postgresql_does_not_have_is_refused(dashboard: Protected, path: str) -> None:
    assert dashboard.client.get(path).status_code == 400


def test_a_form_may_not_be_too_long(dashboard: Protected) -> None:
    before = list(dashboard.notes.added)

    answer = dashboard.add_note("x" * MOST_FORM_BYTES)

    assert answer.status_code == 413
    assert "longer than 64 KB" in answer.text
    assert dashboard.notes.added == before


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_a_method_that_a_page_does_not_have_is_refused_with_those_it_has(dashboard: Protected, method: str) -> None:
    answer = dashboard.client.request(method, "/notes")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert f"/notes does not answer {method}" in answer.text


def test_a_defect_shows_no_details(dashboard: Protected) -> None:
    answer = dashboard.client.get("/broken", headers={"connection": "close"})

    assert answer.status_code == 500
    assert "The log of the dashboard has the details." in answer.text
    assert "secret details" not in answer.text


def test_errors_keep_the_navigation_of_whoever_is_logged_in(dashboard: Protected) -> None:
    assert "Notes" in dashboard.client.get("/nothing").text
    dashboard_of_nobody = dashboard.client.get("/nothing", headers={"cookie": "churn_session=wrong"})
    assert "Notes" not in dashboard_of_nobody.text


# Compression and caches


def test_files_are_compressed_and_pages_with_secrets_are_not(dashboard: Protected) -> None:
    script = dashboard.client.get("/static/dashboard.js")
    page = dashboard.client.get("/notes", params={"q": "x" * 5_000})

    assert script.headers["content-encoding"] == "gzip"
    assert len(page.content) > 5_000
    assert "content-encoding" not in page.headers


@pytest.mark.parametrize("file", ["dashboard.js", "dashboard.css", "plotly.min.js"])
def test_a_browser_is_told_when_its_file_is_the_latest(dashboard: Protected, file: str) -> None:
    first = dashboard.client.get(f"/static/{file}")
    again = dashboard.client.get(f"/static/{file}", headers={"if-none-match": first.headers["etag"]})

    assert first.status_code == 200
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize(
    "path", ["plotly/plotly.min.js", "package_data/plotly.min.js", "datepicker.zip", "..%2fapp.py"]
)
def test_nothing_else_of_a_package_is_served(dashboard: Protected, path: str) -> None:
    assert dashboard.client.get(f"/static/{path}").status_code == 404


def test_the_log_does_not_hold_what_pages_were_asked_for(
    config: DashboardConfig, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with protected(replace(config, users_file=tmp_path / "users")) as dashboard:
        dashboard.set_users(erika="retention")
        dashboard.log_in("erika")
        dashboard.site.page("/notes?q=customer-15634602")

    assert "15634602" not in "".join(each for each in caplog.messages if "HTTP Request" not in each)
