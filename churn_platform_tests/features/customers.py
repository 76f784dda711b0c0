"""Customers for tests of features: the bank's, those of any schema, and any at all from hypothesis."""

from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from churn_platform.features.cleaning import clean
from churn_platform.features.columns import Columns, columns_of
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.features.transform import FeatureTransform
from churn_platform.schema.columns import Band, Column
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.generator import generate_customers
from churn_platform.schema.toml_file import load_schema
from churn_platform.settings import PROJECT_ROOT

BANK: Final = load_schema(PROJECT_ROOT / "data/bank/schema.toml")
SUBSCRIBERS: Final = load_schema(PROJECT_ROOT / "data/subscribers/schema.toml")
MISSING_SHARE: Final = 0.2
UNLISTED: Final = ("Elsewhere", "an older name")


def cleaned(rows: int = 500, seed: int = 7) -> pd.DataFrame:
    """Cleaned customers of the generator."""
    return clean(generate_customers(rows, seed), BANK)


def inputs(rows: pd.DataFrame, schema: CustomerSchema = BANK) -> dict[str, Any]:
    """The raw columns that features are made of."""
    return columns_of(rows, schema.feature_columns)


def fitted(rows: pd.DataFrame, schema: CustomerSchema = BANK) -> FeatureTransform:
    """All steps fitted on the same rows."""
    imputer = Imputer.fit(rows, schema)
    imputed = pd.DataFrame(imputer.impute(inputs(rows, schema)))
    return FeatureTransform(
        schema=schema,
        imputer=imputer,
        encoder=OneHotEncoder.fit(imputed, schema),
        scaler=MinMaxScaler.fit(imputed, schema),
    )


def any_customers(schema: CustomerSchema, rows: int, seed: int) -> pd.DataFrame:
    """Customers of any schema as a file has them: random values that it allows, some of them missing.

    The first two are complete and differ in every number, so that every step can be fitted on them.
    """
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({column.name: _any_values(column, rows, generator) for column in schema.columns})
    numbers = np.arange(rows)
    frame[schema.id] = numbers if schema.id_type == "bigint" else [f"C-{number:06d}" for number in numbers]
    frame[schema.target] = (generator.random(rows) < 0.3).astype(np.int64)
    return frame


def _any_values(column: Column, rows: int, generator: np.random.Generator) -> pd.Series:
    missing = generator.random(rows) < (MISSING_SHARE if column.nullable else 0)
    missing[:2] = False
    match column.kind:
        case "category":
            texts = (*column.categories, *(UNLISTED if column.unknown == "other" else ()))
            values = pd.Series(generator.choice(np.array(texts, object), rows))
        case "text":
            values = pd.Series([f"text {number}" for number in range(rows)], dtype=object)
        case "date":
            first, last = (int(np.datetime64(bound, "D").astype(np.int64)) for bound in _dates(column))
            days = np.concatenate([[first, last], generator.integers(first, last, rows, endpoint=True)])[:rows]
            values = pd.Series(days.astype("datetime64[D]").astype("datetime64[s]"))
        case _:
            low, high = _numbers(column)
            between = generator.uniform(low, high, rows)
            between = between if column.kind == "number" else np.rint(between)
            values = pd.Series(np.concatenate([[low, high], between])[:rows])
    if column.kind in ("category", "text"):
        return values.mask(pd.Series(missing), other=None)
    return pd.Series(values.mask(pd.Series(missing)).to_numpy(np.dtype(column.dtype)))


def _numbers(column: Column) -> tuple[float, float]:
    low, high = column.minimum, column.maximum
    assert not isinstance(low, date)
    assert not isinstance(high, date)
    least = -1_000 if low is None and high is None else low if low is not None else high - 1_000  # type: ignore[operator]  # one of them is given
    return least, least + 1_000 if high is None else high


def _dates(column: Column) -> tuple[date, date]:
    low, high = column.minimum, column.maximum
    return (low if isinstance(low, date) else date(2000, 1, 1), high if isinstance(high, date) else date(2040, 1, 1))


