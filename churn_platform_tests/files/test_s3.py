"""Files in S3 behave as on disk, and their errors name the remedy."""

import io
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import pytest

from churn_platform.files.artifacts import (
    MARKER,
    claim,
    exists,
    is_empty,
    join,
    read_bytes,
    reading_ranges,
    write_bytes,
    writing_large,
)
from churn_platform.files.exceptions import (
    ArtifactNotFoundError,
    ArtifactStoreError,
    ArtifactStoreUnreachableError,
)
from churn_platform.files.parquet import write_frames
from churn_platform.files.s3 import error_for_code, store
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.model_store import load_bundle, save_bundle
from churn_platform.settings import SettingsError, load_settings
from churn_platform_tests.conftest import forget_settings
from churn_platform_tests.files.s3_server import BUCKET, OTHERS_BUCKET, Server, client
from churn_platform_tests.scoring.bundles import small_bundle


def test_bytes_are_read_back_from_an_object_with_any_name(s3_root: str) -> None:
    uri = join(s3_root, "a folder", "100% #1?", "model.ubj")

    write_bytes(uri, b"\x00\xff")
    write_bytes(uri, b"second")

    assert read_bytes(uri) == b"second"
    assert exists(uri)
    assert not exists(join(s3_root, "a folder"))
    assert not is_empty(join(s3_root, "a folder"))
    assert is_empty(join(s3_root, "a fold"))


def test_a_part_of_an_object_is_read_without_the_rest(s3_root: str) -> None:
    uri, content = join(s3_root, "large"), bytes(range(256)) * 10_000

    with writing_large(uri) as target:
        target.write(content)

    with reading_ranges(uri) as file:
        assert file.seek(-3, io.SEEK_END) == len(content) - 3
        assert file.read() == content[-3:]
        assert file.read(1) == b""
        file.seek(700)
        assert file.read(2_000_000) == content[700:2_000_700]
        assert file.tell() == 2_000_700
    with pytest.raises(ArtifactNotFoundError, match="nowhere"), reading_ranges(join(s3_root, "nowhere")):
        pass


def test_a_stored_frame_reads_a_row_group_of_an_object(s3_root: str) -> None:
    uri, frame = join(s3_root, "frame.parquet"), pd.DataFrame({"number": range(90)})
    with writing_large(uri) as target:
        write_frames((frame.iloc[start : start + 30] for start in (0, 30, 60)), target, {})

    stored = StoredFrame(uri)

    assert stored.rows([1])["number"].tolist() == [*range(30, 60)]
    assert len(stored) == 90


def test_a_missing_object_is_named(s3_root: str) -> None:
    with pytest.raises(ArtifactNotFoundError, match=f"There is no file {s3_root}/nowhere"):
        read_bytes(f"{s3_root}/nowhere")


def test_a_bundle_is_saved_and_loaded(s3_root: str) -> None:
    bundle = small_bundle()
    save_bundle(bundle, join(s3_root, "models", "run"))

    assert load_bundle(join(s3_root, "models", "run")).to_parts() == bundle.to_parts()


@contextmanager
def changed(monkeypatch: pytest.MonkeyPatch, **variables: str | None) -> Iterator[None]:
    """Change environment variables within the block. None removes one."""
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
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "Give AWS credentials that this server accepts", "rejected"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "Give AWS credentials that this server accepts", "SignatureDoesNotMatch"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "Give AWS credentials that this server accepts",
            "Unable to locate credentials",
        ),
        ({"AWS_PROFILE": "nobody"}, "Give AWS credentials that this server accepts", "nobody"),
        ({"CHURN_ARTIFACTS": "s3://no-such-bucket/prefix"}, "Create the bucket, or name another one", "NoSuchBucket"),
        ({"CHURN_ARTIFACTS": "s3://No Bucket/prefix"}, "Create the bucket, or name another one", "No Bucket"),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, "Set AWS_DEFAULT_REGION", "eu-central-1"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "Start the S3 server, or correct", "http://127.0.0.1:1"),
        ({"AWS_ENDPOINT_URL_S3": "http://s3.invalid"}, "Start the S3 server, or correct", "http://s3.invalid"),
    ],
)
@pytest.mark.usefixtures("s3_root")
def test_errors_start_with_the_remedy(
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
        ("UnknownCode", 403, "Give AWS credentials"),
        ("SlowDown", 503, "Try again later"),
    ],
)
def test_codes_that_the_test_servers_never_return_have_a_remedy(code: str, status: int, remedy: str) -> None:
    assert error_for_code(code, status, "s3://bucket/key").remedy.startswith(remedy)


