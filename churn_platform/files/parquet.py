"""Frames as Parquet and back, in little more memory than the frame itself."""

import io
import json
from typing import Final

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

ROWS_AT_ONCE: Final = 1_000_000
ATTRIBUTES: Final = b"PANDAS_ATTRS"
"""Key of the file's own metadata under which a frame's `attrs` are kept, as JSON; pandas keeps them there, too."""


def to_parquet(frame: pd.DataFrame) -> bytes:
    """A frame with its `attrs`, without its index. In row groups of a million: one is converted at a time."""
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    schema = schema.with_metadata({**schema.metadata, ATTRIBUTES: json.dumps(frame.attrs).encode()})
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for start in range(0, max(len(frame), 1), ROWS_AT_ONCE):
            rows = frame.iloc[start : start + ROWS_AT_ONCE]
            writer.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
    return buffer.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """The frame that `to_parquet` wrote. Column by column: the whole table is never there beside the frame.

    Equal texts are one object, and columns do not share a block, so that a step may drop or replace one without a copy.
    """
    file = pq.ParquetFile(io.BytesIO(content))
    columns = {name: file.read(columns=[name]).column(0).to_pandas() for name in file.schema_arrow.names}
    frame = pd.DataFrame(columns, copy=False)
    frame.attrs = json.loads((file.schema_arrow.metadata or {}).get(ATTRIBUTES, b"{}"))
    return frame
