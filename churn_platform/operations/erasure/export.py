"""Everything that the platform holds about one customer, for a person's right of access (GDPR, articles 15 and 20)."""

import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from churn_platform.database import customer_rows
from churn_platform.database.connections import connect
from churn_platform.operations.erasure import archived, dagster_metadata, stored_files, tables
from churn_platform.operations.erasure.config import ErasureConfig
from churn_platform.operations.erasure.erase import SESSION, Progress
from churn_platform.operations.erasure.mentions import Mentions

ARCHIVE: Final = "archive"
DAGSTER: Final = "dagster"
NOT_SEARCHED: Final = (
    "messages in Kafka that no table holds, such as duplicates",
    "the customers file, which belongs to you",
    "features without ids, which name no customer",
    "backups",
)
"""What an export does not contain."""


@dataclass(frozen=True)
class Export:
    """What the platform holds about a customer.

    Attributes:
        customer_id: of the customer.
        exported_at: when it was read.
        places: place -> its rows, also of places without any.
    """

    customer_id: int | str
    exported_at: datetime
    places: Mapping[str, Sequence[Mapping[str, object]]]

    def index(self) -> dict[str, object]:
        """Return where was looked, and how many rows were found in each place, as JSON has them."""
        return {
            "customer_id": self.customer_id,
            "exported_at": self.exported_at.astimezone(UTC).isoformat(timespec="seconds"),
            "searched": {place: len(rows) for place, rows in self.places.items()},
            "not_searched": list(NOT_SEARCHED),
        }

    def as_json(self) -> str:
        """Return all of it as one JSON document."""
        return json.dumps({**self.index(), "places": self.places}, default=_plain, ensure_ascii=False, indent=2)

    def as_zip(self) -> bytes:
        """Return a ZIP archive: index.json, and a JSON document for each place that has rows."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("index.json", json.dumps(self.index(), ensure_ascii=False, indent=2))
            for number, (place, rows) in enumerate(self.places.items(), start=1):
                if rows:
                    name = f"{number:02}-{place.rpartition('/')[2].replace(' ', '-')}.json"
                    document = json.dumps({"place": place, "rows": rows}, default=_plain, ensure_ascii=False, indent=2)
                    archive.writestr(name, document)
        return content.getvalue()


def export(config: ErasureConfig, customer_id: int | str, progress: Progress = lambda _: None) -> Export:
    """Return everything that the platform holds about a customer.

    Raises:
        psycopg.Error: PostgreSQL does not answer.
        ArtifactStoreError: the S3 server rejects a request or cannot be reached.
    """
    schema = config.environment.schema
    mentions = Mentions(schema, customer_id)
    places: dict[str, Sequence[Mapping[str, object]]] = {}
    progress("Reading the archive")
    rows = archived.read(config.artifacts_root, customer_id)
    event_ids = [str(row["event_id"]) for row in rows]
    with connect(config.environment.dsn, autocommit=True, application_name=SESSION) as connection:
        progress("Reading the tables")
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            places |= customer_rows.read(connection, customer_id, event_ids=event_ids)
            found = tables.find(connection, schema, customer_id)
        places |= {
            "dead_letter_events": found.dead_letters,
            "refused_outcomes": found.refused,
            "alert_outbox": [tables.about_cases(each, found.case_ids) for each in found.messages],
            ARCHIVE: rows,
        }
        progress("Reading files")
        places |= {f"file {file.uri}": file.rows for file in stored_files.find(config.artifacts_root, mentions)}
        progress("Reading Dagster's metadata")
        places[DAGSTER] = [
            {"table": document.table, "column": document.column, "row": document.row, "shown": shown}
            for document, _, count in dagster_metadata.find(connection, mentions)
            if (shown := mentions.rows_in(document.content)) or count
        ]
    return Export(customer_id, datetime.now(UTC), places)


def _plain(value: object) -> object:
    """Return a value that JSON does not have as one that it has."""
    match value:
        case datetime():
            return value.isoformat()
        case date() | UUID() | Decimal():
            return str(value)
        case bytes() | memoryview():
            raw = bytes(value)
            try:
                return raw.decode()
            except UnicodeDecodeError:
                return {"base64": b64encode(raw).decode()}
        case _:
            raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}.")
