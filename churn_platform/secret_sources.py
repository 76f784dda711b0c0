"""Where the value of a secret setting comes from: the variable itself, a file, or AWS Secrets Manager.

No error and no log shows a value. What does not belong here: which settings are secret (settings.py).
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from churn_platform.errors import PlatformError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FILE_SUFFIX: Final = "_FILE"
AWS_SCHEME: Final = "aws-secretsmanager:"
AWS_FORM: Final = f"{AWS_SCHEME}NAME, or {AWS_SCHEME}NAME#KEY for one value of a JSON secret"
MAX_BYTES: Final = 65_536  # as in Secrets Manager. A larger file is not a secret: it may be a device that never ends
# A command should soon report that it cannot read a secret.
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 10

_CREDENTIALS: Final = (
    "Give AWS credentials of this account: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or "
    "AWS_PROFILE, or a role of the instance or container."
)
_PERMISSIONS: Final = (
    "Allow these credentials secretsmanager:GetSecretValue on the secret, and kms:Decrypt on its key if that is one of "
    "your own."
)
_NAME: Final = "Correct the name of the secret, or AWS_DEFAULT_REGION: a secret exists in one region of one account."
_REMEDIES: Final = {
    "AccessDeniedException": _PERMISSIONS,
    "DecryptionFailure": _PERMISSIONS,
    "ResourceNotFoundException": _NAME,
    "ValidationException": _NAME,
    "InvalidRequestException": "Restore the secret if it is scheduled for deletion, or give it a value.",
}


class SecretError(PlatformError):
    """The value of a secret setting cannot be read from the place that was given."""


@dataclass(frozen=True)
class AwsLogin:
    """Region and profile of requests to Secrets Manager. None leaves them to the AWS libraries."""

    region: str | None = None
    profile: str | None = None


def merge(sources: Mapping[str, Mapping[str, str]], secrets: Collection[str]) -> dict[str, str]:
    """Return the variables of all sources. A secret is under its own name or that of its file, never both.

    Args:
        sources: variables by their source, which errors name. A later source takes precedence.
        secrets: names of the secret settings.

    Raises:
        SecretError: one source has a secret and a file of it.
    """
    merged: dict[str, str] = {}
    for place, variables in sources.items():
        for name in secrets:
            if name in variables and name + FILE_SUFFIX in variables:
                raise SecretError(
                    f"{name} and {name}{FILE_SUFFIX} are both set in {place}.", remedy="Set only one of them."
                )
            if name in variables or name + FILE_SUFFIX in variables:
                merged.pop(name, None)
                merged.pop(name + FILE_SUFFIX, None)
        merged.update(variables)
    return merged


def resolve(variables: Mapping[str, str], secrets: Iterable[str], *, folder: Path, aws: AwsLogin) -> dict[str, str]:
    """Return the variables with the values of secrets in place of references to them.

    Args:
        variables: as `merge` returns them.
        secrets: names of the secret settings.
        folder: where relative paths of files begin.
        aws: how to reach Secrets Manager.

    Raises:
        SecretError: a file or a secret cannot be read, or has no usable value.
    """
    resolved = dict(variables)
    for name in secrets:
        file = resolved.pop(name + FILE_SUFFIX, None)
        if file is not None:
            resolved[name] = _from_file(name, folder / file)
        elif resolved.get(name, "").startswith(AWS_SCHEME):
            resolved[name] = _from_aws(name, resolved[name].removeprefix(AWS_SCHEME), aws)
    return resolved


def _from_file(name: str, file: Path) -> str:
    """Return the content of a file without line breaks at its end, which editors and `echo` add."""
    variable = name + FILE_SUFFIX
    try:
        if file.exists() and not file.is_file():  # opening a named pipe waits until somebody writes to it
            raise SecretError(
                f"{variable} names {file}, which is not a regular file.",
                remedy="Name a file that contains only the value.",
            )
        with file.open("rb") as reader:
            content = reader.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(
            f"{variable} names {file}, which cannot be read: {error.strerror}.",
            remedy=f"Let the user of this process read the file, or set {name} instead.",
        ) from error
    if len(content) > MAX_BYTES:
        raise SecretError(
            f"{variable} names {file}, which has more than {MAX_BYTES} bytes.",
            remedy="Name a file that contains only the value.",
        )
    try:
        value = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        # The original error would show bytes of the value.
        raise SecretError(
            f"{variable} names {file}, which is not UTF-8 text.", remedy="Save the value as UTF-8."
        ) from None
    if not value:
        raise SecretError(f"{variable} names {file}, which is empty.", remedy="Write the value into the file.")
    return value


def _from_aws(name: str, reference: str, aws: AwsLogin) -> str:
    """Return a secret of Secrets Manager, or one value of a JSON secret."""
    secret, has_key, key = reference.partition("#")
    if not secret or (has_key and not key):
        raise SecretError(f"{name} is '{AWS_SCHEME}{reference}'.", remedy=f"Write it as {AWS_FORM}.")
    content = _aws_secret(name, secret, aws)
    if not has_key:
        return content
    try:
        values = json.loads(content)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        # The original error would show the secret.
        raise SecretError(
            f"{name} names the key {key!r} of the secret {secret}, which is not a JSON object.",
            remedy="Leave out the # and what follows it, or store the secret as keys and values.",
        )
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise SecretError(
            f"{name} names the key {key!r} of the secret {secret}, which has no text under it. It has the keys "
            f"{', '.join(sorted(values)) or '(none)'}.",
            remedy="Correct the key after the #.",
        )
    return value


@cache
def _aws_secret(name: str, secret: str, aws: AwsLogin) -> str:
    """Return the current version of a secret. A process asks for it once."""
    from botocore.exceptions import BotoCoreError, ClientError

    problem = f"{name} names the secret {secret} of AWS Secrets Manager, which cannot be read"
    try:
        answer = _client(aws, _region_of(secret)).get_secret_value(SecretId=secret)
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        raise SecretError(
            f"{problem}: {code}, {error.response['Error'].get('Message', '')}",
            remedy=_REMEDIES.get(code, _CREDENTIALS),
        ) from error
    except BotoCoreError as error:
        raise SecretError(f"{problem}: {error}", remedy=_remedy(error)) from error
    value = answer.get("SecretString")
    if not value:
        raise SecretError(
            f"{name} names the secret {secret}, which is binary or empty.", remedy="Store the value as text."
        )
    return value


def _client(aws: AwsLogin, region: str | None) -> "SecretsManagerClient":
    import boto3
    from botocore.config import Config

    session = boto3.Session(profile_name=aws.profile, region_name=region or aws.region)
    return session.client(
        "secretsmanager",
        config=Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"mode": "standard"}),
    )


def _region_of(secret: str) -> str | None:
    """Return the region that an ARN names; None for a name."""
    kind, _, _, *rest = [*secret.split(":"), "", ""]  # arn:aws:secretsmanager:REGION:...
    return rest[0] if kind == "arn" and rest[0] else None


def _remedy(error: Exception) -> str:
    from botocore import exceptions

    if isinstance(error, exceptions.NoRegionError):
        return "Set AWS_DEFAULT_REGION to the region of the secret."
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return "Let this machine reach Secrets Manager in that region, through the internet or a VPC endpoint."
    return _CREDENTIALS
