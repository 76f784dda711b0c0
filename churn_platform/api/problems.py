"""Answers as JSON, and problems as problem documents (RFC 9457)."""

from http import HTTPStatus
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
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


def error_response(error: Exception, *, method: str) -> Response:
    """Return the answer to a request that has raised an error.

    A ProblemError says what is wrong. An HTTPException is that of a request without a route. Any other error is only
    for the log.

    Args:
        error: what was raised.
        method: that of the request.
    """
    if isinstance(error, ProblemError):
        return problem_response(error)
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        response = problem_response(
            ProblemError(error.status_code, title, f"{method} is not possible here: see /openapi.json.")
        )
        response.headers.update(error.headers or {})
        return response
    return problem_response(
        ProblemError(500, "Internal server error", "The request could not be answered. The log of the API says why.")
    )
