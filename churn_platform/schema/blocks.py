"""Reading a customers file in blocks, however large it is: for scoring, and for preparing data that exceeds memory.

The files, formats and rules are those of `reader.py`, which keeps all rows. Here only a block of them is in memory. So
the file is read twice: first to find out how it writes numbers and dates and whether a whole column is wrong, then for
its rows. A CSV file in UTF-8 and a Parquet file stay where they are. What is compressed, in S3, a pipe or in another
encoding becomes a temporary file. A workbook is in memory; it has at most 1,048,576 rows.
"""

from __future__ import annotations

import codecs
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pyarrow as pa

from churn_platform.files import artifacts
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.schema.columns import MAX_TEXT_LENGTH, MAX_WHOLE, Column
from churn_platform.schema.csv_file import CsvFile, MalformedRow, mostly_malformed
from churn_platform.schema.encodings import to_utf8
from churn_platform.schema.exceptions import CustomersFileMissingError, EmptyCustomersFileError, MalformedFileError
from churn_platform.schema.reader import (
    DECIMALS,
    GZIP,
    NO_FILE_REMEDY,
    PARQUET,
    WORKBOOKS,
    column_positions,
    detect_decimals,
    find_customers_files,
    quarantine,
    wrong_rows_error,
)
from churn_platform.schema.typed_columns import TypedColumn, missing_column, order_of, typed
from churn_platform.schema.typed_files import ParquetRows, TypedFile, open_workbook
from churn_platform.schema.wrong_values import Finding, WrongValues, findings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from churn_platform.schema.customer_schema import CustomerSchema
    from churn_platform.schema.number_formats import DateOrder, Decimal

READ_BYTES: Final = 1024 * 1024
MAX_SINGLE: Final = float(np.finfo(np.float32).max)

BlockSource = CsvFile | TypedFile | ParquetRows
Rejected = tuple[str, int, str, str]
"""A row that breaks a rule: the file's name, the row's number from 1, its values as JSON, the reasons."""


@dataclass(frozen=True)
class TypedRows:
    """Some rows of a file, in its order.

    Attributes:
        columns: column name -> shape (n,), all columns of the schema, each with its `dtype`. The target is as in the
            file, and columns that count rows are 0.
        numbers: shape (n,), the rows' numbers in the file, from 1.
        rejected: the rows between them that break a rule.
    """

    columns: dict[str, NDArray[Any]]
    numbers: NDArray[np.int64]
    rejected: list[Rejected]


@dataclass(frozen=True)
class CustomerBlock:
    """Some customers of a file, in its order.

    Attributes:
        columns: column name -> shape (n,), the id and the inputs of the schema, each with its `dtype`.
        left: shape (n,), whether the file says that the customer left; False where it does not say.
        file: the name of their file.
        numbers: shape (n,), their rows' numbers in it, from 1.
        rejected: the rows between them that break a rule.
    """

    columns: Mapping[str, NDArray[Any]]
    left: NDArray[np.bool_]
    file: str
    numbers: NDArray[np.int64]
    rejected: list[Rejected]


def scored_columns(schema: CustomerSchema) -> CustomerSchema:
    """Return the schema of a file whose customers are scored: the columns of an event, with an event's rules.

    A customer without a value that training drops is rejected, as the event would be. The target may be missing.
    """
    columns = [_as_in_events(schema.by_name[name]) for name in schema.event_fields]
    target = replace(schema.target_column, optional=True, missing="ignore")
    return replace(schema, columns=(*columns, target))


def _as_in_events(column: Column) -> Column:
    changes: dict[str, Any] = {}
    if not column.scored_if_missing:
        changes["missing"] = "refuse"
        changes["optional"] = False
    if column.kind == "text" and column.max_length is None:
        changes["max_length"] = MAX_TEXT_LENGTH
    # The bounds of numbers that tables can hold.
    bound = MAX_WHOLE if column.kind == "whole" else MAX_SINGLE if column.single_precision else None
    if bound is not None and column.is_number:
        changes["minimum"] = -bound if column.minimum is None else column.minimum
        changes["maximum"] = bound if column.maximum is None else column.maximum
    return replace(column, **changes)


def read_blocks(place: str, schema: CustomerSchema) -> Iterator[CustomerBlock]:
    """Yield the customers of a file or of a folder of files in blocks.

    Args:
        place: a path or an s3:// address of a file or a folder.
        schema: of the customers, from `scored_columns`.

    Raises:
        CustomersFileError: there is no file, it cannot be read, a column is missing, or most values of a column break
            a rule.
    """
    for name, opened in customers_files(place):
        with _source(name, opened, schema) as source:
            for rows in FileReading(source, schema, with_target=False).rows():
                target = rows.columns.pop(schema.target)
                left = np.asarray(target == schema.left, np.bool_)
                yield CustomerBlock(rows.columns, left, name, rows.numbers, rows.rejected)


