"""Character encodings of text files: detection, and conversion to UTF-8. Pure; no I/O."""

import codecs
from typing import Final

from churn_platform.schema.exceptions import MalformedFileError

INSPECTED_BYTES: Final = 4_000  # enough to recognize UTF-16 by the header
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SHOWN: Final = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8 with a byte order mark",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 without a byte order mark",
    "utf-16-be": "UTF-16 without a byte order mark",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252",
    "latin-1": "ISO 8859-1",
}
_REMEDY: Final = (
    "Save it as UTF-8: in Excel, save it as 'CSV UTF-8 (comma delimited)'. If it has another encoding, name it in "
    "data_set.encoding of the customer schema."
)


def to_utf8(file: str, content: bytes, *, encoding: str = "") -> tuple[bytes, str]:
    """Return a text as UTF-8 without a byte order mark, and the name of its encoding, for people.

    Args:
        file: the name of the file, for error messages.
        content: the bytes of the file.
        encoding: the encoding, as Python names it; empty to detect it.

    Raises:
        MalformedFileError: the bytes are not text, or not in this encoding.
    """
    encoding = encoding or _detect(file, content)
    if encoding == "utf-8":
        return content, _SHOWN[encoding]
    if encoding == "utf-8-sig":
        return content.removeprefix(codecs.BOM_UTF8), _SHOWN[encoding]
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise MalformedFileError(
            f"{file} is not text in {_SHOWN.get(encoding, encoding)}. Expected text.", remedy=_REMEDY
        ) from None
    return text.removeprefix("\ufeff").encode(errors="replace"), _SHOWN.get(encoding, encoding)


def _detect(file: str, content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            if encoding == "utf-8-sig":
                _require_utf8(file, content)
            return encoding
    if b"\0" in content:
        return _without_mark(file, content)
    if content.isascii() or _is_utf8(content):
        return "utf-8"
    if _is_damaged_utf8(content):
        _require_utf8(file, content)
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _without_mark(file: str, content: bytes) -> str:
    """Return the kind of UTF-16 of bytes with zeros: every other byte of Latin letters is zero."""
    head = content[:INSPECTED_BYTES]
    zeros = (head[0::2].count(0), head[1::2].count(0))
    if max(zeros) * 4 > len(head):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    raise MalformedFileError(
        f"{file} has a zero byte at position {content.index(0):,}, so it is not text. Expected text, Parquet or Excel.",
        remedy="Export it again.",
    )


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_damaged_utf8(content: bytes) -> bool:
    """Return whether most characters beyond ASCII are valid UTF-8, which those of other encodings hardly ever are."""
    text = content.decode(errors="replace")
    wrong = text.count("\ufffd")
    return sum(not character.isascii() for character in text) > 2 * wrong


def _require_utf8(file: str, content: bytes) -> None:
    """Check that a text is UTF-8. The error shows a byte and its line but no text, which may be a name."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MalformedFileError(
            f"{file} holds bytes that are not UTF-8, first in line {line:,}: {content[error.start]:#04x}. "
            f"The rest of it is UTF-8.",
            remedy=_REMEDY,
        ) from None
