"""`churn schema`: draft, check and show the customer schema."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, end, output, report_errors

if TYPE_CHECKING:
    from churn_platform.schema.columns import Column
    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.schema.reader import CustomersFile

app = typer.Typer(no_args_is_help=True)

SchemaPath = Annotated[
    Path | None, typer.Option("--schema", help="The schema file. Default: the one that CHURN_SCHEMA names.")
]
Identity = Annotated[
    str, typer.Option("--id", help="Header of the column that identifies a customer. Default: guessed.")
]
Target = Annotated[
    str, typer.Option("--target", help="Header of the column that says whether a customer left. Default: guessed.")
]
Left = Annotated[
    str, typer.Option("--left", help="Its value that means that the customer left. Default: guessed, or the rarer one.")
]


@app.callback()
def _schema() -> None:
    """Draft, check and show the customer schema, the file that describes your customers.

    Example: churn schema infer customers.csv
    """


@app.command()
def infer(
    file: Annotated[str, typer.Argument(help="A customers file or a folder of them, also in S3 (s3://bucket/key).")],
    identity: Identity = "",
    target: Target = "",
    left: Left = "",
) -> None:
    """Print the draft of a schema for a customers file, with comments. Save it, complete it, then check it.

    The draft has the kinds, ranges and categories of the columns. Columns that have one value are left out, and columns
    that predict the target perfectly are named as suspected leaks.

    Example: churn schema infer customers.csv --target Churned
    """
    from churn_platform.schema.inference import infer_schema

    with report_errors(), ProgressReporter("Inferring the schema") as progress:
        progress("Reading the customers")
        draft = infer_schema(file, identity=identity, target=target, left=left)
    typer.echo(draft, nl=False)


@app.command()
def check(
    file: Annotated[
        str | None,
        typer.Argument(help="A customers file or a folder of them, also in S3, to check against the schema."),
    ] = None,
    schema_path: SchemaPath = None,
    as_json: AsJson = False,
) -> None:
    """Check the customer schema, and a customers file against it. Nothing is written.

    The exit code is 1 if the schema is not valid, the file cannot be used, or more of its rows break a rule than the
    schema allows.

    Example: churn schema check customers.csv
    """
    from churn_platform.schema.exceptions import CustomersFileError, CustomersFileMissingError, SchemaError
    from churn_platform.schema.reader import load_customers

    with report_errors():
        path = _path(schema_path)
        try:
            schema = _load(path)
            with ProgressReporter("Checking the customers") as progress:
                progress("Reading the customers")
                customers = None if file is None else load_customers(file, schema)
        except CustomersFileMissingError:
            raise
        except (SchemaError, CustomersFileError) as error:
            if not path.is_file():
                raise
            end(ExitCode.CHECK_FAILED, error.problem, remedy=error.remedy)
    found = _schema_facts(path, schema) if customers is None else _file_facts(path, schema, str(file), customers)
    if as_json:
        emit(found)
    else:
        _print_check(path, schema, file, customers)
    if customers is not None and customers.quarantined_share > schema.largest_quarantined_share:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@app.command()
def show(schema_path: SchemaPath = None, as_json: AsJson = False) -> None:
    """Show the customer schema: every column, what is allowed, and the features that it becomes.

    Example: churn schema show
    """
    with report_errors():
        path = _path(schema_path)
        schema = _load(path)
    if as_json:
        facts = _schema_facts(path, schema)
        emit({**facts, "columns": [_column_facts(schema, each) for each in schema.columns]})
        return
    _print_schema(path, schema)
    table = Table("Column", "Kind", "Allowed", "Missing", "Features", "Column in tables")
    for each in schema.columns:
        role, features, sql_name = _role(schema, each), _features(schema, each), _sql_name(schema, each)
        table.add_row(each.name, role or each.kind, each.allowed, each.missing, ", ".join(features), sql_name or "")
    output.print(table)


def _path(given: Path | None) -> Path:
    from churn_platform.settings import load_settings

    return given or load_settings().platform.customer_schema


def _load(path: Path) -> "CustomerSchema":
    from churn_platform.schema.toml_file import load_schema

    return load_schema(path)


def _schema_facts(path: Path, schema: "CustomerSchema") -> dict[str, object]:
    return {
        "schema": str(path),
        "data_set": schema.name,
        "fingerprint": schema.fingerprint,
        "columns": list(schema.names),
        "features": list(schema.feature_names),
    }


def _file_facts(path: Path, schema: "CustomerSchema", file: str, customers: "CustomersFile") -> dict[str, object]:
    return {
        **_schema_facts(path, schema),
        "file": file,
        "detected": dict(customers.detected),
        "rows": customers.rows,
        "customers": len(customers.customers),
        "left": float(customers.customers[schema.target].mean()),
        "duplicates": customers.duplicates,
        "quarantined": len(customers.quarantined),
        "reasons": _reasons(customers),
        "passed": customers.quarantined_share <= schema.largest_quarantined_share,
    }


def _reasons(customers: "CustomersFile") -> dict[str, int]:
    """Return how many rows have each reason, the most frequent first."""
    counts = customers.quarantined["reasons"].str.split("; ").explode().value_counts()
    return {str(reason): int(count) for reason, count in counts.items()}


def _column_facts(schema: "CustomerSchema", column: "Column") -> dict[str, object]:
    return {
        "name": column.name,
        "role": _role(schema, column),
        "kind": column.kind,
        "allowed": column.allowed,
        "missing": column.missing,
        "features": _features(schema, column),
        "sql_name": _sql_name(schema, column),
        "description": column.description,
    }


def _role(schema: "CustomerSchema", column: "Column") -> str | None:
    return {schema.id: "id", schema.target: "target"}.get(column.name)


def _features(schema: "CustomerSchema", column: "Column") -> list[str]:
    return [feature.name for feature in schema.features if feature.column == column.name]


def _sql_name(schema: "CustomerSchema", column: "Column") -> str | None:
    return column.column if column in schema.stored else None


def _print_schema(path: Path, schema: "CustomerSchema") -> None:
    output.print(
        f"The schema {path} is valid: [bold]{schema.name}[/bold], {len(schema.columns)} columns, "
        f"{len(schema.features)} features.",
        soft_wrap=True,
        highlight=False,
    )


def _print_check(path: Path, schema: "CustomerSchema", file: str | None, customers: "CustomersFile | None") -> None:
    _print_schema(path, schema)
    if customers is None:
        return
    for name, text in customers.detected.items():
        output.print(f"{name}: {text}", soft_wrap=True, highlight=False, markup=False)
    left = float(customers.customers[schema.target].mean())
    output.print(
        f"{customers.rows:,} rows: {len(customers.customers):,} customers, of whom {left:.1%} left, "
        f"{len(customers.quarantined):,} quarantined, {customers.duplicates:,} duplicates.",
        soft_wrap=True,
        highlight=False,
    )
    for reason, count in _reasons(customers).items():
        output.print(f"  {count:,}: {reason}", soft_wrap=True, highlight=False, markup=False)
    allowed = schema.largest_quarantined_share
    if customers.quarantined_share > allowed:
        end(
            ExitCode.CHECK_FAILED,
            f"{customers.quarantined_share:.2%} of the rows of {file} are quarantined. "
            f"The schema allows {allowed:.2%}.",
            remedy="Correct the rows, the rules of those columns, or data_set.largest_quarantined_share.",
        )
