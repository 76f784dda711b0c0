"""The platform knows customers from the schema alone: no module and no SQL names a column of the default data set."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT

BANK: CustomerSchema = load_schema(PROJECT_ROOT / "data/bank/schema.toml")
ALLOWED = {
    *(PROJECT_ROOT / "churn_platform" / "schema" / name for name in ("generator.py", "latent.py")),
    PROJECT_ROOT / "sql" / "views" / "v_geography_churn.sql",
}
FILES = sorted({*(PROJECT_ROOT / "churn_platform").rglob("*.py"), *(PROJECT_ROOT / "sql").rglob("*.sql")} - ALLOWED)
NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
# Column names that are English words, too: alone, or in the name of a sum or an average, they name the column.
WORDS = {"age", "tenure", "balance", "gender", "geography", "exited"}
OF_THE_PLATFORM = {"customer_id", "row_number"}  # a column of every data set's tables, and a function of SQL

_exact = {name for column in BANK.columns for name in (column.name, column.column)} - OF_THE_PLATFORM
_derived = {f"avg_{name}" for name in _exact} | {f"{name}_{end}" for name in _exact for end in ("sum", "count")}
_features = {feature.name for feature in BANK.features} | {column.bands_feature for column in BANK.banded}
NAMES = _exact | _derived | _features
IN_TEXT = re.compile(rf"(?<!\w)({'|'.join(sorted(map(re.escape, NAMES - WORDS), key=len, reverse=True))})(?!\w)")


def identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the identifiers that a node has by itself."""
    for field in ("id", "attr", "arg", "name", "asname"):
        if isinstance(found := getattr(node, field, None), str):
            yield found


def names_in_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each identifier and each literal that names a column. Docstrings may have examples."""
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in identifiers(node):
            if name in NAMES - WORDS:
                yield line, name
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if node.value.strip() in WORDS & NAMES:
                yield line, node.value.strip()
            for match in IN_TEXT.finditer(node.value):
                yield line, match[0]


def names_in_sql(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each column that SQL names. Comments may use English words."""
    for number, line in enumerate(text.splitlines(), start=1):
        code = re.sub(r"'[^']*'", "", line.partition("--")[0])
        for word in re.findall(r"\w+", code):
            if word in NAMES:
                yield number, word


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT_ROOT)))
def test_no_file_names_a_column_of_the_bank(file: Path) -> None:
    names_in = names_in_python if file.suffix == ".py" else names_in_sql

    assert list(names_in(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_no_notebook_names_a_column_of_the_bank(file: Path) -> None:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]

    assert [found for each in code for found in names_in_python(each)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("credit_score = 1", ["credit_score"]),
        ("row.CreditScore", ["CreditScore"]),
        ("f(estimated_salary=1)", ["estimated_salary"]),
        ('row["Age"]', ["Age"]),
        ('columns = ["balance"]', ["balance"]),
        ('x = "select avg_age, x from y"', ["avg_age"]),
        ('x = f"{x} NumOfProducts"', ["NumOfProducts"]),
        ('x = "Geography_France"', ["Geography_France"]),
        ('def f():\n    """Such as CreditScore."""', []),
        ("age = 3", []),
        ('x = "the age of a batch"', []),
        ("customer_id = 1", []),
    ],
)
def test_a_name_is_found_in_identifiers_and_literals(text: str, found: list[str]) -> None:
    assert [name for _, name in names_in_python(text)] == found


def test_a_name_is_found_in_sql() -> None:
    found = list(names_in_sql("select age, 'Age' from t -- age\nwhere avg_balance > 0"))

    assert found == [(1, "age"), (2, "avg_balance")]
