"""What the frames of the preparation say of the customers file that they were made from. It is stored with the rows."""

from typing import Final

FILE_HASH: Final = "sha256"
"""Name of metadata as well: SHA-256 of the customers file, from raw_customers to the model."""

FILE_ROWS: Final = "file_rows"
QUARANTINED_ROWS: Final = "quarantined_rows"


def file_attributes(*, sha256: str, rows: int, quarantined: int) -> dict[str, str | int]:
    """Return the `attrs` of frames that were made from a customers file.

    Args:
        sha256: hexadecimal SHA-256 of the file.
        rows: number of its rows, without those of erased customers.
        quarantined: number of rows that break a rule of the customer schema.
    """
    return {FILE_HASH: sha256, FILE_ROWS: rows, QUARANTINED_ROWS: quarantined}
