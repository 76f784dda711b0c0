"""Targets of messages: names with addresses. Everything but the senders handles names only.

An address may hold a password or a token, so it is never logged, stored, or part of an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import SecretStr

from churn_platform.alerts.delivery import Sender
from churn_platform.alerts.exceptions import TargetError
from churn_platform.settings import Settings, parse_targets

Service: TypeAlias = Literal["smtp", "webhook", "apprise"]
Tls: TypeAlias = Literal["implicit", "starttls", "none"]
SMTP_PORTS: Final = {"smtp": 587, "smtps": 465}
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Target:
    """Who gets messages.

    Attributes:
        name: what logs, tables and errors show.
        url: the address, which is secret.
    """

    name: str
    url: SecretStr

    @property
    def service(self) -> Service:
        """Which sender it needs."""
        scheme = self.url.get_secret_value().partition("://")[0].lower()
        return "smtp" if scheme in SMTP_PORTS else "webhook" if scheme in ("http", "https") else "apprise"


@dataclass(frozen=True)
class SmtpAddress:
    """An SMTP server, and from whom to whom.

    Attributes:
        host: of the server.
        port: of the server.
        tls: "implicit" from the first byte, "starttls" before the login, or "none".
        user: for the login; None without one.
        password: for the login.
        sender: address of the sender.
        recipients: addresses of the recipients.
    """

    host: str
    port: int
    tls: Tls
    user: str | None
    password: str | None
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class Targets:
    """All targets of the settings, by whom they are for.

    Attributes:
        team: names of those in ALERT_TARGETS.
        operators: names of those in OPERATOR_TARGETS.
        by_name: all of them. A name in both lists is one target.
    """

    team: tuple[str, ...]
    operators: tuple[str, ...]
    by_name: Mapping[str, Target]


def targets_of(settings: Settings) -> Targets:
    """Return the targets of the settings.

    Raises:
        TargetError: both lists use one name for different addresses.
    """
    team, operators = (
        parse_targets("" if group.targets is None else group.targets.get_secret_value())
        for group in (settings.alerts, settings.operators)
    )
    for name in team.keys() & operators.keys():
        if team[name] != operators[name]:
            raise TargetError(
                f"The target {name!r} has one address in ALERT_TARGETS and another in OPERATOR_TARGETS.",
                remedy="Give them different names, or the same address.",
            )
    return Targets(
        tuple(team), tuple(operators), {name: Target(name, url) for name, url in {**team, **operators}.items()}
    )


def make_sender(target: Target) -> Sender:
    """Return the sender of a target. Modules that only one kind of target needs are imported here.

    Raises:
        TargetError: the address cannot be used.
    """
    match target.service:
        case "smtp":
            from churn_platform.alerts.smtp import SmtpSender

            return SmtpSender(smtp_address(target))
        case "webhook":
            from churn_platform.alerts.webhook import WebhookSender

            return WebhookSender(webhook_url(target))
        case "apprise":
            from churn_platform.alerts.apprise_services import AppriseSender

            return AppriseSender(target)


def smtp_address(target: Target) -> SmtpAddress:
    """Return the parts of an address such as smtp://user:password@host:587?from=a@b.org&to=c@d.org,e@f.org.

    Raises:
        TargetError: a part is missing or wrong, or the password would cross a network in clear text.
    """
    parts = _split(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = query.keys() - {"from", "to", "tls"}
    recipients = tuple(each.strip() for each in query.get("to", "").split(",") if each.strip())
    if parts.hostname is None or "@" not in query.get("from", "") or not recipients or unknown:
        raise TargetError(
            f"The address of the target {target.name!r} is not complete: expected a host, and after ? the sender as "
            f"from= and the recipients as to=, and nothing else but tls=.",
            remedy="Write it as smtp://user:password@host:587?from=churn@example.org&to=team@example.org, with special "
            "characters percent-encoded: @ in a user as %40, + in an address as %2B.",
        )
    if not all(_is_mail_address(each) for each in (query["from"], *recipients)):
        raise TargetError(
            f"A mail address of the target {target.name!r} is not one: expected name@host in ASCII, without blanks.",
            remedy="Correct from= and to= in its address. Several recipients are separated by commas.",
        )
    tls = _tls(target, parts.scheme.lower(), query.get("tls"))
    user, password = parts.username, parts.password
    if tls == "none" and user is not None and parts.hostname not in LOOPBACK:
        raise TargetError(
            f"The target {target.name!r} would send its password in clear text: its address has tls=none and a user.",
            remedy="Remove tls=none, or the user and the password.",
        )
    return SmtpAddress(
        host=parts.hostname,
        port=_port(target, parts) or SMTP_PORTS[parts.scheme.lower()],
        tls=tls,
        user=None if user is None else unquote(user),
        password=None if password is None else unquote(password),
        sender=query["from"],
        recipients=recipients,
    )


def _tls(target: Target, scheme: str, given: str | None) -> Tls:
    match scheme, given:
        case "smtps", None | "implicit":
            return "implicit"
        case "smtp", None | "starttls":
            return "starttls"
        case "smtp", "none":
            return "none"
        case _:
            raise TargetError(
                f"The target {target.name!r} has an unusable tls= in its address: expected starttls or none.",
                remedy="Leave it out for STARTTLS, or use smtps:// for TLS from the first byte.",
            )


def webhook_url(target: Target) -> str:
    """Return the address of a webhook.

    Raises:
        TargetError: it has no host, or a port that is none.
    """
    parts = _split(target)
    _port(target, parts)
    if not parts.hostname:
        raise TargetError(
            f"The address of the target {target.name!r} has no host.", remedy="Write it as https://host/path."
        )
    return target.url.get_secret_value()


def _split(target: Target) -> SplitResult:
    try:
        return urlsplit(target.url.get_secret_value())
    except ValueError:
        raise TargetError(
            f"The address of the target {target.name!r} is not a URL.",
            remedy="Percent-encode special characters in its parts, such as [ as %5B and # as %23.",
        ) from None  # the error itself shows the address


def _port(target: Target, parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise TargetError(
            f"The address of the target {target.name!r} has a port that is not a number from 0 to 65535.",
            remedy="Percent-encode special characters in its user and its password: : as %3A, @ as %40, / as %2F.",
        ) from None


def _is_mail_address(text: str) -> bool:
    name, _, host = text.rpartition("@")
    return bool(name and host) and text.isascii() and text.isprintable() and not set(text) & set(" <>,;")
