"""Facts on the pages match the code: reasons of dead letters, waits, folders, schemas."""

import json
import re
from pathlib import Path

import psycopg
import pytest

from churn_platform.decoding.events import event_decoder
from churn_platform.files.artifacts import FOLDERS
from churn_platform.settings import PROJECT_ROOT
from churn_platform.stream.launch_decision import LONGEST_WAIT_SECONDS
from churn_platform_tests.commands.conftest import stream
from churn_platform_tests.decoding.test_events import EVENT, GOOD, reason
from churn_platform_tests.documentation.pages import PAGES
from churn_platform_tests.features.customers import BANK

__all__ = ["stream"]

DOCS = PROJECT_ROOT / "docs"
EVENTS = DOCS / "reference" / "events.md"

# An invalid message for each row of docs/reference/events.md, by the row's first cell.
INVALID_MESSAGES: dict[str, bytes | None] = {
    "none (a tombstone)": None,
    "empty": b"",
    "cut off": GOOD[:200],
    "`NaN`, `Infinity`": GOOD.replace(b'"Balance": 1234.5', b'"Balance": NaN'),
    "other text": b"hello",
    "an envelope without `timestamp`": b'{"data": ' + GOOD + b"}",
    "two events, or more bytes behind one": GOOD + GOOD,
    "other encodings": b"\xef\xbb\xbf" + GOOD,
    "UTF-16 or UTF-32 without a byte order mark": GOOD.decode().encode("utf-16-be"),
    "bytes that are not UTF-8, in a field that counts": GOOD.replace(b"Spain", b"\xff"),
    "Avro, Protobuf, gzip": b"\0\0\0\0\1\2",
    '`"\\ud800"`': GOOD.replace(b"Spain", rb"\ud800"),
    "`[[[[...` inside an object": b'{"x": ' + b"[" * 5_000,
}


def _table(page: Path, title: str) -> list[list[str]]:
    """Return the rows of the table whose first header cell is `title`, as lists of cells."""
    lines = page.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"| {title} |")) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def _matches(documented: str, written: str) -> bool:
    """Return whether a reason is the documented one. Positions are ignored, and ... matches any text."""
    pattern = re.escape(re.sub(r"(byte|after) \d+", r"\1 0", documented)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, re.sub(r"(byte|after) \d+", r"\1 0", written)) is not None


@pytest.mark.parametrize("row", _table(EVENTS, "Field"), ids=lambda row: row[0])
def test_the_reason_for_an_invalid_field_is_the_documented_one(row: list[str]) -> None:
    name = re.findall(r"`(\w+)`", row[0])[0]
    value, _, documented = row[2].partition(": ")
    sent = {"CustomerId": EVENT["CustomerId"], **EVENT}
    if value == "missing":
        del sent[name]
    else:
        sent[name] = "placeholder"
    written = reason(json.dumps(sent).replace('"placeholder"', value.strip("`")).encode())

    assert name in event_decoder(BANK).fields
    assert _matches(documented, written), written


@pytest.mark.parametrize("row", _table(EVENTS, "Value"), ids=lambda row: row[0])
def test_the_reason_for_a_message_that_is_not_an_event_is_the_documented_one(row: list[str]) -> None:
    written = reason(INVALID_MESSAGES[row[0]])

    assert _matches(row[1], written), written


def test_the_sensors_longest_wait_is_the_documented_one() -> None:
    page = (DOCS / "how-to" / "troubleshooting.md").read_text()
    (seconds,) = re.findall(r"the sensor waits before the next try, at most (\d+) s", page)

    assert float(seconds) == LONGEST_WAIT_SECONDS


def test_every_folder_of_the_artifacts_is_documented_and_counted() -> None:
    listed = {
        re.findall(r"`([\w_]+)/", row[0])[0] for row in _table(DOCS / "reference" / "files.md", "Below the prefix")[:-1]
    }

    assert listed == set(FOLDERS)
    assert "the six folders below it" in (DOCS / "how-to" / "clean-up.md").read_text()
    assert len(FOLDERS) == 6


def test_every_page_that_lists_the_schemas_lists_all_of_them(database: str) -> None:
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)' order by 1"
        )
        made = {"dagster", "mlflow"} | {name for (name,) in rows}
    listed = [
        (page.name, set(re.findall(r"`(\w+)`", found)))
        for page in PAGES
        for found in re.findall(r"schemas ((?:`\w+`(?:, | and )?)+)", page.read_text())
    ]

    assert listed
    assert [(page, names) for page, names in listed if not names >= made] == []
