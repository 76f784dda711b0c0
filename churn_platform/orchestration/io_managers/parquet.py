"""The IO manager of preparation and training: frames as Parquet, fitted steps as JSON, one file per asset."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Final, Protocol, Self, runtime_checkable

import dagster as dg
import pandas as pd

from churn_platform.files.artifacts import ASSETS, claim, join, reading, reading_ranges, writing
from churn_platform.files.exceptions import ArtifactNotFoundError
from churn_platform.files.memory import release_unused_memory
from churn_platform.files.parquet import read_parquet, write_parquet
from churn_platform.files.stored_frame import StoredFrame
from churn_platform.orchestration.retries import in_io_manager, retry_transient_errors
from churn_platform.settings import settings

COLUMNS: Final = "columns"
"""Metadata of an input that is a frame: the columns that its step reads. Without it, all columns are loaded."""

OBJECTS: Final = "objects"
"""Metadata of an input that is a frame: whether its texts have the dtype object. Without it, texts that repeat are
categories: ten million customers take a third less memory, and less time to read and to write."""


@runtime_checkable
class JsonDocument(Protocol):
    """A value that converts itself to JSON. Values that are not frames must do so to be stored."""

    def to_json(self) -> str:
        """Return the value as JSON."""
        ...

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the value that `to_json` wrote."""
        ...


class MissingAssetFileError(Exception):
    """The file of an upstream asset is missing, so the assets that depend on it cannot be materialized."""


class ParquetIOManager(dg.ConfigurableIOManager):
    """Stores a value at `<root>/assets/<asset key>` as `.parquet` or `.json`, replacing the file atomically.

    Attributes:
        root: an absolute folder or s3:// prefix. If empty, the artifacts root of the settings.
    """

    root: str = ""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002  the signature is Dagster's
        """Exempt what a run has imported from garbage collection: it makes each `gc.collect()` ten times as long."""
        gc.collect()
        gc.freeze()

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame | JsonDocument) -> None:
        """Write the value of an asset.

        Raises:
            TypeError: the value is neither a frame nor a JsonDocument. Nothing is pickled.
            ArtifactStoreError: the S3 server rejects the request or cannot be reached.
        """
        if not isinstance(obj, pd.DataFrame | JsonDocument):
            raise TypeError(
                f"Asset {context.asset_key.to_user_string()} returned a {type(obj).__name__}, expected a DataFrame or "
                f"a value with to_json and from_json. Give it those two methods, or another IO manager."
            )
        release_unused_memory()
        uri = self._uri(context.asset_key, "parquet" if isinstance(obj, pd.DataFrame) else "json")
        with retry_transient_errors(attempts_before=in_io_manager(context)):
            claim(self._root)
            with writing(uri) as file:
                if isinstance(obj, pd.DataFrame):
                    write_parquet(obj, file)
                else:
                    file.write(obj.to_json().encode())
                size = file.tell()
        context.add_output_metadata({"dagster/uri": uri, "file_size_bytes": size})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame | StoredFrame | JsonDocument:
        """Read the value of an asset as the type that the input is annotated with.

        Raises:
            MissingAssetFileError: the asset has no file yet.
            ArtifactStoreError: the S3 server rejects the request or cannot be reached.
            TypeError: the input's annotation is none of DataFrame, StoredFrame and a type with from_json.
        """
        wanted = context.dagster_type.typing_type
        if wanted is StoredFrame:
            with self._file(context, "parquet", reading_ranges) as file:
                file.seek(0)
            objects = bool((context.definition_metadata or {}).get(OBJECTS))
            return StoredFrame(self._uri(context.asset_key, "parquet"), objects=objects)
        if wanted is pd.DataFrame:
            gc.collect()  # finished steps leave frames in reference cycles
            release_unused_memory()
            metadata = context.definition_metadata or {}
            with self._file(context, "parquet") as file:
                return read_parquet(file, metadata.get(COLUMNS), categorical=not metadata.get(OBJECTS))
        if isinstance(wanted, type) and issubclass(wanted, JsonDocument):
            with self._file(context, "json") as file:
                document: JsonDocument = wanted.from_json(file.read().decode())
            return document
        raise TypeError(
            f"Input {context.name} of {context.asset_key.to_user_string()} is annotated {wanted}, expected DataFrame, "
            f"StoredFrame or a type with from_json. Correct the annotation of the asset or check that reads it."
        )

    @contextmanager
    def _file(
        self,
        context: dg.InputContext,
        extension: str,
        opened: Callable[[str], AbstractContextManager[BinaryIO]] = reading,
    ) -> Iterator[BinaryIO]:
        uri, name = self._uri(context.asset_key, extension), context.asset_key.to_user_string()
        try:
            with retry_transient_errors(attempts_before=in_io_manager(context)), opened(uri) as file:
                yield file
        except ArtifactNotFoundError as error:
            raise MissingAssetFileError(
                f"Asset {name} has no file at {uri}. Materialize {name} first: 'dg launch --assets {name}', or with "
                f"everything upstream of it, 'dg launch --assets \"+{name}\"'."
            ) from error

    @property
    def _root(self) -> str:
        return self.root or settings().platform.artifacts_root

    def _uri(self, asset_key: dg.AssetKey, extension: str) -> str:
        return join(self._root, ASSETS, *asset_key.path) + f".{extension}"
