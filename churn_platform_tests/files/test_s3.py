"""Files in S3 behave as on disk, and what goes wrong there says what to do."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from churn_platform.files.artifacts import MARKER, claim, exists, is_empty, join, read_bytes, write_bytes
from churn_platform.files.exceptions import (
    ArtifactNotFoundError,
    ArtifactStoreError,
    ArtifactStoreUnreachableError,
)
from churn_platform.files.s3 import meaning, store
from churn_platform.scoring.bundle import ModelBundle
from churn_platform.settings import SettingsError, load_settings
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.files.s3_server import BUCKET, OTHERS_BUCKET, Server, client
from churn_platform_tests.scoring.bundles import small_bundle


def test_bytes_come_back_from_an_object_with_any_name(s3_root: str) -> None:
    uri = join(s3_root, "a folder", "100% #1?", "model.ubj")

    write_bytes(uri, b"\x00\xff")
    write_bytes(uri, b"second")

    assert read_bytes(uri) == b"second"
    assert exists(uri)
    assert not exists(join(s3_root, "a folder"))
    assert not is_empty(join(s3_root, "a folder"))
    assert is_empty(join(s3_root, "a fold"))


def test_a_missing_object_is_named(s3_root: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=f"There is no file {s3_root}/nowhere"):
        read_bytes(f"{s3_root}/nowhere")


def test_a_bundle_is_saved_and_loaded(s3_root: str) -> None:
    bundle = small_bundle()
    bundle.save(join(s3_root, "models", "run"))

    assert ModelBundle.load(join(s3_root, "models", "run")).parts() == bundle.parts()


@contextmanager
def changed(monkeypatch: pytest.MonkeyPatch, **variables: str | None) -> Iterator[None]:
    """The settings with these changes, None taking one away."""
    with monkeypatch.context() as environment:
        for name, value in variables.items():
            if value is None:
                environment.delenv(name)
            else:
                environment.setenv(name, value)
        forget_settings()
        yield
    forget_settings()


@pytest.mark.parametrize(
    ("change", "remedy", "problem"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "Give AWS credentials that this server knows", "refused"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Give AWS credentials that this server knows", "SignatureDoesNotMatch"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "Give AWS credentials that this server knows",
            "Unable to locate credentials",
        ),
        ({"AWS_PROFILE": "nobody"}, "Give AWS credentials that this server knows", "nobody"),
        ({"CHURN_ARTIFACTS": "s3://no-such-bucket/prefix"}, "Create the bucket, or name another one", "NoSuchBucket"),
        ({"CHURN_ARTIFACTS": "s3://No Bucket/prefix"}, "Create the bucket, or name another one", "No Bucket"),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, "Set AWS_DEFAULT_REGION", "eu-central-1"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "Start the S3 server, or correct", "http://127.0.0.1:1"),
        ({"AWS_ENDPOINT_URL_S3": "http://s3.invalid"}, "Start the S3 server, or correct", "http://s3.invalid"),
    ],
)
@pytest.mark.usefixtures("s3_root")
def test_what_is_wrong_is_said_with_the_remedy_first(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], remedy: str, problem: str
) -> None:
    with changed(monkeypatch, **change), pytest.raises(ArtifactStoreError, match=f"^{remedy}.*{problem}") as raised:
        store().check(load_settings().platform.artifacts_root)

    assert raised.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        ("KMS.NotFoundException", 400, "Set S3_KMS_KEY_ID"),
        ("ExpiredToken", 400, "Give AWS credentials"),
        ("RequestTimeTooSkewed", 403, "Set this machine's clock"),
        ("AWordOfItsOwn", 403, "Give AWS credentials"),
        ("SlowDown", 503, "Try again later"),
    ],
)
def test_what_the_test_servers_never_say_has_a_remedy_too(code: str, status: int, remedy: str) -> None:
    assert meaning(code, status, "s3://bucket/key").remedy.startswith(remedy)


def test_a_bucket_of_somebody_else_says_what_to_allow(s3_root: str, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--s3-server") != "moto":
        pytest.skip("versitygw's root user may do everything")
    with pytest.raises(ArtifactStoreError, match=f"^Allow these credentials s3:ListBucket.*{OTHERS_BUCKET}"):
        store().check(s3_root.replace(BUCKET, OTHERS_BUCKET))


def test_no_error_shows_a_secret(monkeypatch: pytest.MonkeyPatch, s3: Server, s3_root: str) -> None:
    wrong = s3.secret[::-1]
    with changed(monkeypatch, AWS_SECRET_ACCESS_KEY=wrong), pytest.raises(ArtifactStoreError) as raised:
        read_bytes(join(s3_root, "file"))

    told = "".join(traceback.format_exception(raised.value))
    assert "SignatureDoesNotMatch" in told
    assert not [secret for secret in (s3.key, s3.secret, wrong) if secret in told]


def test_a_server_that_comes_back_is_used_again(s3: Server, s3_root: str) -> None:
    write_bytes(join(s3_root, "file"), b"kept")
    s3.stop()
    try:
        with pytest.raises(ArtifactStoreUnreachableError, match=r"^Start the S3 server"):
            read_bytes(join(s3_root, "file"))
        with pytest.raises(ArtifactStoreUnreachableError, match=r"^Start the S3 server"):
            write_bytes(join(s3_root, "file"), b"lost")
    finally:
        s3.start()

    assert read_bytes(join(s3_root, "file")) == b"kept"


def test_objects_are_encrypted_with_the_key_that_is_set(
    monkeypatch: pytest.MonkeyPatch, s3: Server, s3_root: str, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--s3-server") != "moto":
        pytest.skip("versitygw knows no KMS")
    with changed(monkeypatch, S3_KMS_KEY_ID="alias/churn"):
        write_bytes(join(s3_root, "file"), b"secret")

    stored = client(s3).head_object(Bucket=BUCKET, Key=f"{s3_root.removeprefix(f's3://{BUCKET}/')}/file")
    assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == ("aws:kms", "alias/churn")


def test_what_lies_below_a_folder_is_deleted_and_nothing_beside_it(
    monkeypatch: pytest.MonkeyPatch, s3: Server, s3_root: str
) -> None:
    monkeypatch.setattr("churn_platform.files.s3.DELETED_AT_ONCE", 3)
    # As consoles make what they call a folder.
    client(s3).put_object(Bucket=BUCKET, Key=f"{s3_root.removeprefix(f's3://{BUCKET}/')}/models/")
    for number in range(7):
        write_bytes(join(s3_root, "models", str(number)), b"x")
    write_bytes(join(s3_root, "models-of-others"), b"x")

    assert store().delete_below(join(s3_root, "models")) == 8
    assert [found.uri for found in store().below(s3_root)] == [join(s3_root, "models-of-others")]
    assert store().delete_below(join(s3_root, "models")) == 0


def test_a_root_is_claimed_by_who_writes_there_first(s3_root: str) -> None:
    claim(s3_root)
    write_bytes(join(s3_root, "others", "models", "theirs"), b"x")
    claim(join(s3_root, "others"))

    assert exists(join(s3_root, MARKER))
    assert not exists(join(s3_root, "others", MARKER))


@pytest.mark.parametrize("place", ["gs://bucket/prefix", "s3://", "s3:///prefix", "https://bucket"])
def test_a_place_that_is_neither_a_folder_nor_s3_is_refused(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("CHURN_ARTIFACTS", place)
    with pytest.raises(SettingsError, match=r"CHURN_ARTIFACTS: .*expected a folder, or s3://bucket/prefix"):
        load_settings()


def test_an_endpoint_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "minio:9000")
    with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL_S3: .*expected https://host or http://host:port"):
        load_settings()
