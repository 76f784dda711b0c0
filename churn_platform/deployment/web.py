"""Asking a web server whether it is well."""

import httpx

from churn_platform.local.part import Problem


def problem(url: str) -> Problem | None:
    """Why the URL does not answer with success; None when it does."""
    try:
        answer = httpx.get(url, timeout=2, trust_env=False)
    except httpx.TransportError as error:
        return Problem(f"{url} does not answer: {error}.", lasting=False)
    if answer.is_success:
        return None
    return Problem(f"{url} answers with HTTP {answer.status_code}.", lasting=answer.is_client_error)


def answers(url: str) -> bool:
    """Whether the URL answers with success."""
    try:
        return httpx.get(
            url, timeout=2, trust_env=False
        ).is_success  # a proxy knows nothing of this machine's localhost
    except httpx.TransportError:
        return False
