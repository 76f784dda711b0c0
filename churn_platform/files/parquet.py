"""Conversion of frames to Parquet and back, in little more memory than the frame itself."""

import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROW_GROUP_SIZE: Final = 1_000_000
READERS: Final = 2  # threads that read a column each: more would hold more columns twice
SAMPLE_ROWS: Final = 10_000
MAX_DISTINCT_SHARE: Final = 0.25
MAX_CATEGORIES: Final = 32_768  # texts, and the missing one: as many as two bytes number
COMPRESSION: Final = "lz4"  # files a quarter larger than with zstd, written in two thirds of the time, read in half
ATTRIBUTES: Final = b"PANDAS_ATTRS"
"""Key of the file's metadata that stores a frame's `attrs` as JSON. pandas uses the same key."""


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Convert a frame with its `attrs`, without its index."""
    buffer = io.BytesIO()
    write_parquet(frame, buffer)
    return buffer.getvalue()


def write_parquet(frame: pd.DataFrame, file: BinaryIO) -> None:
    """Write a frame with its `attrs`, without its index. Only two row groups are in memory at a time.

    Categorical columns of texts are stored as texts, so that the file does not depend on how a frame holds them. There
    are no statistics: nothing selects rows of these files, and computing them takes a fifth of the time.
    """
    schema = _arrow_schema(frame)
    with (
        pq.ParquetWriter(
            file,
            schema,
            compression=COMPRESSION,
            use_dictionary=_repeating(frame),
            write_statistics=False,
            store_schema=False,  # Arrow's schema would make readers return categories
        ) as writer,
        ThreadPoolExecutor(1) as pool,  # writes a row group while the next one is converted
    ):
        writer.add_key_value_metadata({**schema.metadata, ATTRIBUTES: json.dumps(frame.attrs).encode()})
        written: Future[None] | None = None
        for start in range(0, max(len(frame), 1), ROW_GROUP_SIZE):
            rows = frame.iloc[start : start + ROW_GROUP_SIZE]
            table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
            if written is not None:
                written.result()
            written = pool.submit(writer.write_table, table)
            del table
        if written is not None:
            written.result()


def write_frames(frames: Iterable[pd.DataFrame], file: BinaryIO, attributes: Mapping[str, object]) -> int:
    """Write frames one below the other as one frame, each as a row group, and return the number of rows.

    Only one of them is in memory at a time. `read_parquet` returns what it would return of one frame with all rows.

    Args:
        frames: at least one, with the same columns and dtypes; texts may be categories of any number of texts.
        file: the file, open for writing.
        attributes: the `attrs` of the whole frame.
    """
    writer, rows = None, 0
    try:
        for frame in frames:
            if writer is None:
                schema = _with_texts(_arrow_schema(frame))
                writer = pq.ParquetWriter(
                    file,
                    schema,
                    compression=COMPRESSION,
                    use_dictionary=_repeating(frame),
                    write_statistics=False,
                    store_schema=False,
                )
                writer.add_key_value_metadata({**schema.metadata, ATTRIBUTES: json.dumps(dict(attributes)).encode()})
            writer.write_table(pa.Table.from_pandas(_without_categories(frame), schema=schema, preserve_index=False))
            rows += len(frame)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _with_texts(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose texts are plain ones, and whose columns without any value are texts."""
    for place, field in enumerate(schema):
        if pa.types.is_null(field.type) or pa.types.is_dictionary(field.type):
            schema = schema.set(place, field.with_type(pa.string()))
    return schema


def _without_categories(frame: pd.DataFrame) -> pd.DataFrame:
    columns = {name: _as_objects(values) if is_categorical(values) else values for name, values in frame.items()}
    return pd.DataFrame(columns, copy=False)


def _as_objects(values: pd.Series) -> NDArray[np.object_]:
    """Return texts as objects, None where missing. Shape (n,)."""
    texts: NDArray[np.object_] = np.array([*values.cat.categories, None], dtype=object)[values.cat.codes.to_numpy()]
    return texts


def _arrow_schema(frame: pd.DataFrame) -> pa.Schema:
    """Return the types of the columns. Texts are not converted to find out: one of them shows the type.

    The metadata describes categorical columns as texts.
    """
    positions = {name: _first_known(values) for name, values in frame.items() if values.dtype == object}
    codes = {name: values.cat.codes.dtype for name, values in frame.items() if is_categorical(values)}
    sample = frame.iloc[sorted({0, *positions.values()})[: len(frame)]]
    schema = pa.Schema.from_pandas(sample.assign(**dict.fromkeys(map(str, codes), "")), preserve_index=False)
    for place, name in enumerate(schema.names):
        if name in codes:
            held = pa.dictionary(pa.from_numpy_dtype(codes[name]), pa.string())
            schema = schema.set(place, schema.field(place).with_type(held))
        elif name in positions and not pa.types.is_string(schema.field(place).type):
            schema = schema.set(place, schema.field(place).with_type(pa.array(frame[name], from_pandas=True).type))
    return schema


