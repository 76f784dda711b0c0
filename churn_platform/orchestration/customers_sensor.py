"""The sensor that prepares the customers file when it is new or has changed, on local disk or in S3."""

import hashlib
import json
from typing import Final

import dagster as dg

from churn_platform.modeling.file_attributes import FILE_HASH
from churn_platform.orchestration.jobs import data_preparation_job
from churn_platform.orchestration.run_requests import is_active
from churn_platform.settings import settings

TICK_SECONDS: Final = 59
RAW_CUSTOMERS: Final = dg.AssetKey("raw_customers")
PREPARED_TAG: Final = "churn/customers_file"


@dg.sensor(
    job=data_preparation_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Prepares the customers file, or the files of its folder, when they are new or have changed, also in "
    "S3. Off by default.",
)
def customers_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request one preparation for each version of the customers file, once two ticks have seen the same version.

    A file that is being copied changes between two ticks. The versions are times, sizes and ETags, so the files are
    read only if they changed, and those in S3 never. The cursor has the version that was last seen, and the one that
    was last prepared.
    """
    from churn_platform.errors import PlatformError
    from churn_platform.schema.current import customers_of
    from churn_platform.schema.reader import find_customers_files

    try:
        place = customers_of(settings())
        files = find_customers_files(place)
    except PlatformError as error:
        return dg.SkipReason(f"{error.problem} {error.remedy}")
    version = hashlib.sha256("".join(f"{name}\n{each.version}\n" for name, each in files.items()).encode()).hexdigest()
    cursor: dict[str, str] = json.loads(context.cursor or "{}")
    if cursor.get("prepared") == version:
        return dg.SkipReason(f"{place} has not changed since its last preparation.")
    if cursor.get("seen") != version:
        return dg.SensorResult(
            cursor=json.dumps({**cursor, "seen": version}),
            skip_reason=dg.SkipReason(f"{place} is new or has changed. It is prepared once it no longer changes."),
        )
    if is_active(context.instance, data_preparation_job.name):
        return dg.SkipReason(f"{place} has changed. A preparation is in progress.")
    prepared = json.dumps({"seen": version, "prepared": version})
    content = _content(place, version)
    if content == _latest_hash(context.instance):
        return dg.SensorResult(
            cursor=prepared, skip_reason=dg.SkipReason(f"{place} has the content that was prepared last.")
        )
    # The version is part of the key, so that a file that gets an earlier content again is prepared again.
    request = dg.RunRequest(run_key=f"{content} {version[:16]}", tags={PREPARED_TAG: content})
    return dg.SensorResult(run_requests=[request], cursor=prepared)


def _content(place: str, version: str) -> str:
    """Return a fingerprint of the content: the SHA-256 of local files; in S3 that of the ETags, without reading."""
    from churn_platform.files.artifacts import in_s3
    from churn_platform.schema.reader import fingerprint

    return version if in_s3(place) else fingerprint(place)


def _latest_hash(instance: dg.DagsterInstance) -> str | None:
    """Return the SHA-256 of the customers file that was prepared last."""
    event = instance.get_latest_materialization_event(RAW_CUSTOMERS)
    materialization = event.asset_materialization if event else None
    found = materialization.metadata.get(FILE_HASH) if materialization else None
    return None if found is None else str(found.value)
