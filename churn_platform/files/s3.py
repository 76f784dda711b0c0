"""Objects of an S3 bucket: the few requests that the platform makes, and the remedies for their errors.

All requests go through boto3, like those of Dagster and MLflow. Credentials come from where AWS's libraries look for
them (environment, profile, role of the instance). They are neither stored nor shown here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
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
    from typing_extensions import Buffer

SCHEME: Final = "s3://"
# A run should soon report that it cannot reach its files, but a large object may take a while to read.
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
DOWNLOAD_BYTES: Final = 8 * 1024 * 1024  # of a large object that are in memory
DELETE_LIMIT: Final = 1_000  # maximum number of objects in one request

_CREDENTIALS: Final = (
    "Give AWS credentials that this server accepts: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of "
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
_LATER: Final = "Try again later: the S3 server has an internal error or is overloaded."

_REMEDIES: Final = {
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "ExpiredToken",
            "TokenRefreshRequired",
            "XAdminUserNotFound",  # versitygw's code for an unknown key
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
    """Encryption arguments of an upload. Without them, the bucket's default applies."""

    ServerSideEncryption: Literal["aws:kms"]
    SSEKMSKeyId: str


@dataclass(frozen=True)
class Access:
    """How the server is reached. None leaves a value to the AWS libraries.

    Attributes:
        endpoint: address of a server other than AWS.
        region: region of the bucket.
        profile: profile in ~/.aws.
        kms_key: id, ARN or alias of the key to encrypt objects with.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    kms_key: str | None = None

    @classmethod
    def from_settings(cls, given: Settings) -> Access:
        """Return the access that the settings describe."""
        return cls(given.s3.endpoint_url, given.s3.region, given.s3.profile, given.s3.kms_key_id)

    @property
    def upload_arguments(self) -> Encryption:
        """Encryption arguments of an upload, in the form that boto3, MLflow and Dagster accept."""
        return {} if self.kms_key is None else {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key}


@dataclass(frozen=True)
class StoredObject:
    """An object: its bucket, its key (which may end with a slash), its size in bytes, when it was written, its ETag."""

    bucket: str
    key: str
    size: int
    modified: datetime
    etag: str

    @property
    def uri(self) -> str:
        """The address of the object."""
        return f"{SCHEME}{self.bucket}/{self.key}"


def split(uri: str) -> tuple[str, str]:
    """Split an s3:// address into bucket and key, without a trailing slash."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key.rstrip("/")


