"""Tasks of the preparation on an executor. Each reads rows, applies the project's own steps, and writes parts of files.

They import nothing of Spark, which only decides where and in which order they run. A task may run twice: it writes the
same files again, each atomically.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from churn_platform.decoding.erased_rows import without_erased
from churn_platform.features.cleaning import clean
from churn_platform.features.columns import is_null
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.files.artifacts import find_files, in_s3, join, reading_ranges, writing_large
from churn_platform.files.parquet import read_parquet, write_frames, write_parquet
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.modeling.prepared import Tables, binned_frame, encoded_frame, imputed_frame, scaled_frame
from churn_platform.modeling.splitting import SPLIT, TEST, TRAIN, rows_of, with_membership
from churn_platform.schema.blocks import TypedRows, reading_rows
from churn_platform.schema.customer_schema import CustomerSchema
from churn_platform.schema.exceptions import CustomersFileMissingError, MalformedFileError
from churn_platform.schema.reader import NO_FILE_REMEDY, QUARANTINE_COLUMNS, quarantine_conflicting, with_target
from churn_platform.spark.preparation_order import PreparationOrder

NUMBER: Final = "row\x1f"
"""Column of typed rows: the row's number in its file, from 1. Names of a schema's columns are printable."""
FILE_SHIFT: Final = 40
"""Bits of a row's number in a file. Above them is the number of the file, so that keys of rows are in their order."""
HASH_BYTES: Final = 16 * 1024 * 1024
HASH_KEYS: Final = ("churn platform 1", "churn platform 2")  # 16 characters each: two hashes of 64 bits together

TYPED, REJECTED = "typed", "rejected"
RAW, QUARANTINED, CLEANED, CUSTOMERS = (
    "raw_customers",
    "quarantined_customers",
    "cleaned_customers",
    "train_test_split",
)
IMPUTED, ENCODED, BINNED, SCALED = "imputed_features", "encoded_features", "binned_features", "scaled_features"
FEATURES: Final[Mapping[str, str]] = {TRAIN: "train_features", TEST: "test_features"}
"""Names of assets, and of tables that are none."""


@dataclass(frozen=True)
class Source:
    """One of the customers files: its place among them, its name, and its path or address."""

    number: int
    name: str
    uri: str


@dataclass(frozen=True)
class TypedFile:
    """A file whose rows are typed.

    Attributes:
        source: the file.
        rows: number of its rows, malformed ones counted.
        parts: the number of the first row that breaks no rule, of each part; above all others if it has none.
        detected: its format as text.
        sha256: hexadecimal SHA-256 of its bytes.
        size_bytes: number of its bytes.
        modified: when it was last modified.
    """

    source: Source
    rows: int
    parts: list[int]
    detected: str
    sha256: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Repeated:
    """Rows of a part whose id an earlier row has, by their numbers in the file.

    Attributes:
        same: those that equal an earlier row.
        conflicting: those that have other values.
    """

    same: NDArray[np.int64]
    conflicting: NDArray[np.int64]


@dataclass(frozen=True)
class TypedPart:
    """A part of a typed file.

    Attributes:
        number: of the part among those of all files.
        source: the file.
        place: of the part in the file.
        above: number of the rows of earlier files.
        repeated: its rows whose id an earlier row has.
    """

    number: int
    source: Source
    place: int
    above: int
    repeated: Repeated


@dataclass(frozen=True)
class RawPart:
    """What a part of raw_customers has: customers, quarantined rows, and whether the target of one is missing."""

    customers: int
    quarantined: int
    target_missing: bool


@dataclass(frozen=True)
class Group:
    """A row group of an asset's file.

    Attributes:
        number: of the part that is made of it.
        uri: the file.
        group: number of the row group.
    """

    number: int
    uri: str
    group: int

    def rows(self) -> pd.DataFrame:
        """Return the rows."""
        return StoredFrame(self.uri).rows([self.group])


def groups_of(uri: str) -> list[Group]:
    """Return the row groups of an asset's file that have rows; one if there are none."""
    found = [group for group, rows in enumerate(StoredFrame(uri).group_rows) if rows] or [0]
    return [Group(number, uri, group) for number, group in enumerate(found)]


def part_uri(order: PreparationOrder, table: str, number: int, place: int | None = None) -> str:
    """Return the address of a part of a table."""
    name = f"{number:06}" if place is None else f"{number:06}-{place:06}"
    return join(order.staging, table, f"{name}.parquet")


def read_part(order: PreparationOrder, table: str, number: int, place: int | None = None) -> pd.DataFrame:
    """Return the rows of a part."""
    with reading_ranges(part_uri(order, table, number, place)) as file:
        return read_parquet(file, categorical=True)


def write_part(order: PreparationOrder, table: str, frame: pd.DataFrame, number: int, place: int | None = None) -> None:
    """Write a part."""
    with writing_large(part_uri(order, table, number, place)) as file:
        write_parquet(frame, file)


