"""Answers as JSON, and problems as problem documents (RFC 9457)."""

from http import HTTPStatus
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from churn_platform.api.answers import Problem
from churn_platform.api.exceptions import ProblemError

PROBLEM_TYPE: Final = "application/problem+json"
_encode = msgspec.json.Encoder().encode


def json_response(answer: object, *, status: int = 200) -> Response:
    """Return an answer, as JSON."""
    return Response(_encode(answer), status, media_type="application/json")


def problem_response(problem: ProblemError) -> Response:
    """Return the answer to a request that has a problem."""
    headers: dict[str, str] = {}
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    document = Problem("about:blank", problem.title, problem.status, problem.detail)
    return Response(_encode(document), problem.status, headers, media_type=PROBLEM_TYPE)


async def answer_problem(_: Request, error: Exception) -> Response:
    """Answer a request whose handler has raised a ProblemError."""
    if not isinstance(error, ProblemError):
        raise error
    return problem_response(error)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer a request for which there is no route."""
    if not isinstance(error, HTTPException):
        raise error
    title = HTTPStatus(error.status_code).phrase
    response = problem_response(
        ProblemError(error.status_code, title, f"{request.method} is not possible here: see /openapi.json.")
    )
    response.headers.update(error.headers or {})
    return response


async def answer_failure(_: Request, __: Exception) -> Response:
    """Answer a request that has failed. The log has the error; the answer says nothing about it."""
    return problem_response(
        ProblemError(500, "Internal server error", "The request could not be answered. The log of the API says why.")
    )
