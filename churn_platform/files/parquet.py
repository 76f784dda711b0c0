"""Conversion of frames to Parquet and back, in little more memory than the frame itself."""

import io
import json
from typing import Final

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

ROW_GROUP_SIZE: Final = 1_000_000
ATTRIBUTES: Final = b"PANDAS_ATTRS"
"""Key of the file's metadata that stores a frame's `attrs` as JSON. pandas uses the same key."""


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Convert a frame with its `attrs`, without its index. Only one row group is converted at a time."""
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    schema = schema.with_metadata({**schema.metadata, ATTRIBUTES: json.dumps(frame.attrs).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for start in range(0, max(len(frame), 1), ROW_GROUP_SIZE):
            rows = frame.iloc[start : start + ROW_GROUP_SIZE]
            writer.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
    return buffer.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """Return the frame that `to_parquet` wrote. It is read by column, so that there is no second copy of the table.

    Equal strings are one object. Columns do not share a block, so that dropping or replacing one copies nothing.
    """
    file = pq.ParquetFile(io.BytesIO(content))
    columns = {name: file.read(columns=[name]).column(0).to_pandas() for name in file.schema_arrow.names}
    for described in (file.schema_arrow.pandas_metadata or {}).get("columns", []):
        if described["numpy_type"] == "datetime64[s]":  # Parquet has no seconds: it stores them as milliseconds
            columns[described["name"]] = columns[described["name"]].astype("datetime64[s]")
    frame = pd.DataFrame(columns, copy=False)
    frame.attrs = json.loads((file.schema_arrow.metadata or {}).get(ATTRIBUTES, b"{}"))
    return frame
