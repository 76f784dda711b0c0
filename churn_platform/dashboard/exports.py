"""Tables as files to download: CSV and Excel, written while they are downloaded, whatever the number of rows."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Final, Literal

import anyio
import psycopg
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from churn_platform.dashboard.page import Visit
from churn_platform.files.spreadsheets import Cell, csv_chunks, workbook_chunks

_log = logging.getLogger("churn.dashboard")

Kind = Literal["csv", "xlsx"]

LONGEST: Final = timedelta(minutes=15)
"""A download that takes longer is ended: it keeps a connection, and the others wait for its place."""

WORKBOOK: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_MEDIA_TYPES: Final[Mapping[Kind, str]] = {"csv": "text/csv", "xlsx": WORKBOOK}


class _Download(StreamingResponse):
    """A file that is written while it is downloaded. Whatever ends the download gives the connection back at once."""

    def __init__(self, chunks: Generator[bytes], *, media_type: str, file: str) -> None:
        first = next(chunks)  # before the answer begins: whatever is wrong at once gets an answer of its own
        headers = {"content-disposition": f'attachment; filename="{file}"'}
        super().__init__(chain([first], chunks), media_type=media_type, headers=headers)
        self._chunks = chunks
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(LONGEST.total_seconds()) as limit:
                await super().__call__(scope, receive, send)
            if limit.cancelled_caught:
                _log.warning("The download of %s was ended after %s.", self._file, LONGEST)
        finally:
            with anyio.CancelScope(shield=True):  # also if the server stops
                await run_in_threadpool(self._chunks.close)


def download(
    visit: Visit,
    name: str,
    kind: Kind,
    header: Sequence[tuple[str, str]],
    read: Callable[[psycopg.Connection], Iterable[Sequence[Cell]]],
) -> Response:
    """Return a file with the day in its name, such as customers-2026-11-29.csv.

    Args:
        visit: the request.
        name: of the file.
        kind: of the file, which is also the end of its name.
        header: name of each column for programs, which CSV has, and for people, which Excel has.
        read: returns the rows, in one transaction; with a cursor of the server if there may be many.

    Raises:
        BusyError: others download files already.
        UnavailableError: PostgreSQL does not answer.
        psycopg.Error: the rows cannot be read. If that happens later, the download ends as a failed one.
    """

    def content() -> Generator[bytes]:
        with visit.databases.exporting() as connection:
            if kind == "csv":
                yield from csv_chunks([name for name, _ in header], read(connection))
            else:
                yield from workbook_chunks([title for _, title in header], read(connection))

    day = visit.now.astimezone(visit.config.timezone).date()
    return _Download(content(), media_type=_MEDIA_TYPES[kind], file=f"{name}-{day}.{kind}")