WORDS = st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def feature_schemas(draw: st.DrawFn) -> CustomerSchema:
    """Draw a schema of one to eight columns with features."""
    kinds = draw(st.lists(st.sampled_from(["whole", "number", "flag", "category", "date"]), min_size=1, max_size=8))
    columns = [draw(_columns(f"{number}{draw(WORDS)}", kind)) for number, kind in enumerate(kinds, 10)]
    identity = draw(st.sampled_from([Column(name="id", kind="whole"), Column(name="id", kind="text", max_length=12)]))
    return CustomerSchema(
        name="generated", id="id", target="left", columns=(identity, Column(name="left", kind="flag"), *columns)
    )


@st.composite
def _columns(draw: st.DrawFn, name: str, kind: str) -> Column:
    given: dict[str, Any] = {"name": name, "kind": kind, "segment": kind == "category" and draw(st.booleans())}
    direction = draw(st.sampled_from(["rises", "falls", None]))
    match kind:
        case "category":
            given["categories"] = tuple(draw(st.lists(WORDS, min_size=1, max_size=5, unique=True)))
            given["unknown"] = draw(st.sampled_from(["refuse", "other"]))
            given["transforms"] = ("one_hot",)
            missing = ["refuse", "drop", "mode", "category", "constant"]
            constant: object = given["categories"][0]
        case "date":
            given |= {"since": draw(st.dates(date(1900, 1, 1))), "transforms": ("days_since",), "risk": direction}
            missing, constant = ["refuse", "drop", "median"], None
        case "flag":
            given |= {"minimum": 0, "maximum": 1, "transforms": ("value",), "risk": direction}
            missing, constant = ["refuse", "drop", "median", "constant"], 1
        case _:
            low = draw(st.integers(-1_000, 1_000))
            given |= {"minimum": low, "maximum": draw(st.integers(low + 1, 2_000)), "risk": direction}
            scale = draw(st.sampled_from([("value",), ("min_max",), ()]))
            bounds = sorted(draw(st.sets(st.integers(-1_000, 2_000), min_size=0 if scale else 1, max_size=4)))
            given["transforms"] = (*scale, *(("bands",) if bounds else ()))
            names = [f"band {number}" for number in range(len(bounds) + 1)]
            given["bands"] = tuple(map(Band, names, [*bounds, None])) if bounds else ()
            given["bands_feature"] = f"{name}Band" if bounds else ""
            given["single_precision"] = kind == "number" and draw(st.booleans())
            missing, constant = ["refuse", "drop", "median", "constant"], low
    given["missing"] = draw(st.sampled_from(missing))
    given["constant"] = constant if given["missing"] == "constant" else None
    return Column(**given)


@st.composite
def raw_columns(draw: st.DrawFn) -> Columns:
    """Raw columns of any customers of the bank that valid events may describe, as the stream's decoder types them."""
    rows = draw(st.integers(min_value=0, max_value=20))

    def numbers(least: int, greatest: int) -> list[int]:
        return draw(st.lists(st.integers(least, greatest), min_size=rows, max_size=rows))

    def amounts() -> list[float]:
        return draw(st.lists(st.floats(0, 1e9), min_size=rows, max_size=rows))

    def categories(*names: str | None) -> list[str | None]:
        return draw(st.lists(st.sampled_from(names), min_size=rows, max_size=rows))

    ages = draw(st.lists(st.one_of(st.just(np.nan), st.integers(18, 120)), min_size=rows, max_size=rows))
    return {
        "CreditScore": np.array(numbers(300, 900), np.int16),
        "Geography": np.array(categories("France", "Germany", "Spain", None), object),
        "Gender": np.array(categories("Female", "Male"), object),
        "Age": np.array(ages, np.float32),
        "Tenure": np.array(numbers(0, 50), np.int16),
        "Balance": np.array(amounts(), np.float64),
        "NumOfProducts": np.array(numbers(1, 10), np.int16),
        "HasCrCard": np.array(numbers(0, 1), np.int16),
        "IsActiveMember": np.array(numbers(0, 1), np.int16),
        "EstimatedSalary": np.array(amounts(), np.float64),
    }