class RangedFile(io.RawIOBase):
    """A file that is elsewhere. Each read fetches a range of its bytes."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """Read nothing yet.

        Args:
            size: number of bytes.
            fetch: returns the bytes [start, end).
        """
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        """Return that the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be read from any position."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, and return it."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = starts[whence] + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Read as many bytes as the buffer has room for, and return their number."""
        target = memoryview(buffer).cast("B")
        end = min(self._position + len(target), self._size)
        if end <= self._position:
            return 0
        content = self._fetch(self._position, end)
        target[: len(content)] = content
        self._position += len(content)
        return len(content)


@cache
def store(access: Access | None = None) -> ObjectStore:
    """Return the server of the settings, or another one. There is one client per process."""
    return ObjectStore(access or Access.from_settings(settings()))


class ObjectStore:
    """An S3 server. Addresses are s3://bucket/key. Every error text starts with the remedy."""

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
        """Read an object.

        Raises:
            ArtifactNotFoundError: the object does not exist.
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, key = split(uri)
        with self._translate_errors(uri):
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def open(self, uri: str) -> io.RawIOBase:
        """Return an object as a file, of which only what is read is fetched.

        Raises:
            ArtifactNotFoundError: the object does not exist.
            ArtifactStoreError: the server rejects the request or cannot be reached. Reading the file may raise it, too.
        """
        bucket, key = split(uri)
        with self._translate_errors(uri):
            head = self._client.head_object(Bucket=bucket, Key=key)
        etag = head["ETag"]

        def fetch(start: int, end: int) -> bytes:
            with self._translate_errors(uri):
                answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=etag)
                return answer["Body"].read()

        return RangedFile(head["ContentLength"], fetch)

    def put(self, uri: str, content: bytes) -> None:
        """Write an object atomically, replacing an existing one.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, key = split(uri)
        with self._translate_errors(uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=content, **self._access.upload_arguments)

    def upload(self, path: Path, uri: str) -> None:
        """Write a local file of any size as an object, in parts, without holding it in memory.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        from boto3.exceptions import S3UploadFailedError

        bucket, key = split(uri)
        with self._translate_errors(uri):
            try:
                self._client.upload_file(str(path), bucket, key, ExtraArgs={**self._access.upload_arguments})
            except S3UploadFailedError as error:  # boto3 hides the server's answer in it
                raise error.__context__ or error from None

    def download(self, uri: str, path: Path) -> None:
        """Write an object of any size to a local file, without holding it in memory.

        Raises:
            ArtifactNotFoundError: the object does not exist.
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, key = split(uri)
        with self._translate_errors(uri), path.open("wb") as file:
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(DOWNLOAD_BYTES):
                file.write(chunk)

    def exists(self, uri: str) -> bool:
        """Return whether an object exists. Uses GET, because errors of HEAD requests do not contain a reason."""
        try:
            self.get(uri)
        except ArtifactNotFoundError:
            return False
        return True

    def list_objects(self, uri: str) -> Iterator[StoredObject]:
        """Yield the objects below a folder, ordered by key. Pages are requested as needed.

        Args:
            uri: s3://bucket/folder, or s3://bucket for the whole bucket.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, folder = split(uri)
        yield from self._list(bucket, f"{folder}/" if folder else "", uri)

    def find(self, uri: str) -> StoredObject | None:
        """Return an object without reading it, None if it does not exist.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, key = split(uri)
        first = next(self._list(bucket, key, uri), None)  # of the keys that start with this one, it is the first
        return first if first is not None and first.key == key else None

    def _list(self, bucket: str, prefix: str, uri: str) -> Iterator[StoredObject]:
        with self._translate_errors(uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for each in page.get("Contents", ()):
                    yield StoredObject(bucket, each["Key"], each["Size"], each["LastModified"], each["ETag"])

    def is_empty(self, uri: str) -> bool:
        """Return whether there are no objects below a folder.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        return next(self.list_objects(uri), None) is None

    def list_names(self, uri: str) -> list[str]:
        """Return the sorted names of the objects and folders directly in a folder.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, folder = split(uri)
        prefix = f"{folder}/" if folder else ""
        with self._translate_errors(uri):
            pages = list(
                self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
            )
        folders = (each.get("Prefix", "") for page in pages for each in page.get("CommonPrefixes", ()))
        objects = (each["Key"] for page in pages for each in page.get("Contents", ()))
        return sorted(key.removeprefix(prefix).rstrip("/") for key in (*folders, *objects) if key != prefix)

    def delete(self, uri: str) -> None:
        """Delete an object. An object that does not exist is not an error.

        Raises:
            ArtifactStoreError: the server rejects the request or cannot be reached.
        """
        bucket, key = split(uri)
        with self._translate_errors(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def delete_below(self, uri: str, *, per_request: int = DELETE_LIMIT) -> int:
        """Delete the objects below a folder and return how many there were.

        Args:
            uri: s3://bucket/folder.
            per_request: number of objects to delete in one request, at most DELETE_LIMIT.

        Raises:
            ArtifactStoreError: an object could not be deleted. Those before it have been.
        """
        bucket, _ = split(uri)
        deleted = 0
        while found := list(islice(self.list_objects(uri), per_request)):
            with self._translate_errors(uri):
                answer = self._client.delete_objects(
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": each.key} for each in found], "Quiet": True},
                )
            for failed in answer.get("Errors", ()):
                raise error_for_code(
                    failed.get("Code", ""), None, f"{SCHEME}{bucket}/{failed.get('Key')} was not deleted"
                )
            deleted += len(found)
        return deleted

    def check(self, root: str) -> None:
        """Make sure that the bucket exists, may be listed with these credentials, and is in the configured region.

        Args:
            root: the artifacts root.

        Raises:
            ArtifactStoreError: one of these conditions does not hold.
        """
        bucket, _ = split(root)
        self.is_empty(root)
        with self._translate_errors(root):
            headers = self._client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        region, expected = headers.get("x-amz-bucket-region"), self._access.region
        if (
            region and expected and region != expected
        ):  # otherwise boto3 would determine the region again in every process
            raise ArtifactStoreError(
                f"The bucket {bucket} is in the region {region}, but AWS_DEFAULT_REGION is {expected}.",
                remedy=_REGION,
            )

    @contextmanager
    def _translate_errors(self, uri: str) -> Iterator[None]:
        """Raise errors of AWS's library as ArtifactStoreError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._server_error(error, uri) from error
        except BotoCoreError as error:
            raise self._client_error(error, uri) from error

    def _server_error(self, error: ClientError, uri: str) -> OSError:
        """Return the error for a response with an error code."""
        code = error.response["Error"].get("Code", "")
        if code in ("NoSuchKey", "404"):  # a request for the head of an object has no other code
            return ArtifactNotFoundError(
                f"There is no file {uri}.",
                remedy="Materialize the asset that writes it, or set CHURN_ARTIFACTS to the folder that has it.",
            )
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")
        message = error.response["Error"].get("Message", "")
        return error_for_code(code, status, f"{self._server} rejected {uri}: {code}, {message}")

    def _client_error(self, error: BotoCoreError, uri: str) -> ArtifactStoreError:
        """Return the error for a request that could not be sent or had no response."""
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


def error_for_code(code: str, status: int | None, problem: str) -> ArtifactStoreError:
    """Return the error for an S3 error code. For unknown codes, which some servers use, the HTTP status decides."""
    if code.startswith("KMS."):
        return ArtifactStoreError(problem, remedy=_KMS)
    if code in _REMEDIES:
        return ArtifactStoreError(problem, remedy=_REMEDIES[code])
    if status is not None and status < 500:
        return ArtifactStoreError(problem, remedy=_BUCKET if status == 404 else _CREDENTIALS)
    return ArtifactStoreUnreachableError(problem, remedy=_LATER)