@contextmanager
def reading_rows(name: str, file: Path | str, schema: CustomerSchema) -> Iterator[FileReading]:
    """Open one of the files of `customers_files`, for its rows with their target, as `load_customers` finds them.

    Args:
        name: of the file.
        file: its path, or its address in S3.
        schema: of the customers.

    Raises:
        CustomersFileError: see `read_blocks`.
    """
    with _source(name, file, schema) as source:
        yield FileReading(source, schema, with_target=True)


class FileReading:
    """One file: what its values have in common, and its rows.

    Attributes:
        file_rows: number of its rows, malformed ones counted.
    """

    def __init__(self, source: BlockSource, schema: CustomerSchema, *, with_target: bool) -> None:
        """Read the whole file once, to find out how it writes numbers and dates.

        Args:
            source: the file.
            schema: of the customers.
            with_target: whether a row is rejected for what it says of the target, which scoring does not need.

        Raises:
            CustomersFileError: see `read_blocks`.
        """
        self._source = source
        self._schema = schema
        self._with_target = with_target
        self._used: set[str] = set()
        self.file_rows = 0
        self._positions = column_positions(source, schema)
        self._orders: dict[str, DateOrder] = {}
        self._formats: Mapping[str, Decimal] | None = None
        numbers = [column.name for column in schema.columns if column.kind in ("whole", "number")]
        if schema.decimal:
            self._formats = dict.fromkeys(numbers, schema.decimal)
        if any(column.kind == "date" for column in schema.columns):
            self._learn_dates()
        unusual = self._inspect()
        if unusual and self._formats is None:
            self._formats = detect_decimals(source, self._positions, schema)
            self._inspect()

    @property
    def detected(self) -> str:
        """The format of the file as text; complete once all rows were read."""
        return self._source.detected + "".join(f", {DECIMALS[each]}" for each in sorted(self._used))

    def _learn_dates(self) -> None:
        wanted = [column for column in self._schema.columns if column.kind == "date" and column.name in self._positions]
        for block in self._source.numbered_blocks([self._positions[column.name] for column in wanted]):
            for column in wanted:
                order = order_of(block.texts.column(str(self._positions[column.name])), column)
                self._orders[column.name] = self._orders[column.name] | order if column.name in self._orders else order

    def _inspect(self) -> bool:
        """Type all values. Return whether numbers are not plainly written and their format is not known yet.

        Raises:
            CustomersFileError: there is no row, or most values of a column are wrong in the same way.
        """
        rows = malformed = broken = 0
        filled: dict[str, int] = {}
        found: dict[tuple[str, str], Finding] = {}
        for block in self._source.numbered_blocks(self._positions.values()):
            malformed += len(block.malformed)
            is_broken = np.zeros(block.texts.num_rows, np.bool_)
            for column, texts in self._texts(block.texts):
                result = self._typed(column, texts)
                for wrong in result.wrong:
                    is_broken[wrong.rows] = True
                filled[column.name] = filled.get(column.name, 0) + result.filled
                is_number = column.kind in ("whole", "number")
                if is_number and self._formats is None and any(each.rule is None for each in result.wrong):
                    return True
                for each in findings(result.wrong):
                    key = (column.name, each.kind.is_wrong)
                    known = replace(each, rows=tuple(row + rows for row in each.rows))
                    found[key] = found[key].followed_by(each, rows) if key in found else known
            rows += block.texts.num_rows
            broken += int(np.count_nonzero(is_broken))
        self.file_rows = rows + malformed
        if not rows and not malformed:
            raise EmptyCustomersFileError(
                f"{self._source.name} has a header and no customers. Expected one row per customer.",
                remedy=NO_FILE_REMEDY,
            )
        all_found = [replace(each, filled=filled[each.column.name]) for each in found.values()]
        useless = self._with_target and (broken == rows or mostly_malformed(rows, malformed))
        if useless or not rows or any(each.is_whole_column(rows) for each in all_found):
            raise wrong_rows_error(self._source, all_found, rows, malformed, self._positions, self._schema)
        return False

    def rows(self) -> Iterator[TypedRows]:
        """Yield the rows in blocks."""
        schema, name = self._schema, self._source.name
        for block in self._source.numbered_blocks(self._positions.values()):
            count = block.texts.num_rows
            values: dict[str, NDArray[Any]] = {}
            wrong: list[WrongValues] = []
            for column, texts in self._texts(block.texts):
                result = self._typed(column, texts)
                values[column.name] = result.values
                wrong += result.wrong
                self._used |= {result.decimal} - {""}
            for column in schema.columns:
                if column.name not in values:
                    values[column.name] = np.zeros(count, np.int64) if column.counted else missing_column(column, count)
            rejected = _misfits(name, block.malformed, self._source)
            numbers = block.numbers
            if wrong:
                rejected += quarantine(name, values, wrong, numbers, schema)
                kept = np.ones(count, np.bool_)
                for each in wrong:
                    kept[each.rows] = False
                values = {column: array[kept] for column, array in values.items()}
                numbers = numbers[kept]
            rejected.sort(key=lambda row: row[1])
            yield TypedRows(values, numbers, rejected)

    def _texts(self, texts: pa.Table) -> Iterator[tuple[Column, pa.ChunkedArray]]:
        for column in self._schema.columns:
            if column.name in self._positions:
                yield column, texts.column(str(self._positions[column.name]))

    def _typed(self, column: Column, texts: pa.ChunkedArray) -> TypedColumn:
        decimal = None if self._formats is None else self._formats.get(column.name)
        found = typed(texts, column, decimal=decimal, order=self._orders.get(column.name))
        if self._with_target or column.name != self._schema.target:
            return found
        return replace(found, wrong=())


