"""Requests that cannot be answered, also because the API itself fails, and bodies that arrive in parts."""

import json
import socket
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from churn_platform.api.gate import HEADERS
from churn_platform.local.ports import HOST
from churn_platform.local.stack import Stack
from churn_platform_tests.api.running import Api
from churn_platform_tests.stream.streams import event
from churn_platform_tests.waiting import wait_until

PROBLEM = "application/problem+json"


def requests_total(*, method: str, route: str, status: int) -> str:
    """Return the name of the figure that counts these requests, with its labels."""
    return f'churn_api_requests_total{{method="{method}",route="{route}",status="{status}"}}'


def logged_errors(caplog: pytest.LogCaptureFixture) -> list[type[BaseException] | None]:
    """Return the types of the errors whose tracebacks the log has."""
    return [record.exc_info[0] for record in caplog.records if record.exc_info]


def test_a_failure_is_answered_without_its_reason_which_the_log_has(
    api: Api, stack: Stack, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner = make_conninfo(stack.owner_dsn, dbname=conninfo_to_dict(database)["dbname"])
    with psycopg.connect(owner) as connection:
        connection.execute("drop table customer_summary cascade")

    answer = api.client.get("/v1/customers/1")

    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal server error",
        "status": 500,
        "detail": "The request could not be answered. The log of the API says why.",
    }
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    # The server logs the error after it has sent the answer.
    wait_until(lambda: psycopg.errors.UndefinedTable in logged_errors(caplog), 30, "the log has the error")
    assert api.metric(requests_total(method="GET", route="/v1/customers/{customer_id:path}", status=500)) == 1
    assert api.predict(event(1))["model_version"] == 1, "other requests are answered"


def test_another_method_is_refused_with_those_that_are_possible(api: Api) -> None:
    answer = api.client.get("/v1/predictions")

    assert (answer.status_code, answer.headers["content-type"], answer.headers["allow"]) == (405, PROBLEM, "POST")
    assert answer.json()["title"] == "Method Not Allowed"
    assert api.metric(requests_total(method="GET", route="/v1/predictions", status=405)) == 1


def test_an_address_that_does_not_exist_is_a_problem_too(api: Api) -> None:
    answer = api.client.post("/no/such/page")

    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json()["detail"] == "POST is not possible here: see /openapi.json."


def test_a_body_that_arrives_in_parts_is_put_together(api: Api) -> None:
    body = json.dumps(event(1)).encode()

    def parts() -> Iterator[bytes]:
        yield from (body[:10], body[10:50], body[50:])

    assert api.predict(body)["risk_score"] == api.client.post("/v1/predictions", content=parts()).json()["risk_score"]


def test_a_client_that_leaves_before_the_end_of_its_body_is_counted(api: Api) -> None:
    port = int(api.url.rpartition(":")[2])
    with socket.create_connection((HOST, port)) as client:
        client.sendall(f"POST /v1/predictions HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100\r\n\r\nhalf".encode())

    name = requests_total(method="POST", route="/v1/predictions", status=400)
    wait_until(lambda: api.metric(name) == 1, 30, "the request is counted")
