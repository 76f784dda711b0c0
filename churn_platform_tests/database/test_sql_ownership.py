"""The SQL of each table is in database/, and only one module writes to it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import churn_platform
from churn_platform.database import customer_views
from churn_platform.database.migrations import MIGRATIONS

PACKAGE = Path(churn_platform.__file__).parent
DATABASE = PACKAGE / "database"

CREATED = re.compile(r"^create (?:table|view) (\w+)", re.MULTILINE)
TABLES = sorted(
    {name for file in MIGRATIONS.glob("*.sql") for name in CREATED.findall(file.read_text())}
    | {file.stem for file in customer_views.FOLDER.glob("*.sql")}
    | {customer_views.TOP_RISK}
)
# How a statement, or a part of one, begins. A sentence for people that has SQL in it begins otherwise.
STATEMENT = re.compile(
    r"\s*(?:\(?(?:select|with|insert|update|delete|copy|truncate|create|drop|alter|lock|from|join|exists)\b|\w+ as \()",
    re.IGNORECASE,
)
NAMES = "|".join(TABLES)
READS = re.compile(rf"\b(?:from|join|using|table|like)\s+({NAMES})\b", re.IGNORECASE)
WRITES = re.compile(rf"\b(?:insert\s+into|update|delete\s+from|copy|truncate)\s+({NAMES})\b", re.IGNORECASE)


def statements(file: Path) -> Iterator[str]:
    """Yield the SQL texts of a module, without its docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and STATEMENT.match(node.value):
            yield node.value


def copied_tables(file: Path) -> set[str]:
    """Return the tables whose name is an argument of copy_rows()."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    names = [each.args[1] for each in calls if isinstance(each.func, ast.Name) and each.func.id == "copy_rows"]
    return {str(name.value) for name in names if isinstance(name, ast.Constant)} & set(TABLES)


def written_tables(file: Path) -> set[str]:
    """Return the tables that a module writes to."""
    return {name.lower() for text in statements(file) for name in WRITES.findall(text)} | copied_tables(file)


def test_the_search_finds_the_tables() -> None:
    assert {"churn_predictions", "stream_positions", "v_top_risk_customers"} <= set(TABLES)
    assert written_tables(DATABASE / "churn_predictions.py") == {"churn_predictions"}
    assert {"stream_positions", "stream_topics"} <= written_tables(DATABASE / "stream_positions.py")


def test_only_the_database_package_has_sql_on_the_platforms_tables() -> None:
    found = {
        f"{file.relative_to(PACKAGE)}: {' '.join(text.split())[:100]}"
        for file in PACKAGE.rglob("*.py")
        if DATABASE not in file.parents
        for text in statements(file)
        if READS.search(text) or WRITES.search(text)
    }

    assert found == set(), "Move these statements to the module of their table in churn_platform/database/."


def test_one_module_writes_to_each_table() -> None:
    writers: dict[str, list[str]] = {}
    for file in sorted(DATABASE.glob("*.py")):
        for table in written_tables(file):
            writers.setdefault(table, []).append(file.name)

    assert {table: files for table, files in writers.items() if len(files) > 1} == {}
    # Dagster's IO manager writes these; it gets their names from the assets. A trigger writes the history.
    assert set(TABLES) - set(writers) <= {
        "retention_case_history",
        "churn_metrics_hourly",
        "churn_metrics_daily",
        "drift_daily",
        "live_performance",
        *(name for name in TABLES if name.startswith("v_")),
    }
