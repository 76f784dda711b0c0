"""Who may use the API: tokens, their file and its commands, and an API without any."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from churn_platform.api.config import ApiConfig, api_config
from churn_platform.api.exceptions import ApiError
from churn_platform.api.gate import HEADERS
from churn_platform.api.tokens import PREFIX, Token, TokenFile, new_token, read_tokens, write_tokens
from churn_platform.cli import app
from churn_platform.settings import Settings
from churn_platform_tests.api.running import Api, serving
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.stream.streams import event

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)


def added(file: Path, name: str, *, expires: datetime | None = None) -> str:
    """Add a token to the file; return its text."""
    text, token = new_token(name, created=NOW, expires=expires)
    write_tokens(file, {**read_tokens(file), name: token})
    return text


def status(api: Api, token: str) -> int:
    """Return how a request with this token is answered."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.get(f"{api.url}/v1/model", headers=headers, trust_env=False).status_code


@pytest.mark.usefixtures("champion")
def test_tokens_are_added_and_revoked_without_a_restart(config: ApiConfig, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    crm, web = added(file, "crm"), added(file, "web")

    with serving(replace(config, tokens_file=file)) as api:
        assert [status(api, token) for token in (crm, web, "", "churn_wrong", crm[:-1])] == [200, 200, 401, 401, 401]
        late = added(file, "late")
        assert status(api, late) == 200
        write_tokens(file, {"web": read_tokens(file)["web"]})
        assert [status(api, token) for token in (crm, web, late)] == [401, 200, 401]
        file.write_text("nonsense\n")
        assert status(api, web) == 401
        file.unlink()
        assert status(api, web) == 401
        assert status(api, added(file, "again")) == 200


@pytest.mark.usefixtures("champion")
def test_only_what_a_probe_asks_needs_no_token(config: ApiConfig, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    token = added(file, "crm")

    with serving(replace(config, tokens_file=file)) as api:
        for path in ("/healthz", "/readyz"):
            assert api.client.get(path).status_code == 200
        for path in ("/v1/model", "/v1/customers/1", "/metrics", "/openapi.json", "/docs", "/no/such/page"):
            refused = api.client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.headers["content-type"] == "application/problem+json"
        assert api.post("/v1/predictions", event(1)).status_code == 401
        allowed = api.client.get("/openapi.json", headers={"authorization": f"bearer {token}"}).json()
        assert allowed["security"] == [{"token": []}]


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    text = added(file, "crm", expires=NOW + timedelta(days=1))
    tokens = TokenFile(file)

    found = tokens.find(text, now=NOW + timedelta(hours=23))

    assert found is not None
    assert (found.name, found.expires) == ("crm", NOW + timedelta(days=1))
    assert tokens.find(text, now=NOW + timedelta(days=1)) is None


def test_the_file_holds_hashes_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "tokens"
    text = added(file, "crm")

    assert text.removeprefix(PREFIX) not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"crm [0-9a-f]{64} 2026-11-24T08:00:00\+00:00 never\n", file.read_text())
    assert len(text) > 43, "256 random bits"


@pytest.mark.parametrize(
    "line",
    ["crm", "crm abc 2026-11-24T08:00:00+00:00 never", f"a/b {'0' * 64} 2026-11-24T08:00:00+00:00 never"]
    + [f"crm {'0' * 64} {time} never" for time in ("yesterday", "2026-11-24T08:00:00")],
)
def test_a_line_that_is_no_token_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"\n{line}\n")

    with pytest.raises(ApiError, match=r"Line 2 of .*tokens is not a token"):
        TokenFile(file)


def test_without_tokens_only_this_machine_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@localhost/churn")
    settings = Settings.from_variables({"DATABASE_URL": "postgresql://user@localhost/churn"})

    assert api_config(settings, host="127.0.0.1").tokens_file is None
    with pytest.raises(ApiError, match=r"would listen at 0\.0\.0\.0.*API_TOKENS"):
        api_config(settings, host="0.0.0.0")  # noqa: S104  nothing listens there
    protected = Settings.from_variables(
        {"DATABASE_URL": "postgresql://user@localhost/churn", "API_TOKENS": "/etc/tokens"}
    )
    assert api_config(protected, host="0.0.0.0").tokens_file == Path("/etc/tokens")  # noqa: S104


def test_without_tokens_pages_of_other_sites_are_refused(api: Api) -> None:
    port = api.url.rpartition(":")[2]

    answers = [
        api.client.get("/v1/model", headers={"host": host}).status_code
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:80", "localhost", f"evil.example:{port}", "")
    ]

    assert answers == [200, 200, 200, 200, 421, 421]


def test_every_answer_has_the_headers_that_protect_it(api: Api) -> None:
    for path in ("/healthz", "/v1/model", "/no/such/page", "/openapi.json"):
        answer = api.client.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers


def test_there_are_no_pages_that_load_scripts_from_elsewhere(api: Api) -> None:
    assert [api.client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_the_commands_add_list_and_remove_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    monkeypatch.setenv("API_TOKENS", str(file))
    forget_settings()
    run = CliRunner().invoke

    printed = run(app, ["serve", "add-token", "crm", "--days", "30"])
    again = run(app, ["serve", "add-token", "crm"])
    run(app, ["serve", "add-token", "web"])
    listed = run(app, ["serve", "tokens"]).output
    removed = run(app, ["serve", "remove-token", "crm"])
    unknown = run(app, ["serve", "remove-token", "crm"])

    assert TokenFile(file).find(printed.output.strip(), now=datetime.now(UTC)) is None, "it was removed"
    assert printed.output.startswith(PREFIX)
    assert again.exit_code != 0
    assert re.search(r"crm  created .*  expires .*\nweb  created .*  never expires", listed)
    assert removed.exit_code == 0
    assert unknown.exit_code != 0
    assert list(read_tokens(file)) == ["web"]


def test_a_token_with_another_name_s_hash_is_not_found(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    text, token = new_token("crm", created=NOW, expires=None)
    write_tokens(file, {"crm": Token("crm", token.hash[::-1], NOW, None)})

    assert TokenFile(file).find(text, now=NOW) is None
    with pytest.raises(ApiError, match="cannot be the name of a token"):
        new_token("a b", created=NOW, expires=None)


def test_a_file_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "no-folder").write_text("")

    with pytest.raises(ApiError, match="cannot be written: "):
        write_tokens(tmp_path / "no-folder" / "tokens", {})
