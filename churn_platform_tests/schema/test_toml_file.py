"""Schema files: those of the repository are valid; changed ones are valid or refused with key, value and remedy."""

import re
import tomllib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import xgboost

from churn_platform.decoding.events import event_decoder
from churn_platform.features.cleaning import clean
from churn_platform.schema.exceptions import SchemaError
from churn_platform.schema.toml_file import customers_file, load_schema, parse_schema
from churn_platform.settings import PROJECT_ROOT
from churn_platform.simulation.producer import customer_event, rows_of
from churn_platform_tests.decoding.test_events import message
from churn_platform_tests.features.customers import any_customers, fitted, inputs
from churn_platform_tests.schema import mutations
from churn_platform_tests.schema.mutations import Document, Mutation
from churn_platform_tests.schema.toml_text import to_toml

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
FILES = {name: PROJECT_ROOT / "data" / name / "schema.toml" for name in ("bank", "subscribers")}
DOCUMENTS: dict[str, Document] = {name: tomllib.loads(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
MUTATIONS = [
    *(("bank", mutation) for mutation in mutations.BANK),
    *(("subscribers", mutation) for mutation in mutations.SUBSCRIBERS),
    *((name, mutation) for name, document in DOCUMENTS.items() for mutation in mutations.of_every_schema(document)),
]
REMEDY = re.compile(r"Expected|Add|Set|Remove|Rename|List|Choose|Did you mean|Change|Name|Keep")
MINIMAL = """
[data_set]
name = "shop"
id = "id"
target = "left"
left = 1
[columns.id]
kind = "whole"
[columns.visits]
kind = "whole"
features = ["value"]
[columns.left]
kind = "flag"
"""


def refusal(text: str) -> str:
    """The message of the error with which a TOML text is refused, remedy included."""
    with pytest.raises(SchemaError) as refused:
        parse_schema(text, origin="shop.toml")
    return str(refused.value)


@pytest.mark.parametrize("name", FILES)
def test_a_schema_written_again_is_the_same(name: str) -> None:
    assert parse_schema(to_toml(DOCUMENTS[name]), origin="again").to_json() == load_schema(FILES[name]).to_json()


def test_there_are_more_than_a_hundred_mutations() -> None:
    assert len(MUTATIONS) > 250


@pytest.mark.parametrize(
    ("name", "mutation"), [pytest.param(*each, id=f"{each[0]}: {each[1].name}") for each in MUTATIONS]
)
def test_a_changed_schema_is_valid_or_refused_with_file_key_value_and_remedy(name: str, mutation: Mutation) -> None:
    text = to_toml(mutation.apply(DOCUMENTS[name]))

    if not mutation.key:
        schema = parse_schema(text, origin="shop.toml")
        assert schema == type(schema).from_json(schema.to_json())
        return
    message = refusal(text)
    assert "The customer schema shop.toml has " in message
    lines = [line for line in message.splitlines() if line.startswith("- ") and mutation.key in line.partition(": ")[0]]
    assert lines or mutation.key in message
    assert mutation.contains in message
    assert all(REMEDY.search(line) for line in message.splitlines() if line.startswith("- "))


@pytest.mark.parametrize(
    ("name", "mutation"),
    [pytest.param(*each, id=f"{each[0]}: {each[1].name}") for each in MUTATIONS if not each[1].key],
)
def test_customers_of_a_changed_schema_that_is_valid_become_events_and_features(name: str, mutation: Mutation) -> None:
    schema = parse_schema(to_toml(mutation.apply(DOCUMENTS[name])), origin="shop.toml")
    customers = clean(any_customers(schema, rows=60, seed=1), schema)
    events = [customer_event(row, schema, moment=NOW) for row in rows_of(customers, schema)]

    features = fitted(customers, schema).transform(inputs(customers, schema))
    decoded, dead_letters = event_decoder(schema).decode(
        [message(msgspec.json.encode(dict(event)), offset=number) for number, event in enumerate(events)],
        topic_id="topic",
        accepts_from=NOW - timedelta(days=1),
        accepts_until=NOW,
    )

    assert dead_letters == []
    assert len(decoded) == len(events) > 0
    matrix = xgboost.DMatrix(features, feature_names=list(schema.feature_names))
    assert matrix.num_col() == len(schema.features)


@pytest.mark.parametrize("name", FILES)
def test_every_single_byte_of_a_schema_may_be_lost_without_a_traceback(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")

    for place in range(0, len(text), 7):
        with suppress(SchemaError):
            parse_schema(text[:place] + text[place + 1 :], origin="shop.toml")


def test_an_error_lists_every_problem_at_once() -> None:
    assert refusal(MINIMAL.replace('kind = "flag"', 'kind = "flags"').replace('id = "id"', "id = 5")) == (
        "The customer schema shop.toml has 2 problems:\n"
        "- data_set.id: is 5. Expected a text in quotes.\n"
        "- columns.left.kind: is 'flags'. Expected 'whole', 'number', 'flag', 'category', 'text' or 'date'.\n"
        "docs/reference/customer-schema.md explains every key. 'churn schema check' checks a file."
    )


@pytest.mark.parametrize(
    ("text", "contains"),
    [
        ("", "data_set: is missing"),
        ("[data_set", "is not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        (MINIMAL + '[columns.left]\nkind = "flag"', "is not TOML: Cannot declare ('columns', 'left') twice (at line"),
        (MINIMAL + 'kind = "flag"', "is not TOML: Cannot overwrite a value (at "),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("x = " + "9" * 100_000, "is not TOML"),
        ("\0", "is not TOML"),
        ("data_set,columns\n1,2\n", "is not TOML"),
    ],
)
def test_what_is_no_toml_is_refused_with_the_place(text: str, contains: str) -> None:
    assert contains in refusal(text)


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal(MINIMAL.replace('"whole"', f'"{"x" * 10_000}"'))) < 1_000


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "schema.toml"
    file.write_text(MINIMAL, encoding="utf-8-sig")

    assert load_schema(file).name == "shop"


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file, contains in (
        (tmp_path / "none.toml", "There is no customer schema at"),
        (tmp_path, "cannot be read"),
        (binary, "Expected a readable TOML file in UTF-8"),
    ):
        for read in (load_schema, customers_file):
            with pytest.raises(SchemaError, match=re.escape(str(file))) as refused:
                read(file)
            assert contains in str(refused.value)
            assert "CHURN_SCHEMA" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("customers.csv", "/data/customers.csv"),
        ("../other/", "/other"),
        ("/srv/customers.csv", "/srv/customers.csv"),
        ("s3://bucket/customers", "s3://bucket/customers"),
    ],
)
def test_the_customers_file_is_relative_to_the_schema(tmp_path: Path, given: str, expected: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "schema.toml"
    file.write_text(MINIMAL.replace("left = 1", f'left = 1\ncustomers_file = "{given}"'), encoding="utf-8")

    assert customers_file(file).removeprefix(str(tmp_path)) == expected


@pytest.mark.parametrize("name", FILES)
def test_the_repository_has_the_customers_of_its_schemas(name: str) -> None:
    assert Path(customers_file(FILES[name])).is_file()
