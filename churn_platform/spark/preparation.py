"""The steps of the preparation in Spark's driver. The driver holds no rows: at most a few bytes for each customer.

Rows are read, changed and written by the tasks (`preparation_tasks.py`), with the project's own code. Spark distributes
the tasks, and finds what concerns all rows: repeated ids, medians and most frequent categories.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812  as Spark's documentation names it

from churn_platform.errors import PlatformError
from churn_platform.features.encoding import OneHotEncoder
from churn_platform.features.imputing import Imputer, fitted_columns, median_of, most_frequent, require_known
from churn_platform.features.scaling import MinMaxScaler
from churn_platform.files.artifacts import join, write_bytes
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.modeling.file_attributes import file_attributes
from churn_platform.modeling.splitting import training_customers
from churn_platform.schema.blocks import customers_files
from churn_platform.schema.columns import Column
from churn_platform.schema.exceptions import EmptyCustomersFileError
from churn_platform.schema.reader import NO_FILE_REMEDY, combined_hash
from churn_platform.spark import preparation_tasks as tasks
from churn_platform.spark.middle_values import ACCURACY, EVERYTHING, SHARES, Bounds, count_part, middle_values
from churn_platform.spark.preparation_order import FileRead, PreparationOrder, Step

Given = TypeVar("Given")
Found = TypeVar("Found")

KEYS: Final = "key long, hash_1 long, hash_2 long"


class Preparation:
    """One order, carried out by Spark."""

    def __init__(self, order: PreparationOrder, spark: SparkSession) -> None:
        """Prepare nothing yet."""
        self._order = order
        self._spark = spark

    def run(self) -> FileRead | None:
        """Write the files of the step's assets. Return what the customers file is, if the step reads it.

        Raises:
            PlatformError: what the same step raises without Spark.
        """
        if self._order.step is Step.read:
            return self._read()
        if self._order.step is Step.clean:
            self._clean()
        else:
            self._features()
        return None

    def _each(self, task: Callable[[PreparationOrder, Given], Found], given: Sequence[Given]) -> list[Found]:
        """Return what a task finds for each of these, in their order. Each is a task of Spark.

        Raises:
            PlatformError: one of them has failed with such an error, which no repetition changes.
        """
        parts = self._spark.sparkContext.parallelize(given, max(len(given), 1))
        found: list[Found] = parts.map(partial(_outcome, task, self._order)).collect()
        errors = [each for each in found if isinstance(each, PlatformError)]
        if errors:
            raise errors[0]
        return found

    def _scan(self, count: int, rows: Callable[[int], Iterator[Mapping[str, NDArray[Any]]]], schema: str) -> DataFrame:
        """Return a Spark DataFrame of the columns that a function yields for each of the numbers below `count`.

        Each number is a task of Spark. NaN becomes null.
        """

        def batches(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in numbers:
                for number in batch.column(0).to_pylist():
                    for columns in rows(number):
                        arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
                        yield pa.RecordBatch.from_pydict(arrays)

        return self._spark.range(0, count, 1, count).mapInArrow(batches, schema)

    def _merge(
        self,
        *tables: str,
        parts: int,
        attributes: Mapping[str, object],
        dtypes: Mapping[str, str] | None = None,
    ) -> None:
        self._each(tasks.merge, [tasks.Merge(table, parts, attributes, dtypes or {}) for table in tables])

    def _uri(self, name: str) -> str:
        return join(self._order.assets, name)

    def _read(self) -> FileRead:
        order = self._order
        sources = [
            tasks.Source(number, name, str(file.absolute()) if isinstance(file, Path) else file)
            for number, (name, file) in enumerate(customers_files(order.place))
        ]
        files = self._each(tasks.type_file, sources)
        same, conflicting = self._repeated(files)
        parts, above = list[tasks.TypedPart](), 0
        for file in files:
            for place in range(len(file.parts)):
                key = (file.source.number, place)
                repeated = tasks.Repeated(same.get(key, _NONE), conflicting.get(key, _NONE))
                parts.append(tasks.TypedPart(len(parts), file.source, place, above, repeated))
            above += file.rows
        raw = self._each(tasks.finish_rows, parts)
        customers, quarantined = sum(each.customers for each in raw), sum(each.quarantined for each in raw)
        read = FileRead(
            rows=above,
            customers=customers,
            quarantined=quarantined,
            duplicates=sum(len(each) for each in same.values()),
            detected={file.source.name: file.detected for file in files},
            sha256=combined_hash(order.place, {file.source.name: file.sha256 for file in files}),
            size_bytes=sum(file.size_bytes for file in files),
            modified=max(file.modified for file in files),
        )
        if not customers and not read.erased:
            raise EmptyCustomersFileError(
                f"{order.place} has a header and no customers. Expected one row per customer.", remedy=NO_FILE_REMEDY
            )
        target_dtype = "float64" if any(each.target_missing for each in raw) else "int64"
        self._merge(
            tasks.RAW,
            parts=len(parts),
            attributes=file_attributes(sha256=read.sha256, rows=read.rows - read.erased, quarantined=quarantined),
            dtypes={order.schema.target: target_dtype},
        )
        self._merge(tasks.QUARANTINED, parts=len(parts), attributes={})
        return read

    def _repeated(self, files: Sequence[tasks.TypedFile]) -> "tuple[_ByPart, _ByPart]":
        """Return the rows that equal an earlier one, and those with an earlier row's id and other values.

        By file and part, each a sorted array of numbers of rows.
        """
        order = self._order
        places = [(file.source.number, place) for file in files for place in range(len(file.parts))]

        def keys(number: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            file, place = places[number]
            frame = tasks.read_part(order, tasks.TYPED, file, place)
            first, second = tasks.hashes_of(frame, order.schema)
            yield {
                "key": tasks.keys_of(frame, file),
                "hash_1": first,
                "hash_2": second,
                "id": frame[order.schema.id].to_numpy(),
            }

        id_type = "string" if order.schema.by_name[order.schema.id].dtype == "object" else "long"
        found = self._scan(len(places), keys, f"{KEYS}, id {id_type}")
        of_id = Window.partitionBy("id")
        repeated = found.withColumn("copies", F.count("*").over(of_id)).where("copies > 1")
        of_values = Window.partitionBy("id", "hash_1", "hash_2").orderBy("key")
        numbered = repeated.withColumn("nth", F.row_number().over(of_values))
        # Of rows that are the first with their values, all but the first of their id conflict with it.
        in_id = Window.partitionBy("id", F.col("nth") == 1).orderBy("key")
        later = numbered.withColumn("nth_of_id", F.row_number().over(in_id)).where("nth > 1 or nth_of_id > 1")
        table = later.select("key", (F.col("nth") > 1).alias("same")).toArrow()
        rows, is_same = table.column("key").to_numpy(), table.column("same").to_numpy()
        return _by_part(np.sort(rows[is_same]), files), _by_part(np.sort(rows[~is_same]), files)

    def _clean(self) -> None:
        raw = self._uri(f"{tasks.RAW}.parquet")
        groups = tasks.groups_of(raw)
        self._each(tasks.clean_group, groups)
        self._merge(tasks.CLEANED, parts=len(groups), attributes=StoredFrame(raw).attrs)

    def _features(self) -> None:
        schema = self._order.schema
        cleaned = StoredFrame(self._uri(f"{tasks.CLEANED}.parquet"))
        groups = tasks.groups_of(cleaned.uri)
        churned = self._each(tasks.churned_of, groups)
        in_train = training_customers(np.concatenate(churned), schema)
        ends = np.cumsum([len(each) for each in churned])[:-1]
        self._each(tasks.split_group, list(zip(groups, np.split(in_train, ends), strict=True)))
        imputer, encoder = self._imputer(len(groups)), OneHotEncoder.of(schema)
        ranges = self._each(tasks.transform_part, [(group.number, imputer, encoder) for group in groups])
        scaler = MinMaxScaler({name: _span([each[name] for each in ranges if each]) for name in schema.scaled})
        self._each(tasks.scale_part, [(group.number, scaler) for group in groups])
        self._merge(
            tasks.CUSTOMERS,
            tasks.IMPUTED,
            tasks.ENCODED,
            tasks.BINNED,
            tasks.SCALED,
            *tasks.FEATURES.values(),
            parts=len(groups),
            attributes=cleaned.attrs,
        )
        steps = {"imputer": imputer.to_json(), "encoder": encoder.to_json(), "scaler": scaler.to_json()}
        for name, step in steps.items():
            write_bytes(self._uri(f"feature_{name}.json"), step.encode())

    def _imputer(self, parts: int) -> Imputer:
        """Return the imputer of the training rows.

        Raises:
            MetadataError: a column has only missing values.
        """
        wanted = fitted_columns(self._order.schema)
        return Imputer(
            medians=self._medians(wanted.medians, parts),
            modes=self._modes(wanted.modes, parts),
            constants=wanted.constants,
        )

    def _medians(self, columns: Sequence[Column], parts: int) -> dict[str, float | str]:
        if not columns:
            return {}
        order, names = self._order, [column.name for column in columns]

        def values(number: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            rows = tasks.training_rows(order, number, names)
            yield {f"c{place}": rows[name].astype(np.float64) for place, name in enumerate(names)}

        fields = [f"c{place}" for place in range(len(names))]
        frame = self._scan(parts, values, ", ".join(f"{field} double" for field in fields))
        estimates = [F.percentile_approx(field, list(SHARES), ACCURACY).alias(field) for field in fields]
        counts = [F.count(field).alias(f"{field}_known") for field in fields]
        (row,) = frame.agg(F.count("*").alias("rows"), *counts, *estimates).collect()
        medians: dict[str, float | str] = {}
        for column, field in zip(columns, fields, strict=True):
            require_known(column.name, row[f"{field}_known"], rows=row["rows"])
        bounds = [Bounds(*row[field]) for field in fields]
        counted = self._counts(names, bounds, parts)
        for place, column in enumerate(columns):
            count = row[f"{fields[place]}_known"]
            try:
                middle = middle_values(count, *counted[place])
            except LookupError:  # Spark's estimate was not as good as it promises
                middle = middle_values(count, *self._counts([column.name], [EVERYTHING], parts)[0])
            medians[column.name] = median_of(*middle, dates=column.kind == "date")
        return medians

    def _counts(self, names: Sequence[str], bounds: Sequence[Bounds], parts: int) -> list[tuple[int, dict[float, int]]]:
        """Return, of each column, the number of values below its bounds, and value -> number of those within."""
        order = self._order

        def counts(number: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            rows = tasks.training_rows(order, number, names)
            for place, name in enumerate(names):
                counted = count_part(tasks.known_of(rows[name]).astype(np.float64), bounds[place])
                yield {  # the number of those below has no value
                    "place": np.full(len(counted.within) + 1, place, np.int32),
                    "value": np.array([*counted.within, np.nan], np.float64),
                    "count": np.array([*counted.within.values(), counted.below], np.int64),
                }

        frame = self._scan(parts, counts, "place int, value double, count long")
        table = frame.groupBy("place", "value").agg(F.sum("count").alias("count")).toArrow()
        found: list[tuple[int, dict[float, int]]] = [(0, {}) for _ in names]
        for place, value, count in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
            if value is None:
                found[place] = (count, found[place][1])
            else:
                found[place][1][value] = count
        return found

    def _modes(self, columns: Sequence[Column], parts: int) -> dict[str, str]:
        if not columns:
            return {}
        order, names = self._order, [column.name for column in columns]

        def counts(number: int) -> Iterator[Mapping[str, NDArray[Any]]]:
            rows = tasks.training_rows(order, number, names)
            for place, name in enumerate(names):
                counted = Counter(tasks.known_of(rows[name]).tolist())
                yield {
                    "place": np.full(len(counted) + 1, place, np.int32),
                    "value": np.array([*map(str, counted), None], object),
                    "count": np.array([*counted.values(), len(rows[name])], np.int64),
                }

        frame = self._scan(parts, counts, "place int, value string, count long")
        table = frame.groupBy("place", "value").agg(F.sum("count").alias("count")).toArrow()
        found: list[dict[str, int]] = [{} for _ in names]
        rows = 0
        for place, value, count in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
            if value is None:
                rows = count
            else:
                found[place][value] = count
        for column, counted in zip(columns, found, strict=True):
            require_known(column.name, sum(counted.values()), rows=rows)
        return {column.name: most_frequent(counted, column) for column, counted in zip(columns, found, strict=True)}


_ByPart = dict[tuple[int, int], NDArray[np.int64]]
_NONE: Final = np.empty(0, np.int64)


def _by_part(keys: NDArray[np.int64], files: Sequence[tasks.TypedFile]) -> _ByPart:
    """Return sorted keys of rows as numbers in their file, by file and part; nothing for parts without one."""
    numbers = keys & ((1 << tasks.FILE_SHIFT) - 1)
    of_file = keys >> tasks.FILE_SHIFT
    found: _ByPart = {}
    for file in files:
        rows = numbers[of_file == file.source.number]
        if not len(rows):
            continue
        places = np.searchsorted(file.parts, rows, side="right") - 1
        for place in np.unique(places).tolist():
            found[file.source.number, place] = rows[places == place]
    return found


def _outcome(
    task: Callable[[PreparationOrder, Given], Found], order: PreparationOrder, given: Given
) -> Found | PlatformError:
    """Return what a task finds, or its error if no repetition would change it."""
    try:
        return task(order, given)
    except PlatformError as error:
        if error.transient:
            raise
        return PlatformError(error.problem, remedy=error.remedy, details=error.details)


def _span(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)
