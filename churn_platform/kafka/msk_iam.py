"""Logins to Amazon MSK with AWS credentials: tokens that AWS's library signs, and that Kafka's client renews.

A token is a signed address. Signing it sends no request, apart from those by which the AWS libraries look for
credentials.
"""

from collections.abc import Callable
from typing import Final

from churn_platform.kafka.exceptions import KafkaSettingsError

# The name of this login in Java's clients. librdkafka knows only OAUTHBEARER, the mechanism that carries the token.
MECHANISM: Final = "AWS_MSK_IAM"
REGION: Final = "aws.region"
PROFILE: Final = "aws.profile"

TokenSource = Callable[[str], tuple[str, float]]
"""What librdkafka calls for a new token, from a thread of its own. It returns the token, and when it expires in seconds
since 1970."""


def token_source(region: str, profile: str | None) -> TokenSource:
    """Return a source of tokens, after it has signed a first one.

    Args:
        region: of the cluster.
        profile: in ~/.aws; None for AWS's default credential chain.

    Raises:
        KafkaSettingsError: there are no credentials, or the profile does not exist.
    """
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    from botocore.exceptions import BotoCoreError

    def sign(_: str) -> tuple[str, float]:
        token, expires_milliseconds = (
            MSKAuthTokenProvider.generate_auth_token(region)
            if profile is None
            else MSKAuthTokenProvider.generate_auth_token_from_profile(region, profile)
        )
        return token, expires_milliseconds / 1000

    try:
        sign("")
    except (AttributeError, ValueError, BotoCoreError) as error:  # without credentials, the library reads None
        raise KafkaSettingsError(
            "There are no AWS credentials for the login to Kafka"
            + (f" in the profile {profile!r}" if profile else "")
            + (f": {error}." if isinstance(error, BotoCoreError) else "."),
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or AWS_PROFILE, or run on an "
            "instance or container with a role.",
        ) from error
    return sign
