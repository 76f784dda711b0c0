"""Asks the prediction API for the risk of a customer with other values.

The dashboard loads no model itself, so that it stays small.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from churn_platform.dashboard.config import DashboardConfig
from churn_platform.dashboard.exceptions import ApiRefusedError, ApiUnavailableError

SECONDS: Final = 10
"""A request takes milliseconds. The API may be busy with a request of many customers."""
_REFUSED: Final = 422


class Reason(msgspec.Struct, frozen=True):
    """What a value of the customer contributes to the score, in log-odds, and the same as a sentence."""

    feature: str
    contribution: float
    sentence: str


class Score(msgspec.Struct, frozen=True):
    """The risk score, 0 to 1, whether it is high, and its reasons."""

    risk_score: float
    high_risk: bool
    reasons: Sequence[Reason]


class WhatIf(msgspec.Struct, frozen=True):
    """The score of a customer with its own values, and those with each of the changes."""

    base: Score
    alternatives: Sequence[Score]
    model_version: int


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def ask(config: DashboardConfig, customer: Mapping[str, object], changes: Mapping[str, object]) -> WhatIf:
    """Return the scores of a customer with its own values and with changed ones.

    Args:
        config: names the API and has its token.
        customer: the fields of an event.
        changes: changed fields.

    Raises:
        ApiUnavailableError: the API does not answer, has no model, or does not accept the token.
        ApiRefusedError: a value is not valid. The text says which.
    """
    import httpx  # takes 0.1 s and 9 MB, which a dashboard that nobody asks does not need

    headers = {"content-type": "application/json"}
    if config.api_token:
        headers["authorization"] = f"Bearer {config.api_token}"
    try:
        answer = httpx.post(
            f"{config.api_url}/v1/what-if",
            content=msgspec.json.encode({"customer": customer, "changes": changes}),
            headers=headers,
            timeout=SECONDS,
            trust_env=False,
        )
        if answer.status_code == _REFUSED:
            raise ApiRefusedError(msgspec.json.decode(answer.content, type=_Problem).detail)
        if not answer.is_success:
            raise ApiUnavailableError(_explained(answer.status_code))
        return msgspec.json.decode(answer.content, type=WhatIf)
    except httpx.HTTPError as error:
        raise ApiUnavailableError(f"The prediction API does not answer ({type(error).__name__}).") from error
    except msgspec.DecodeError as error:
        raise ApiUnavailableError("DASHBOARD_API_URL does not lead to the prediction API.") from error


def _explained(status: int) -> str:
    match status:
        case 401 | 403:
            return (
                "The prediction API does not accept the token of the dashboard. Make one with "
                "'churn serve add-token dashboard', and set DASHBOARD_API_TOKEN to it."
            )
        case 429:
            return "The prediction API gets too many requests. Try again in a moment."
        case 503:
            return "The prediction API has no model yet, or is too busy. Try again in a moment."
        case _:
            return f"The prediction API answers {status}. Its log has the details."