def type_file(order: PreparationOrder, source: Source) -> TypedFile:
    """Write the typed rows of a file, and those that break a rule, in parts.

    Raises:
        CustomersFileError: the file cannot be read, lacks a column, has a wrong column, or changes meanwhile.
    """
    before = _state(source)
    parts: list[int] = []
    local = source.uri if in_s3(source.uri) else Path(source.uri)
    with reading_rows(source.name, local, order.schema) as reading:
        for rows in _together(reading.rows(), order.part_rows):
            frame = pd.DataFrame({**rows.columns, NUMBER: rows.numbers}, copy=False)
            write_part(order, TYPED, frame, source.number, len(parts))
            rejected = pd.DataFrame(rows.rejected, columns=list(QUARANTINE_COLUMNS)).astype({"row": "int64"})
            write_part(order, REJECTED, rejected, source.number, len(parts))
            parts.append(int(rows.numbers[0]) if len(frame) else 1 << FILE_SHIFT)
        detected, count = reading.detected, reading.file_rows
    digest, size = _digest(source.uri)
    after = _state(source)
    if after != before:
        raise MalformedFileError(
            f"{source.name} was {before[0]} when its reading began, and {after[0]} when it ended.",
            remedy="Prepare the customers again when the file is complete.",
        )
    return TypedFile(source, count, parts, detected, digest, size, after[1])


def _state(source: Source) -> tuple[str, datetime]:
    """Return the version of a file, and when it was last modified."""
    found = find_files(source.uri)
    if not found:
        raise CustomersFileMissingError(f"There is no customers file at {source.uri}.", remedy=NO_FILE_REMEDY)
    return found[0].version, found[0].modified


def _digest(uri: str) -> tuple[str, int]:
    """Return the SHA-256 of a file and the number of its bytes."""
    digest, size = sha256(), 0
    with reading_ranges(uri) as file:
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _together(blocks: Iterable[TypedRows], rows: int) -> Iterator[TypedRows]:
    """Yield blocks with more rows each: at most this many, and at least one block."""
    waiting: list[TypedRows] = []
    for block in blocks:
        waiting.append(block)
        while sum(len(each.numbers) for each in waiting) > rows:
            joined = _joined(waiting)
            yield _cut(joined, 0, rows)
            waiting = [_cut(joined, rows, len(joined.numbers))]
    yield _joined(waiting)


def _joined(blocks: Sequence[TypedRows]) -> TypedRows:
    return TypedRows(
        {name: np.concatenate([each.columns[name] for each in blocks]) for name in blocks[0].columns},
        np.concatenate([each.numbers for each in blocks]),
        [row for each in blocks for row in each.rejected],
    )


def _cut(rows: TypedRows, start: int, end: int) -> TypedRows:
    """Return the rows [start, end), and the rejected ones between the first of them and the one after the last."""
    first = 0 if start == 0 else int(rows.numbers[start])
    after = int(rows.numbers[end]) if end < len(rows.numbers) else None
    return TypedRows(
        {name: values[start:end] for name, values in rows.columns.items()},
        rows.numbers[start:end],
        [each for each in rows.rejected if first <= each[1] and (after is None or each[1] < after)],
    )


def keys_of(frame: pd.DataFrame, file: int) -> NDArray[np.int64]:
    """Return the keys of typed rows: numbers in the order of the rows of all files. Shape (n,)."""
    return frame[NUMBER].to_numpy(np.int64) + (file << FILE_SHIFT)


def hashes_of(frame: pd.DataFrame, schema: CustomerSchema) -> list[NDArray[np.int64]]:
    """Return two hashes of the values of each row, without columns that count rows. Rows with equal values have equal
    ones, and 128 bits tell all others apart. Each has shape (n,).
    """
    names = [column.name for column in schema.columns if not column.counted]
    values = pd.DataFrame({name: _unsigned_zero(frame[name]) for name in names}, copy=False)
    return [
        pd.util.hash_pandas_object(values, index=False, hash_key=key).to_numpy().view(np.int64) for key in HASH_KEYS
    ]


def _unsigned_zero(values: pd.Series) -> pd.Series:
    """Return the values with 0 for -0, which equals it and has other bits."""
    return values + 0.0 if values.dtype.kind == "f" else values


