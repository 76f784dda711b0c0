"""Tables as files to download: CSV and Excel, written while they are downloaded, whatever the number of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Literal

import psycopg
from starlette.responses import Response, StreamingResponse

from churn_platform.dashboard.page import Visit
from churn_platform.files.spreadsheets import Cell, csv_chunks, workbook_chunks

Kind = Literal["csv", "xlsx"]

WORKBOOK: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_MEDIA_TYPES: Final[Mapping[Kind, str]] = {"csv": "text/csv", "xlsx": WORKBOOK}


def download(
    visit: Visit,
    name: str,
    kind: Kind,
    header: Sequence[str],
    read: Callable[[psycopg.Connection], Iterable[Sequence[Cell]]],
) -> Response:
    """Return a file with the day in its name, such as customers-2026-11-29.csv.

    Args:
        visit: the request.
        name: of the file.
        kind: of the file, which is also the end of its name.
        header: names of the columns.
        read: returns the rows, in one transaction; with a cursor of the server if there may be many.

    Raises:
        BusyError: others download files already.
        UnavailableError: PostgreSQL does not answer.
        psycopg.Error: the rows cannot be read. If that happens later, the download ends as a failed one.
    """
    write = csv_chunks if kind == "csv" else workbook_chunks

    def content() -> Iterator[bytes]:
        with visit.databases.exporting() as connection:
            yield from write(header, read(connection))

    chunks = content()
    first = next(chunks)  # before the answer begins: whatever is wrong at once gets an answer of its own
    day = visit.now.astimezone(visit.config.timezone).date()
    return StreamingResponse(
        chain([first], chunks),
        media_type=_MEDIA_TYPES[kind],
        headers={"content-disposition": f'attachment; filename="{name}-{day}.{kind}"'},
    )