def test_a_denied_bucket_names_the_permissions_to_allow(s3_root: str, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--s3-server") != "moto":
        pytest.skip("versitygw's root user may do everything")
    with pytest.raises(ArtifactStoreError, match=f"^Allow these credentials s3:ListBucket.*{OTHERS_BUCKET}"):
        store().check(s3_root.replace(BUCKET, OTHERS_BUCKET))


def test_no_error_shows_a_secret(monkeypatch: pytest.MonkeyPatch, s3: Server, s3_root: str) -> None:
    wrong = s3.secret[::-1]
    with changed(monkeypatch, AWS_SECRET_ACCESS_KEY=wrong), pytest.raises(ArtifactStoreError) as raised:
        read_bytes(join(s3_root, "file"))

    shown = "".join(traceback.format_exception(raised.value))
    assert "SignatureDoesNotMatch" in shown
    assert not [secret for secret in (s3.key, s3.secret, wrong) if secret in shown]


def test_requests_succeed_again_after_the_server_has_returned(s3: Server, s3_root: str) -> None:
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


def test_objects_are_encrypted_with_the_configured_key(
    monkeypatch: pytest.MonkeyPatch, s3: Server, s3_root: str, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--s3-server") != "moto":
        pytest.skip("versitygw does not support KMS")
    with changed(monkeypatch, S3_KMS_KEY_ID="alias/churn"):
        write_bytes(join(s3_root, "file"), b"secret")

    stored = client(s3).head_object(Bucket=BUCKET, Key=f"{s3_root.removeprefix(f's3://{BUCKET}/')}/file")
    assert (stored["ServerSideEncryption"], stored["SSEKMSKeyId"]) == ("aws:kms", "alias/churn")


def test_deleting_a_folder_deletes_its_objects_and_no_others(s3: Server, s3_root: str) -> None:
    # Consoles create such an object for a "folder".
    client(s3).put_object(Bucket=BUCKET, Key=f"{s3_root.removeprefix(f's3://{BUCKET}/')}/models/")
    for number in range(7):
        write_bytes(join(s3_root, "models", str(number)), b"x")
    write_bytes(join(s3_root, "models-of-others"), b"x")

    assert store().delete_below(join(s3_root, "models"), per_request=3) == 8
    assert [found.uri for found in store().list_objects(s3_root)] == [join(s3_root, "models-of-others")]
    assert store().delete_below(join(s3_root, "models")) == 0


def test_only_an_empty_root_is_claimed(s3_root: str) -> None:
    claim(s3_root)
    write_bytes(join(s3_root, "others", "models", "theirs"), b"x")
    claim(join(s3_root, "others"))

    assert exists(join(s3_root, MARKER))
    assert not exists(join(s3_root, "others", MARKER))


@pytest.mark.parametrize("address", ["gs://bucket/prefix", "s3://", "s3:///prefix", "https://bucket"])
def test_an_address_that_is_no_folder_and_not_in_s3_is_rejected(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("CHURN_ARTIFACTS", address)
    with pytest.raises(SettingsError, match=r"CHURN_ARTIFACTS: .*expected a folder, or s3://bucket/prefix"):
        load_settings()


def test_an_endpoint_without_a_scheme_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "minio:9000")
    with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL_S3: .*expected https://host or http://host:port"):
        load_settings()
