"""Small tables as CSV files to download. Long ones are streamed instead."""

import io
from collections.abc import Iterable, Sequence
from datetime import datetime

from starlette.responses import Response

from churn_platform.files.spreadsheets import Cell, write_csv


def csv_download(name: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, now: datetime) -> Response:
    """Return a table as a CSV file.

    Args:
        name: of the file, without its ending; letters, digits and hyphens.
        header: names of the columns.
        rows: cells, as `write_csv` takes them. No cell can become a formula.
        now: present time; its UTC date is a part of the file's name.
    """
    text = io.StringIO(newline="")
    write_csv(text, header, rows)
    disposition = f'attachment; filename="{name}-{now:%Y-%m-%d}.csv"'
    return Response(text.getvalue(), media_type="text/csv", headers={"content-disposition": disposition})