def is_categorical(values: pd.Series) -> bool:
    """Return whether a column holds texts as codes of categories."""
    return isinstance(values.dtype, pd.CategoricalDtype) and values.cat.categories.dtype == object


def _repeating(frame: pd.DataFrame) -> list[str]:
    """Return the columns whose values repeat: looking for other values in a dictionary takes four times the writing."""
    sample = frame.head(SAMPLE_ROWS)
    return [
        str(name)
        for name, values in sample.items()
        if values.dtype == object or is_categorical(values) or values.nunique() <= MAX_DISTINCT_SHARE * len(sample)
    ]


def _first_known(values: pd.Series) -> int:
    """Return the position of the first value that is not missing; 0 if there is none."""
    for some in (values.head(SAMPLE_ROWS), values):
        known = some.notna().to_numpy()
        if known.any():
            return int(np.argmax(known))
    return 0


def _texts(values: pa.ChunkedArray, *, categorical: bool) -> pd.Series:
    """Return texts that were read as codes of a dictionary, so that each text is converted once.

    Args:
        values: the codes.
        categorical: whether to return the codes as a categorical column, unless there are MAX_CATEGORIES or more texts.
    """
    chunks = values.unify_dictionaries().chunks
    known = np.array([*(chunks[0].dictionary.to_pylist() if chunks else ()), None], dtype=object)
    if categorical and len(known) <= MAX_CATEGORIES:
        codes = np.empty(len(values), dtype=np.min_scalar_type(-len(known)))
        _fill(codes, (pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in chunks))
        dtype = pd.CategoricalDtype(pd.Index(known[:-1], dtype=object))
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), copy=False)  # type: ignore[arg-type]  # pandas' types lack arrays
    found = np.empty(len(values), dtype=object)
    codes_of = (pc.fill_null(chunk.indices, len(known) - 1).to_numpy(zero_copy_only=False) for chunk in chunks)
    _fill(found, (known[codes] for codes in codes_of))
    return pd.Series(found, copy=False)


def _fill(target: NDArray[Any], parts: Iterable[NDArray[Any]]) -> None:
    """Copy the parts into the target, one after the other."""
    start = 0
    for part in parts:
        target[start : start + len(part)] = part
        start += len(part)


@contextmanager
def _system_memory() -> Iterator[None]:
    """Let readers that are opened in the block take memory from the system.

    Arrow's own pool would keep the memory of columns that are gone.
    """
    former = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(former)


def from_parquet(content: bytes) -> pd.DataFrame:
    """Return the frame that `to_parquet` wrote. See `read_parquet`."""
    return read_parquet(io.BytesIO(content))


def read_parquet(
    file: BinaryIO,
    columns: Collection[str] | None = None,
    *,
    categorical: bool = False,
    row_groups: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return the frame that `write_parquet` wrote. It is read by column, so that there is no second copy of the table.

    Equal strings are one object. Columns do not share a block, so that dropping or replacing one copies nothing.

    Args:
        file: the file, open for reading.
        columns: the columns to read; None for all. Those that the file does not have are ignored.
        categorical: whether texts that repeat are categorical columns, which take a quarter of the memory or less.
            Otherwise they have the dtype object.
        row_groups: the numbers of the row groups to read; None for all.
    """
    source = pa.PythonFile(file, mode="r")  # a seek and the read after it hold one lock
    described = pq.read_schema(source)
    texts = [field.name for field in described if pa.types.is_string(field.type)]
    wanted = [name for name in described.names if columns is None or name in columns]
    with _system_memory():
        # All are opened before one of them reads: opening seeks without the lock.
        readers = [pq.ParquetFile(source, read_dictionary=texts) for _ in range(READERS)]

    def read(number: int) -> dict[str, pd.Series]:
        found = {}
        for name in wanted[number::READERS]:
            reader = readers[number]
            groups = range(reader.num_row_groups) if row_groups is None else row_groups
            column = reader.read_row_groups(groups, columns=[name], use_threads=False).column(0)
            found[name] = _texts(column, categorical=categorical) if name in texts else column.to_pandas()
        return found

    with ThreadPoolExecutor(READERS) as pool:
        values = {name: each for found in pool.map(read, range(READERS)) for name, each in found.items()}
    for each in (described.pandas_metadata or {}).get("columns", []):
        if each["numpy_type"] == "datetime64[s]" and each["name"] in values:
            # Parquet has no seconds: it stores them as milliseconds.
            values[each["name"]] = values[each["name"]].astype("datetime64[s]")
    frame = pd.DataFrame({name: values[name] for name in wanted}, copy=False)
    frame.attrs = json.loads((described.metadata or {}).get(ATTRIBUTES, b"{}"))
    return frame
