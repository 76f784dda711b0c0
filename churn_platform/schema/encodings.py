"""Detection of files that are not UTF-8 text: what they are, and how to convert them. Pure; no I/O."""

from pathlib import Path
from typing import Final

from churn_platform.schema.exceptions import MalformedFileError

IN_A_SPREADSHEET: Final = "in Excel, save it as 'CSV UTF-8 (comma delimited)'"
INSPECTED_BYTES: Final = 4_000  # enough to recognise UTF-16 by the header
_UTF16: Final = (
    "text in UTF-16, as Excel's 'Unicode text' is",
    f"Save it as UTF-8: {IN_A_SPREADSHEET}, or convert it with 'iconv -f utf-16 -t utf-8'.",
)
_UTF32: Final = ("text in UTF-32", "Save it as UTF-8, for example with 'iconv -f utf-32 -t utf-8'.")
_SIGNATURES: Final = (
    (b"\xff\xfe\0\0", _UTF32),
    (b"\0\0\xfe\xff", _UTF32),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
    (
        b"PK\x03\x04",
        ("a zip archive, which an Excel workbook (.xlsx) is too", f"Export it as CSV: {IN_A_SPREADSHEET}."),
    ),
    (b"\xd0\xcf\x11\xe0", ("an old Excel workbook (.xls)", f"Export it as CSV: {IN_A_SPREADSHEET}.")),
    (b"\x1f\x8b", ("compressed by gzip", "Unpack it with 'gunzip'.")),
    (b"PAR1", ("a Parquet file", "Export it as comma-separated text.")),
)


def require_text(file: Path, content: bytes) -> None:
    """Check that the first bytes are not of another format or of a multi-byte encoding.

    Raises:
        MalformedFileError: it is UTF-16 or UTF-32, with or without a byte order mark, a workbook, or compressed.
    """
    for signature, (what, remedy) in _SIGNATURES:
        if content.startswith(signature):
            raise MalformedFileError(f"{file} is {what}. Expected comma-separated UTF-8 text.", remedy=remedy)
    head = content[:INSPECTED_BYTES]
    if b"\0" not in head:
        return
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if max(zeros) * 4 > len(head):  # in UTF-16, every other byte of Latin letters is zero
        encoding = "utf-16be" if zeros[0] > zeros[1] else "utf-16le"
        raise MalformedFileError(
            f"{file} is {_UTF16[0]}, without a byte order mark. Expected UTF-8 text.",
            remedy=f"Save it as UTF-8: {IN_A_SPREADSHEET}, or convert it with 'iconv -f {encoding} -t utf-8'.",
        )
    raise MalformedFileError(
        f"{file} has a zero byte at position {head.index(0):,}, so it is not text. Expected comma-separated UTF-8.",
        remedy="Export it again.",
    )


def not_utf8(file: Path, content: bytes) -> MalformedFileError:
    """Return the error for text that is not UTF-8. It shows a byte and its line but no text, which may be a name."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f", first in line {line:,}: {content[error.start]:#04x}"
    else:
        where = ""
    return MalformedFileError(
        f"{file} holds bytes that are not UTF-8{where}. Expected UTF-8 text.",
        remedy=f"Save it as UTF-8: {IN_A_SPREADSHEET}, or convert it with 'iconv -f windows-1252 -t utf-8' "
        f"(from Windows) or 'iconv -f latin1 -t utf-8'.",
    )
