"""What the dashboard needs to know of the settings."""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from churn_platform.dashboard.exceptions import DashboardError
from churn_platform.hosts import LOCAL_HOSTS, is_loopback, is_wildcard
from churn_platform.schema.current import schema_of
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.settings import Settings


@dataclass(frozen=True)
class DashboardConfig:
    """What the dashboard needs to know.

    Attributes:
        reader_dsn: connection string of a login that reads everything except the keys of the control group.
        retention_dsn: connection string of a login that reads and changes cases of the contact arm.
        schema: of the customers.
        timezone: of the retention team.
        customer_url: address of a customer in the CRM, with a place for the id; empty for none.
        dagster_url: address of the Dagster UI, without a trailing slash; empty if pages cannot link to it.
        api_url: address of the prediction API, without a trailing slash; empty if there is none to ask.
        api_token: what requests to it need; empty if they need none.
        users_file: who may log in; None if nobody has to.
        session: how long a login lasts.
        proxy: IP address of the proxy that names the user; None if there is none.
        proxy_header: the header in which it names the user.
        hosts: names under which browsers may reach the dashboard.
        origin: of the address that browsers use, such as https://churn.example.com; empty if it is only that of
            this machine.
        local_user: who changes cases if nobody has to log in.
        drift_shifted: PSI from which a feature counts as shifted.
        drift_far: PSI from which a feature counts as far from the training data.
        live_auc_loss: the largest acceptable loss of ROC AUC against the out-of-fold value.
    """

    reader_dsn: str
    retention_dsn: str
    schema: CustomerSchema
    timezone: ZoneInfo
    customer_url: str = ""
    dagster_url: str = ""
    api_url: str = ""
    api_token: str = field(default="", repr=False)
    users_file: Path | None = None
    session: timedelta = timedelta(hours=12)
    proxy: str | None = None
    proxy_header: str = "X-Forwarded-User"
    hosts: Sequence[str] = LOCAL_HOSTS
    origin: str = ""
    local_user: str = "local"
    drift_shifted: float = 0.1
    drift_far: float = 0.25
    live_auc_loss: float = 0.05

    @property
    def is_open(self) -> bool:
        """Whether nobody has to log in."""
        return self.users_file is None and self.proxy is None

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers reach it through HTTPS."""
        return self.origin.startswith("https://")


def dashboard_config(settings: Settings, *, host: str) -> DashboardConfig:
    """Return what the settings say about the dashboard.

    Args:
        settings: of the installation.
        host: where it will listen.

    Raises:
        SettingsError: the database is not configured.
        SchemaError: the customer schema is missing or invalid.
        DashboardError: it would be open to other machines without a login.
    """
    dashboard = settings.dashboard
    if dashboard.users is None and dashboard.proxy is None and not is_loopback(host):
        raise DashboardError(
            f"The dashboard would listen at {host}, where other machines reach it, and nobody would have to log in.",
            remedy="Set DASHBOARD_USERS to a file with users ('churn dashboard add-user' writes it), or "
            "DASHBOARD_PROXY to the address of a proxy that names the user.",
        )
    named = [name] if dashboard.url and (name := urlsplit(dashboard.url).hostname) else []
    return DashboardConfig(
        reader_dsn=settings.reader_dsn,
        retention_dsn=settings.retention_dsn,
        schema=schema_of(settings),
        timezone=ZoneInfo(settings.retention.business_timezone),
        customer_url=settings.retention.customer_url,
        dagster_url=(dashboard.dagster_url or "").rstrip("/"),
        api_url=(dashboard.api_url or "").rstrip("/"),
        api_token="" if dashboard.api_token is None else dashboard.api_token.get_secret_value(),
        users_file=dashboard.users,
        session=timedelta(hours=dashboard.session_hours),
        proxy=dashboard.proxy,
        proxy_header=dashboard.proxy_header,
        hosts=[*LOCAL_HOSTS, *([] if is_wildcard(host) else [host]), *named],
        origin=_origin(dashboard.url) if dashboard.url else "",
        local_user=getpass.getuser(),
        drift_shifted=settings.monitoring.drift_shifted,
        drift_far=settings.monitoring.drift_far,
        live_auc_loss=settings.monitoring.live_auc_loss,
    )


def _origin(url: str) -> str:
    """Return the origin of an address as browsers write it: in lower case, and without the usual port."""
    parts = urlsplit(url)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"
