"""`churn init`: a folder for a new data set, with a schema, settings and a README."""

import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from churn_platform.commands.schema import Identity, Left, Target
from churn_platform.commands.terminal import AsJson, ExitCode, ProgressReporter, emit, end, output, report_errors

SCHEMA, SETTINGS, README = "schema.toml", ".env", "README.md"
FILES: Final = (SCHEMA, SETTINGS, README)

_EXAMPLE: Final = """\
# The customers of your data set. docs/reference/customer-schema.md explains every key, and 'churn schema check' checks
# this file. 'churn schema infer FILE' prints a draft for a customers file.

[data_set]
name = "my_customers"
description = "Customers of a shop, and whether they stopped buying."
id = "Customer number"
target = "Stopped"
left = 1
currency = "EUR"
customers_file = "customers.csv"
largest_quarantined_share = 0.01 # of a file's rows; with more, nothing is trained
least_roc_auc = 0.6 # out of fold; a first model with less is not promoted

[columns."Customer number"]
kind = "text"
max_length = 40
description = "The number of the customer's account."

[columns."First order"]
kind = "date"
minimum = 2000-01-01
features = ["days_since"]
days_since = 2000-01-01
description = "Day of the first order."

[columns.Channel]
kind = "category"
categories = ["App", "Shop", "Web"]
unknown = "other"
missing = "category"
features = ["one_hot"]
segment = true
summary = true
description = "Where the customer mostly buys."

[columns.Orders]
kind = "whole"
unit = "orders"
minimum = 0
maximum = 10_000
features = ["value"]
averaged = true
description = "Orders in the last 12 months."

[columns.Spending]
kind = "number"
unit = "euros"
minimum = 0
maximum = 1_000_000
missing = "median"
features = ["min_max"]
averaged = true
money_at_risk = true
summary = true
description = "What the customer spent in the last 12 months."

[columns.Newsletter]
kind = "flag"
spellings = { Yes = 1, No = 0 }
missing = "constant"
constant = 0
features = ["value"]
description = "1 for a customer who gets the newsletter."

[columns.Stopped]
kind = "flag"
spellings = { Yes = 1, No = 0 }
description = "Yes for a customer who has not bought again within a year. This is what the model predicts."
"""

_READ_ME: Final = """\
# {name}

| File | Purpose |
|---|---|
| `schema.toml` | describes the customers: columns, allowed values, missing values, features |
| `.env` | settings of the platform for these customers |

1. Complete `schema.toml`. `churn schema check --schema {schema}` checks it.
   With the path of a customers file as argument it checks that file, too.
2. Load the settings into your shell, in each new one:

   ```sh
   set -a; . {env}; set +a
   ```

3. Run `churn up`. It starts the platform for these customers; its servers and files are in {local}.
4. In the Dagster UI, run `data_preparation_job`, then `training_job`. The first model that is better than the schema's
   `least_roc_auc` becomes the champion.
5. `churn produce --count 1000` sends events of these customers to Kafka. `churn status` shows how they are scored.
"""


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to create. An existing one must not have these files.")],
    source: Annotated[
        str, typer.Option("--from", help="A customers file or a folder of them, also in S3, to draft the schema from.")
    ] = "",
    identity: Identity = "",
    target: Target = "",
    left: Left = "",
    as_json: AsJson = False,
) -> None:
    """Make a folder for a new data set: a customer schema, a .env with settings, and a README with the next steps.

    Without --from, the schema is an example to replace. No existing file is changed.

    Example: churn init shop --from customers.csv
    """
    folder = folder.resolve()
    existing = [name for name in FILES if (folder / name).exists()]
    if existing:
        end(
            ExitCode.FAILED,
            f"{folder} already has {', '.join(existing)}. Nothing was written.",
            remedy="Name another folder, or move them away.",
        )
    if not source and (identity or target or left):
        end(ExitCode.USAGE, "--id, --target and --left need a customers file.", remedy="Name it with --from.")
    with report_errors():
        schema = _draft(source, identity, target, left) if source else _EXAMPLE
    local = folder / ".local"
    settings = [
        "# Settings of the platform for this data set. .env.example in the checkout lists all settings.",
        f"CHURN_SCHEMA={shlex.quote(str(folder / SCHEMA))}",
        "# Servers and files of its own: a database holds one data set.",
        f"CHURN_LOCAL={shlex.quote(str(local))}",
    ]
    read_me = _READ_ME.format(
        name=folder.name,
        schema=shlex.quote(str(folder / SCHEMA)),
        env=shlex.quote(str(folder / SETTINGS)),
        local=f"`{local}`",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, (schema, "\n".join(settings) + "\n", read_me), strict=True):
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        end(ExitCode.FAILED, f"{folder} cannot be written: {error.strerror}.", remedy="Name another folder.")
    if as_json:
        emit({"folder": str(folder), "files": list(FILES)})
        return
    what = f"a draft from {source}" if source else "an example"
    output.print(
        f"{folder} has {', '.join(FILES)}. The schema is {what}: complete it, then follow the README.",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _draft(source: str, identity: str, target: str, left: str) -> str:
    from churn_platform.schema.inference import infer_schema

    with ProgressReporter("Inferring the schema") as progress:
        progress("Reading the customers")
        return infer_schema(source, identity=identity, target=target, left=left)
