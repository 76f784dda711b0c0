"""Customers files with rows of every kind."""

import re
from pathlib import Path

import pandas as pd

from churn_platform.schema.generator import generate_customers


def bank_folder(folder: Path, rows: int) -> Path:
    """Return a folder of files with every kind of row: repeated ones, ones that break a rule, ones without a value.

    Args:
        folder: is created.
        rows: number of different customers, 100 at least.
    """
    customers = generate_customers(rows, seed=5).drop(columns="RowNumber")
    first, second = customers.iloc[: rows // 2], customers.iloc[rows // 2 :]
    changed_rows = first.iloc[5:9].assign(Balance=1.25)
    folder.mkdir()
    text = pd.concat([first, first.iloc[[3, 3, 45]], changed_rows]).to_csv(index=False)
    lines = text.splitlines()
    lines[40] += ",one more value"
    lines[30] = lines[30].replace(",", ";")
    lines[50] = re.sub("France|Spain|Germany", "Atlantis", lines[50])
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    pd.concat([second, first.iloc[[10]], first.iloc[[11]].assign(Tenure=9)]).to_parquet(folder / "b.parquet")
    return folder
