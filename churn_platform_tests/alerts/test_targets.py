"""Targets: how settings name them, and that no error shows an address."""

import pytest
from pydantic import SecretStr

from churn_platform.alerts.exceptions import TargetError
from churn_platform.alerts.targets import SmtpAddress, Target, make_sender, smtp_address, targets_of
from churn_platform.settings import Settings, SettingsError, parse_settings


def settings(**variables: str) -> Settings:
    return Settings.from_variables(variables)


def target(url: str) -> Target:
    return Target("mail", SecretStr(url))


def test_targets_are_named_and_a_name_in_both_lists_is_one_target() -> None:
    found = targets_of(
        settings(
            ALERT_TARGETS="team=smtp://mail.org?from=a@b.org&to=c@d.org\n ops=https://hook.org/x=1",
            OPERATOR_TARGETS="ops=https://hook.org/x=1 pager=slack://a/b/c",
        )
    )

    assert (found.team, found.operators) == (("team", "ops"), ("ops", "pager"))
    assert {name: each.service for name, each in found.by_name.items()} == {
        "team": "smtp",
        "ops": "webhook",
        "pager": "apprise",
    }
    assert found.by_name["ops"].url.get_secret_value() == "https://hook.org/x=1"


def test_no_targets_are_the_default() -> None:
    assert targets_of(Settings()).by_name == {}


def test_one_name_with_two_addresses_is_an_error() -> None:
    with pytest.raises(TargetError, match="'ops' has one address in ALERT_TARGETS and another in OPERATOR_TARGETS"):
        targets_of(settings(ALERT_TARGETS="ops=https://s3cret.org", OPERATOR_TARGETS="ops=https://other.org"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("https://hook.org/s3cret", "the 1. is something else"),
        ("a=https://b.org Ops=https://hook.org/s3cret", "the 2. is something else"),
        ("a=https://s3cret.org a=https://b.org", "the name 'a' occurs twice"),
        ("a=s3cret", "the 1. is something else"),
    ],
)
@pytest.mark.parametrize("variable", ["ALERT_TARGETS", "OPERATOR_TARGETS"])
def test_an_unusable_list_is_refused_and_not_shown(variable: str, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_settings({".env": {variable: text}})

    assert problem in refusal.value.problem
    assert "s3cret" not in str(refusal.value)


def test_the_parts_of_a_mail_address_are_decoded() -> None:
    address = smtp_address(target("smtp://ch%40rn:p%40%3Ass@mail.org?from=a%2Bb@c.org&to=d@e.org,%20f@g.org"))

    assert address == SmtpAddress(
        host="mail.org",
        port=587,
        tls="starttls",
        user="ch@rn",
        password="p@:ss",  # noqa: S106  an example
        sender="a+b@c.org",
        recipients=("d@e.org", "f@g.org"),
    )
    assert smtp_address(target("smtps://mail.org:99?from=a@b.org&to=c@d.org")).tls == "implicit"
    assert smtp_address(target("smtps://mail.org:99?from=a@b.org&to=c@d.org")).port == 99
    assert smtp_address(target("smtp://u:p@localhost?from=a@b.org&to=c@d.org&tls=none")).tls == "none"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("smtp://s3cret.org?from=a@b.org", "is not complete"),
        ("smtp://s3cret.org?to=a@b.org", "is not complete"),
        ("smtp://s3cret.org?from=a@b.org&to=c@d.org&subject=x", "is not complete"),
        ("smtp://u:p@s3cret.org?from=a@b.org&to=c@d.org&tls=none", "password in clear text"),
        ("smtp://s3cret.org?from=a@b.org&to=c@d.org&tls=maybe", "unusable tls="),
        ("smtps://s3cret.org?from=a@b.org&to=c@d.org&tls=none", "password in clear text|unusable tls="),
        ("smtp://s3cret.org?from=a@b.org&to=c%0A@d.org", "A mail address"),
        ("smtp://s3cret.org?from=ä@b.org&to=c@d.org", "A mail address"),
        ("smtp://u:s3cret/x@b.org?from=a@b.org&to=c@d.org", "has a port|is not complete"),
        ("https://u:s3cret/x@b.org", "has a port"),
        ("https://[s3cret", "is not a URL"),
        ("https:///s3cret", "has no host"),
    ],
)
def test_an_unusable_address_is_an_error_that_names_the_target_only(url: str, problem: str) -> None:
    with pytest.raises(TargetError, match=f"(?s)'mail'.*({problem})|({problem}).*'mail'") as refusal:
        make_sender(target(url))

    assert "s3cret" not in str(refusal.value)
    assert "s3cret" not in repr(target(url))