def finish_rows(order: PreparationOrder, part: TypedPart) -> RawPart:
    """Write a part of raw_customers and of quarantined_customers, without repeated rows and erased customers."""
    schema = order.schema
    typed = read_part(order, TYPED, part.source.number, part.place)
    rejected = read_part(order, REJECTED, part.source.number, part.place)
    numbers = typed[NUMBER].to_numpy(np.int64)
    conflicting = np.isin(numbers, part.repeated.conflicting)
    kept = ~(conflicting | np.isin(numbers, part.repeated.same))
    if conflicting.any():
        rows = quarantine_conflicting(part.source.name, typed.loc[conflicting], numbers[conflicting], schema)
        conflicts = pd.DataFrame(rows, columns=list(QUARANTINE_COLUMNS)).astype({"row": "int64"})
        rejected = pd.concat([rejected, conflicts], ignore_index=True).sort_values("row", ignore_index=True)
    columns: dict[str, Any] = {}
    for column in schema.columns:
        columns[column.name] = numbers[kept] + part.above if column.counted else typed[column.name].array[kept]
    customers = with_target(pd.DataFrame(columns, copy=False), schema)
    customers, rejected = without_erased(customers, rejected, schema, order.erased)
    write_part(order, RAW, customers, part.number)
    write_part(order, QUARANTINED, rejected, part.number)
    return RawPart(len(customers), len(rejected), bool(customers[schema.target].isna().any()))


def clean_group(order: PreparationOrder, group: Group) -> None:
    """Write a part of cleaned_customers."""
    write_part(order, CLEANED, clean(group.rows(), order.schema, consume=True), group.number)


def churned_of(order: PreparationOrder, group: Group) -> NDArray[np.int8]:
    """Return whether each customer of a row group left, 0 or 1. Shape (n,)."""
    target = order.schema.target
    return StoredFrame(group.uri).rows([group.group], columns=[target])[target].to_numpy(np.int8)


def split_group(order: PreparationOrder, given: tuple[Group, NDArray[np.bool_]]) -> None:
    """Write a part of train_test_split.

    Args:
        order: of the preparation.
        given: a row group of cleaned_customers, and whether each of its rows is in the training split.
    """
    group, in_train = given
    write_part(order, CUSTOMERS, with_membership(group.rows(), in_train), group.number)


def training_rows(order: PreparationOrder, number: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return columns of the training rows of a part of train_test_split. Dates are the numbers of their days."""
    with reading_ranges(part_uri(order, CUSTOMERS, number)) as file:
        frame = read_parquet(file, [*names, SPLIT], categorical=True)
    rows = rows_of(frame, TRAIN, names)
    return {name: _days(rows[name].to_numpy()) for name in names}


def _days(values: NDArray[Any]) -> NDArray[Any]:
    """Return dates as days since 1970, NaN where missing; other values unchanged."""
    if values.dtype.kind != "M":
        return values
    return np.where(np.isnat(values), np.nan, values.astype("datetime64[D]").astype(np.float64))


def known_of(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values that are not missing."""
    return values[~is_null(values)]


def transform_part(
    order: PreparationOrder, given: tuple[int, Imputer, OneHotEncoder]
) -> dict[str, tuple[float, float]]:
    """Write a part of imputed_features, encoded_features and binned_features.

    Args:
        order: of the preparation.
        given: the number of the part, and the fitted steps.

    Returns:
        Scaled column -> minimum and maximum of the training rows; no column if there are none.
    """
    number, imputer, encoder = given
    tables = Tables(order.schema)
    imputed = imputed_frame(read_part(order, CUSTOMERS, number), imputer, tables)
    write_part(order, IMPUTED, imputed, number)
    train = rows_of(imputed, TRAIN, order.schema.scaled)
    encoded = encoded_frame(imputed, encoder, tables)
    write_part(order, ENCODED, encoded, number)
    write_part(order, BINNED, binned_frame(encoded, tables), number)
    return dict(MinMaxScaler.fit_ranges(train, order.schema)) if len(train) else {}


def scale_part(order: PreparationOrder, given: tuple[int, MinMaxScaler]) -> None:
    """Write a part of scaled_features and of the features of both splits."""
    number, scaler = given
    scaled = scaled_frame(read_part(order, BINNED, number), scaler, Tables(order.schema))
    write_part(order, SCALED, scaled, number)
    for split, table in FEATURES.items():
        write_part(order, table, rows_of(scaled, split), number)


@dataclass(frozen=True)
class Merge:
    """The parts of a table that become the file of an asset.

    Attributes:
        table: name of both.
        parts: number of parts.
        attributes: `attrs` of the frame.
        dtypes: column -> dtype that all parts are to have, where some may have another one.
    """

    table: str
    parts: int
    attributes: Mapping[str, object]
    dtypes: Mapping[str, str]


def merge(order: PreparationOrder, given: Merge) -> int:
    """Write the file of an asset, atomically, and return the number of its rows."""
    with writing_large(join(order.assets, f"{given.table}.parquet")) as file:
        return write_frames(_filled_parts(order, given), file, given.attributes)


def _filled_parts(order: PreparationOrder, given: Merge) -> Iterator[pd.DataFrame]:
    """Yield the parts that have rows; the last one if none has."""
    yielded = False
    for number in range(given.parts):
        frame = read_part(order, given.table, number)
        if len(frame) or (number == given.parts - 1 and not yielded):
            yielded = True
            yield frame.astype(dict(given.dtypes)) if given.dtypes else frame