def _misfits(name: str, malformed: list[MalformedRow], source: BlockSource) -> list[Rejected]:
    return [
        (name, each.row + 1, "{}", f"the row has {each.width} values, the header has {len(source.header)} names")
        for each in malformed
    ]


def customers_files(place: str) -> Iterator[tuple[str, Path | str]]:
    """Yield the name of each file, and its path or its address in S3.

    Raises:
        CustomersFileMissingError: there are none.
    """
    if not artifacts.in_s3(place) and not Path(place).is_dir():
        yield place, Path(place)
        return
    for name, file in find_customers_files(place).items():
        yield name, file.uri if artifacts.in_s3(place) else Path(file.uri)


@contextmanager
def _source(name: str, file: Path | str, schema: CustomerSchema) -> Iterator[BlockSource]:
    """Open a file of any format. Temporary files are deleted when the block ends."""
    known = [each for column in schema.columns for each in (column.name, *column.headers)]
    with ExitStack() as stack:
        path = _local(name, file, stack)
        packed = _head(path).startswith(GZIP)
        if packed:
            path = _unpacked(name, path, stack)
        head = _head(path)
        source: BlockSource
        if head.startswith(PARQUET):
            source = ParquetRows.open(name, path)
        elif head.startswith(WORKBOOKS):
            source = open_workbook(name, path.read_bytes(), known)
        else:
            text, encoding = _text(name, path, stack, schema.encoding)
            source = CsvFile.open(name, text, known=known, delimiter=schema.delimiter, encoding=encoding)
        yield replace(source, detected=f"{source.detected}, compressed with gzip") if packed else source


def _local(name: str, file: Path | str, stack: ExitStack) -> Path:
    """Return a path that can be read several times."""
    if isinstance(file, Path) and file.is_file():
        try:
            file.open("rb").close()
        except OSError as error:
            raise _unreadable(file, error) from error
        return file
    with _temporary(stack) as target:
        try:
            if isinstance(file, Path):
                with file.open("rb") as opened:  # a pipe
                    shutil.copyfileobj(opened, target)
            else:
                with artifacts.reading(file) as opened:
                    shutil.copyfileobj(opened, target)
        except (FileNotFoundError, ArtifactNotFoundError):
            raise CustomersFileMissingError(f"There is no customers file at {name}.", remedy=NO_FILE_REMEDY) from None
        except OSError as error:
            if not isinstance(file, Path):
                raise
            raise _unreadable(file, error) from error
        return Path(target.name)


def _unreadable(file: Path, error: OSError) -> CustomersFileMissingError:
    return CustomersFileMissingError(
        f"The customers file {file} cannot be opened: {error.strerror}. Expected a readable file.",
        remedy=NO_FILE_REMEDY,
    )


def _unpacked(name: str, path: Path, stack: ExitStack) -> Path:
    with _temporary(stack) as target, path.open("rb") as opened:
        try:
            shutil.copyfileobj(gzip.GzipFile(fileobj=opened), target)
        except (OSError, EOFError, zlib.error) as error:
            raise MalformedFileError(
                f"{name} starts like a gzip file, but cannot be unpacked: {error}.", remedy="Copy or export it again."
            ) from None
        return Path(target.name)


def _text(name: str, path: Path, stack: ExitStack, encoding: str) -> tuple[Path, str]:
    """Return a file with the text in UTF-8, without a byte order mark, and the encoding of the given file.

    It is the given file itself if it has no other encoding.
    """
    if encoding.lower().replace("_", "-") in ("", "utf-8", "utf8") and _is_plain_utf8(path):
        return path, "UTF-8"
    text, shown = to_utf8(name, path.read_bytes(), encoding=encoding)
    with _temporary(stack) as target:
        target.write(text)
        return Path(target.name), shown


def _is_plain_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as opened:
        chunk = opened.read(READ_BYTES)
        if chunk.startswith(codecs.BOM_UTF8):
            return False
        try:
            while chunk:
                if b"\0" in chunk:
                    return False
                decoder.decode(chunk)
                chunk = opened.read(READ_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@contextmanager
def _temporary(stack: ExitStack) -> Iterator[BinaryIO]:
    """Yield a new file to write to, which is deleted with the stack."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="churn-"))
    with Path(folder, "customers").open("wb") as target:
        yield target


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(8)
