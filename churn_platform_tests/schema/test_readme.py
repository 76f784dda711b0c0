"""The data dictionary in data/README.md agrees with the schema."""

from churn_platform.schema.columns import COLUMNS, Column
from churn_platform.settings import PROJECT_ROOT


def dictionary_row(column: Column) -> str:
    kind = {"whole": "whole number", "number": "number"}.get(column.kind, column.kind)
    allowed = column.allowed.removeprefix("a whole number ").removeprefix("a number ")
    notes = [note for note, holds in (("unique", column.unique), ("may be absent", column.optional)) if holds]
    meaning = " ".join([column.description, *(f"{note.capitalize()}." for note in notes)])
    return f"| {column.name} | {kind} | {column.unit or ''} | {allowed} | {meaning} |"


def test_the_data_dictionary_agrees_with_the_schema() -> None:
    table = ["| Column | Type | Unit | Allowed | Meaning |", "|---|---|---|---|---|", *map(dictionary_row, COLUMNS)]

    assert "\n".join(table) in (PROJECT_ROOT / "data" / "README.md").read_text(encoding="utf-8")
