"""What the prediction API needs to know of the settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from churn_platform.api.exceptions import ApiError
from churn_platform.environments.config import CLOCK_TOLERANCE
from churn_platform.hosts import LOCAL_HOSTS, is_loopback, is_wildcard
from churn_platform.schema.current import schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import Settings

MOST_CUSTOMERS: Final = 10_000
"""Customers of one request."""
MOST_ALTERNATIVES: Final = 100
"""Alternatives of one what-if request."""


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """What the API needs to know.

    Attributes:
        dsn: connection string of a login that reads model versions and customers.
        schema: of the customers; it decodes requests.
        high_risk_threshold: risk score, 0 to 1, from which a customer is at high risk.
        accepts_from: earliest event time that is valid.
        accepts_ahead: how far after now an event time may be.
        tokens_file: the tokens that requests need; None if they need none.
        hosts: names under which the API may be reached if requests need no token.
        requests_per_second: how many requests each token may make.
        max_body_bytes: size of the largest body.
    """

    dsn: str = field(repr=False)
    schema: CustomerSchema
    high_risk_threshold: float
    accepts_from: datetime
    accepts_ahead: timedelta
    tokens_file: Path | None = None
    hosts: Sequence[str] = LOCAL_HOSTS
    requests_per_second: float = 2000
    max_body_bytes: int = 16 * 1024 * 1024


def api_config(settings: Settings, *, host: str) -> ApiConfig:
    """Return what the settings say about the API.

    Args:
        settings: of the installation.
        host: where it will listen.

    Raises:
        SettingsError: the database is not configured.
        SchemaError: the customer schema is missing or invalid.
        ApiError: it would be open to other machines without a token.
    """
    api = settings.api
    if api.tokens is None and not is_loopback(host):
        raise ApiError(
            f"The prediction API would listen at {host}, where other machines reach it, and no request would need a "
            "token.",
            remedy="Set API_TOKENS to a file of tokens, which 'churn serve add-token NAME' writes.",
        )
    return ApiConfig(
        dsn=settings.reader_dsn,
        schema=schema_of(settings),
        high_risk_threshold=settings.retention.high_risk_threshold,
        accepts_from=settings.stream.epoch.astimezone(UTC),
        # The stream accepts as much: events of a batch that is opened now.
        accepts_ahead=timedelta(seconds=settings.stream.batch_seconds) + CLOCK_TOLERANCE,
        tokens_file=api.tokens,
        hosts=[*LOCAL_HOSTS, *([] if is_wildcard(host) else [host])],
        requests_per_second=api.requests_per_second,
        max_body_bytes=api.max_body_bytes,
    )
