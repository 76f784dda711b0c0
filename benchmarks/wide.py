"""A schema with 60 columns, 40 of them with features, and customers for it: the workload of `benchmarks.columns`.

The other columns are stored and reported without features, or nothing reads them.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

NAME: Final = "wide"
NUMBERS, WHOLES, FLAGS, CATEGORIES, DATES = 14, 10, 8, 6, 2
"""Columns with features: 40."""
STORED, TEXTS = 8, 10
"""Numbers without features that are reported, and texts that nothing reads. With id and target the schema has 60."""
LISTED: Final = ("A", "B", "C", "D")
FIRST_DAY: Final = np.datetime64("2015-01-01", "s")
DAYS: Final = 4_000
MISSING_SHARE: Final = 0.05

_HEAD: Final = f"""
[data_set]
name = "{NAME}"
id = "Id"
target = "Left"
left = 1

[columns.Id]
kind = "text"
max_length = 20
"""
_TABLES: Final = {
    "Number": ('kind = "number"\nminimum = 0\nmaximum = 1000\nmissing = "median"\nfeatures = ["min_max"]', NUMBERS),
    "Whole": ('kind = "whole"\nminimum = 0\nmaximum = 1000\nfeatures = ["value"]', WHOLES),
    "Flag": ('kind = "flag"\nfeatures = ["value"]', FLAGS),
    "Category": (
        'kind = "category"\ncategories = ["A", "B", "C", "D"]\nunknown = "other"\nmissing = "category"\n'
        'features = ["one_hot"]\nsummary = true',
        CATEGORIES,
    ),
    "Date": ('kind = "date"\nmissing = "median"\nfeatures = ["days_since"]\ndays_since = 2015-01-01', DATES),
    "Stored": ('kind = "number"\nminimum = 0\nmaximum = 1000\nsummary = true', STORED),
    "Text": ('kind = "text"\nmissing = "ignore"\noptional = true', TEXTS),
}


def write_schema(path: Path) -> None:
    """Write the schema as a TOML file."""
    tables = [f"[columns.{name}{number}]\n{body}" for name, (body, count) in _TABLES.items() for number in range(count)]
    path.write_text("\n".join([_HEAD, *tables, '[columns.Left]\nkind = "flag"\n']), encoding="utf-8")


def customers(rows: int, seed: int) -> pd.DataFrame:
    """Return customers as the reader returns them. Whether they left depends on a number, a flag and a category."""
    generator = np.random.default_rng(seed)
    columns: dict[str, object] = {"Id": [f"W-{number:07d}" for number in range(rows)]}
    for name, (_, count) in _TABLES.items():
        for number in range(count):
            columns[f"{name}{number}"] = _values(name, rows, generator)
    frame = pd.DataFrame(columns)
    odds = -2 + frame["Whole0"] / 500 + frame["Flag0"] - (frame["Category0"] == "A")
    frame["Left"] = (generator.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    return frame


def _values(name: str, rows: int, generator: np.random.Generator) -> object:
    missing = generator.random(rows) < MISSING_SHARE
    match name:
        case "Number":
            return np.where(missing, np.nan, np.round(generator.random(rows) * 1_000, 2))
        case "Stored":
            return np.round(generator.random(rows) * 1_000, 2)
        case "Whole":
            return generator.integers(0, 1_001, rows)
        case "Flag":
            return generator.integers(0, 2, rows)
        case "Category":
            values = generator.choice(np.array([*LISTED, "Elsewhere"], object), rows)
            values[missing] = None
            return values
        case "Date":
            days = FIRST_DAY + generator.integers(0, DAYS, rows) * np.timedelta64(86_400, "s")
            return np.where(missing, np.datetime64("NaT", "s"), days)
        case _:
            return np.full(rows, None, object)
