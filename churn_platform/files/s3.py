"""Objects of an S3 bucket: the few requests that the platform makes, and what their errors mean.

Everything goes through boto3, as Dagster's and MLflow's own requests do: credentials come from where AWS's libraries
look for them (environment, profile, role of the instance) and are neither kept nor shown here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from churn_platform.files.exceptions import (
    ArtifactNotFoundError,
    ArtifactStoreError,
    ArtifactStoreUnreachableError,
)
from churn_platform.settings import Settings, settings

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError
    from mypy_boto3_s3 import S3Client

SCHEME: Final = "s3://"
# A run that cannot reach its files had better say so soon; a large object may take its time.
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
DELETED_AT_ONCE: Final = 1_000  # the most that one request takes

_CREDENTIALS: Final = (
    "Give AWS credentials that this server knows: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of "
    "'churn up' (they are not read from .env), or AWS_PROFILE, or a role of the instance."
)
_PERMISSIONS: Final = (
    "Allow these credentials s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject below the "
    "prefix (with S3_KMS_KEY_ID also kms:GenerateDataKey and kms:Decrypt on the key); or use others."
)
_BUCKET: Final = "Create the bucket, or name another one in CHURN_ARTIFACTS."
_REGION: Final = "Set AWS_DEFAULT_REGION to the region of the bucket."
_KMS: Final = "Set S3_KMS_KEY_ID to a KMS key that exists in the region of the bucket and is enabled, or unset it."
_ENDPOINT: Final = (
    "Start the S3 server, or correct AWS_ENDPOINT_URL_S3 (unset, it is AWS; AWS_DEFAULT_REGION is part of its address)."
)
_LATER: Final = "Try again later: the S3 server itself has a fault or is overloaded."

_REMEDIES: Final = {
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "ExpiredToken",
            "TokenRefreshRequired",
            "XAdminUserNotFound",  # versitygw's word for an unknown key
        ),
        _CREDENTIALS,
    ),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem"), _PERMISSIONS),
    **dict.fromkeys(("NoSuchBucket", "InvalidBucketName"), _BUCKET),
    **dict.fromkeys(
        (
            "PermanentRedirect",
            "TemporaryRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ),
        _REGION,
    ),
    "RequestTimeTooSkewed": "Set this machine's clock: it differs too much from the server's.",
}


class Encryption(TypedDict, total=False):
    """Arguments of an upload; none leave it to the bucket."""

    ServerSideEncryption: Literal["aws:kms"]
    SSEKMSKeyId: str


@dataclass(frozen=True)
class Access:
    """How the server is reached. None: as the AWS libraries find out by themselves.

    Attributes:
        endpoint: address of a server that is not AWS's.
        region: of the bucket.
        profile: in ~/.aws.
        kms_key: id, ARN or alias of the key that objects are encrypted with.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    kms_key: str | None = None

    @classmethod
    def from_settings(cls, given: Settings) -> Access:
        """As the settings say."""
        return cls(given.s3.endpoint_url, given.s3.region, given.s3.profile, given.s3.kms_key_id)

    @property
    def upload_arguments(self) -> Encryption:
        """What an upload says of encryption, as boto3, MLflow and Dagster take it."""
        return {} if self.kms_key is None else {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key}


@dataclass(frozen=True)
class Found:
    """An object: its bucket, its key (which may end with a slash) and its size in bytes."""

    bucket: str
    key: str
    size: int

    @property
    def uri(self) -> str:
        """Its address."""
        return f"{SCHEME}{self.bucket}/{self.key}"


