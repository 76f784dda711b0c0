"""What the pages say of reasons, waits, folders and schemas is what the code does."""

import json
import re
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from churn_platform.cli import app
from churn_platform.decoding.events import FIELDS
from churn_platform.files.artifacts import FOLDERS
from churn_platform.operations import dead_letters
from churn_platform.operations.dead_letters import Selection
from churn_platform.settings import PROJECT_ROOT
from churn_platform.stream.planning import LONGEST_WAIT_SECONDS
from churn_platform_tests.commands.conftest import stream
from churn_platform_tests.decoding.test_events import EVENT, GOOD, reason
from churn_platform_tests.documentation.pages import PAGES, fences
from churn_platform_tests.stream.streams import Stream, event

__all__ = ["stream"]

OPERATIONS = PROJECT_ROOT / "docs" / "operations.md"
EVENTS = PROJECT_ROOT / "docs" / "events.md"

# What the rows of docs/events.md speak of, by their first cell.
NO_EVENTS: dict[str, bytes | None] = {
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
    """The rows of the table below a header cell, cell by cell."""
    lines = page.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"| {title} |")) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def _alike(documented: str, written: str) -> bool:
    """Whether a reason is the documented one: its places are other ones, and ... stands for anything."""
    pattern = re.escape(re.sub(r"(byte|after) \d+", r"\1 0", documented)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, re.sub(r"(byte|after) \d+", r"\1 0", written)) is not None


@pytest.mark.parametrize("row", _table(EVENTS, "Field"), ids=lambda row: row[0])
def test_the_reason_of_a_wrong_field_is_the_documented_one(row: list[str]) -> None:
    name = re.findall(r"`(\w+)`", row[0])[0]
    value, _, documented = row[2].partition(": ")
    sent = {"CustomerId": EVENT["CustomerId"], **EVENT}
    if value == "not there":
        del sent[name]
    else:
        sent[name] = "placeholder"
    written = reason(json.dumps(sent).replace('"placeholder"', value.strip("`")).encode())

    assert name in FIELDS
    assert _alike(documented, written), written


@pytest.mark.parametrize("row", _table(EVENTS, "Value"), ids=lambda row: row[0])
def test_the_reason_of_what_is_no_event_is_the_documented_one(row: list[str]) -> None:
    written = reason(NO_EVENTS[row[0]])

    assert _alike(row[1], written), written


def test_the_dead_letters_of_the_page_are_those_that_the_stream_writes(stream: Stream) -> None:
    """Each reason and kind that docs/operations.md shows."""
    stream.send(
        [
            event(1, Gender=None),
            event(2, Gender="female"),
            event(3, Age=17),
            b'{"CreditScore": 640',
        ],
        partition=0,
    )
    stream.stream()
    letters = dead_letters.find(stream.connection, Selection(), limit=9)
    kinds = {(kind.count, kind.reason) for kind in dead_letters.kinds(stream.connection, Selection())}
    blocks = [fence.body for fence in fences(OPERATIONS) if "churn dlq" in fence.body]

    listed = re.findall(r"  0:\d+  open   (.*)", blocks[0])
    counted = re.findall(r"^ +(\d+) +\d+ +\d+  (.*)", blocks[0], re.MULTILINE)
    shown = re.findall(r"^Reason +(.*)", blocks[1], re.MULTILINE)
    again = re.findall(r"dead letter again: (.*)", blocks[2])

    assert sorted(listed) == sorted(letter.reason for letter in letters)
    assert {(int(count), kind) for count, kind in counted} == kinds
    assert {*shown, *again} <= {*listed}


def test_the_retry_of_the_page_finds_its_letters(stream: Stream) -> None:
    stream.send([event(1, Gender=None), event(2, Gender="female"), event(3, Age=17)], partition=0)
    stream.stream()
    (command,) = re.findall(r"^\$ churn (dlq retry --reason .*)", OPERATIONS.read_text(), re.MULTILINE)

    said = CliRunner(env={"COLUMNS": "200"}).invoke(app, command.split())

    assert said.exit_code == 0, said.output
    assert f"2 sent to {stream.config.events_topic}, 0 refused." in said.output


def test_the_sensors_longest_wait_is_the_documented_one() -> None:
    (seconds,) = re.findall(r"the sensor waits before the next try, at most (\d+) s", OPERATIONS.read_text())

    assert float(seconds) == LONGEST_WAIT_SECONDS


def test_every_folder_of_the_artifacts_is_documented_and_counted() -> None:
    listed = {
        re.findall(r"`([\w_]+)/", row[0])[0] for row in _table(PROJECT_ROOT / "docs" / "s3.md", "Below the prefix")[:-1]
    }

    assert listed == set(FOLDERS)
    assert "the six folders below it" in OPERATIONS.read_text()
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