def split(uri: str) -> tuple[str, str]:
    """Bucket and key, or bucket and prefix without a slash at its end, of an s3:// address."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key.rstrip("/")


@cache
def store(access: Access | None = None) -> ObjectStore:
    """The server that the settings name, or another one; one client for the life of the process."""
    return ObjectStore(access or Access.from_settings(settings()))


class ObjectStore:
    """A server that speaks S3. Addresses are s3://bucket/key; every error says first what to do."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @cached_property
    def _client(self) -> S3Client:
        import boto3
        from botocore.config import Config

        session = boto3.Session(profile_name=self._access.profile, region_name=self._access.region)
        return session.client(
            "s3",
            endpoint_url=self._access.endpoint,
            config=Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"mode": "standard"}),
        )

    def get(self, uri: str) -> bytes:
        """All bytes of an object.

        Raises:
            ArtifactNotFoundError: there is none.
            ArtifactStoreError: the server cannot be asked.
        """
        bucket, key = split(uri)
        with self._explained(uri):
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def put(self, uri: str, content: bytes) -> None:
        """Write an object whole, replacing one that is there.

        Raises:
            ArtifactStoreError: the server did not take it.
        """
        bucket, key = split(uri)
        with self._explained(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=content, **self._access.upload_arguments)

    def exists(self, uri: str) -> bool:
        """Whether there is an object. (Read, not asked for by HEAD: an answer to that has no reason in it.)"""
        try:
            self.get(uri)
        except ArtifactNotFoundError:
            return False
        return True

    def below(self, uri: str) -> Iterator[Found]:
        """The objects below a folder, in the order of their names; asked for as they are taken.

        Args:
            uri: s3://bucket/folder, or s3://bucket for all of it.

        Raises:
            ArtifactStoreError: the server cannot be asked.
        """
        bucket, folder = split(uri)
        with self._explained(uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{folder}/" if folder else ""
            )
            for page in pages:
                for each in page.get("Contents", ()):
                    yield Found(bucket, each["Key"], each["Size"])

    def is_empty(self, uri: str) -> bool:
        """Whether there is no object below a folder.

        Raises:
            ArtifactStoreError: the server cannot be asked.
        """
        return next(self.below(uri), None) is None

    def names(self, uri: str) -> list[str]:
        """Names of the objects and folders right in a folder, in order.

        Raises:
            ArtifactStoreError: the server cannot be asked.
        """
        bucket, folder = split(uri)
        prefix = f"{folder}/" if folder else ""
        with self._explained(uri):
            pages = list(
                self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
            )
        folders = (each.get("Prefix", "") for page in pages for each in page.get("CommonPrefixes", ()))
        objects = (each["Key"] for page in pages for each in page.get("Contents", ()))
        return sorted(key.removeprefix(prefix).rstrip("/") for key in (*folders, *objects) if key != prefix)

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error.

        Raises:
            ArtifactStoreError: the server refuses.
        """
        bucket, key = split(uri)
        with self._explained(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def delete_below(self, uri: str) -> int:
        """Delete the objects below a folder, and return how many there were.

        Raises:
            ArtifactStoreError: one could not be deleted; those before it are.
        """
        bucket, _ = split(uri)
        deleted = 0
        while found := list(islice(self.below(uri), DELETED_AT_ONCE)):
            with self._explained(uri):
                answer = self._client.delete_objects(
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": each.key} for each in found], "Quiet": True},
                )
            for refused in answer.get("Errors", ()):
                raise meaning(refused.get("Code", ""), None, f"{SCHEME}{bucket}/{refused.get('Key')} was not deleted")
            deleted += len(found)
        return deleted

    def check(self, root: str) -> None:
        """Make sure that the bucket is there, that these credentials may list it, and that its region is the set one.

        Args:
            root: the prefix that everything lies below.

        Raises:
            ArtifactStoreError: it is not so.
        """
        bucket, _ = split(root)
        self.is_empty(root)
        with self._explained(root):
            headers = self._client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        region, wished = headers.get("x-amz-bucket-region"), self._access.region
        if region and wished and region != wished:  # boto3 would find out by itself, at every start of a process
            raise ArtifactStoreError(
                f"The bucket {bucket} is in the region {region}, but AWS_DEFAULT_REGION is {wished}.", remedy=_REGION
            )

    @contextmanager
    def _explained(self, uri: str) -> Iterator[None]:
        """Turn the errors of AWS's library into ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._refusal(error, uri) from error
        except BotoCoreError as error:
            raise self._failure(error, uri) from error

    def _refusal(self, error: ClientError, uri: str) -> OSError:
        """What it means that the server answered with an error."""
        code = error.response["Error"].get("Code", "")
        if code == "NoSuchKey":
            return ArtifactNotFoundError(
                f"There is no file {uri}. Materialize the asset that writes it, or set CHURN_ARTIFACTS to where it is."
            )
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")
        message = error.response["Error"].get("Message", "")
        return meaning(code, status, f"{self._server} refused {uri}: {code}, {message}")

    def _failure(self, error: BotoCoreError, uri: str) -> ArtifactStoreError:
        """What it means that no answer came, or that nothing could be asked."""
        from botocore import exceptions

        problem = f"{uri} was not reached at {self._server}: {error}"
        if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError | exceptions.IncompleteReadError):
            return ArtifactStoreUnreachableError(problem, remedy=_ENDPOINT)
        return ArtifactStoreError(
            problem, remedy=_BUCKET if isinstance(error, exceptions.ParamValidationError) else _CREDENTIALS
        )

    @property
    def _server(self) -> str:
        return self._access.endpoint or "AWS S3"


def meaning(code: str, status: int | None, problem: str) -> ArtifactStoreError:
    """The error for a code of S3, by its HTTP status where the code is not known: not every server uses AWS's."""
    if code.startswith("KMS."):
        return ArtifactStoreError(problem, remedy=_KMS)
    if code in _REMEDIES:
        return ArtifactStoreError(problem, remedy=_REMEDIES[code])
    if status is not None and status < 500:
        return ArtifactStoreError(problem, remedy=_BUCKET if status == 404 else _CREDENTIALS)
    return ArtifactStoreUnreachableError(problem, remedy=_LATER)
