"""Reasons why bytes are not a valid event or outcome, for people who do not know this code. Pure; no I/O."""

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

LONGEST_REASON: Final = 500
# Characters of a value, and bytes of a malformed document, that a reason shows.
SHOWN: Final = 40
SHOWN_NAMES: Final = 12
# The decoder names the byte of the fault or one after it. A reason shows this many bytes before it, too.
BYTES_BEFORE: Final = 8

_AT_BYTE: Final = re.compile(r"JSON is malformed: (?P<what>.*) \(byte (?P<byte>\d+)\)")
# msgspec's messages. A name may be any text, and so may a value that the message quotes: the path is the last one.
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `\$\.(?P<path>.*)`)?", re.DOTALL)
_FIELD: Final = re.compile(r".* - at `\$\.(?P<path>.*)`", re.DOTALL)
_ENVELOPE: Final = "data"
_NOT_A_NUMBER: Final = re.compile(rb"-?(?:NaN|Infinity|nan|inf)")
# An escaped high surrogate without a low one after it. msgspec reports such a text as cut off.
_HALF_PAIR: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_FORMATS: Final = (
    (b"\xef\xbb\xbf", "a UTF-8 byte order mark (ef bb bf). Send it without"),
    (b"\xff\xfe", "the byte order mark of UTF-16 or UTF-32 (ff fe). Send UTF-8"),
    (b"\xfe\xff", "the byte order mark of UTF-16 (fe ff). Send UTF-8"),
    (b"\0\0\xfe\xff", "the byte order mark of UTF-32 (00 00 fe ff). Send UTF-8"),
    (b"\x1f\x8b", "1f 8b, as gzip does. Compress with the producer's compression.type, not the value itself"),
    (b"\0", "a zero byte, as Avro or Protobuf with a schema registry does. Send plain JSON"),
)
# The first characters of JSON are ASCII, so the zero bytes around them show the encoding without a byte order mark.
_WIDE: Final = (("utf-32-be", 4), ("utf-32-le", 4), ("utf-16-be", 2), ("utf-16-le", 2))
_WIDE_CHARACTERS: Final = 2
# In this order, because the mark of UTF-32-LE begins with that of UTF-16-LE.
_WIDE_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32-LE"),
    (codecs.BOM_UTF32_BE, "UTF-32-BE"),
    (codecs.BOM_UTF16_LE, "UTF-16-LE"),
    (codecs.BOM_UTF16_BE, "UTF-16-BE"),
)
TOO_DEEP: Final = "The JSON is nested too deeply: hundreds of brackets inside one another. An event is flat."
_JSON_KINDS: Final = {
    "null": "JSON's null",
    "int": "a number",
    "float": "a number",
    "str": "a text in quotes",
    "array": "an array",
    "bool": "true or false",
}


def explain(value: bytes, problem: Exception, fields: Mapping[str, str]) -> str:
    """Return why a value could not be decoded: what was expected, and what was found where.

    The text is printable and has at most LONGEST_REASON characters.

    Args:
        value: of the message.
        problem: what the decoder raised.
        fields: name of each field -> what it may hold, as text.
    """
    return printable(_explain(value, problem, fields))[:LONGEST_REASON]


def named_field(reason: str, fields: Iterable[str]) -> str | None:
    """Return the field that a reason is about; None if it is about the whole message.

    A field may have any name, so that of another one may begin alike: the longest counts.

    Args:
        reason: of a dead letter.
        fields: names of the fields that an event may have.
    """
    named = (name for name in fields if reason.startswith((f"{printable(name)} ", f"{printable(name)}:")))
    return max(named, key=len, default=None)


def printable(text: str) -> str:
    """Return the text with escapes for what cannot be shown or stored, such as U+0000 and lone surrogates."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _explain(value: bytes, problem: Exception, fields: Mapping[str, str]) -> str:
    if not value.strip():
        return f"The value is empty ({len(value)} bytes). An event is a JSON object."
    if isinstance(problem, RecursionError):
        return TOO_DEEP
    if isinstance(problem, msgspec.ValidationError):
        return " ".join(filter(None, (_wrong_field(value, str(problem), fields), _also_malformed(value))))
    if isinstance(problem, (msgspec.DecodeError, UnicodeDecodeError)):
        return _malformed(value, str(problem))
    return str(problem)


def _also_malformed(value: bytes) -> str:
    """Return what is malformed after the wrong field, so that both can be corrected at once; empty if nothing is."""
    try:
        msgspec.json.decode(value, type=msgspec.Raw)  # checks the form alone: 1e400 is well-formed
        value.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
        return _malformed(value, str(malformed))
    except RecursionError:
        return TOO_DEEP
    return ""


def wide_encoding(value: bytes) -> str | None:
    """Return the name of the UTF-16 or UTF-32 encoding that begins with these bytes; None if it is another encoding."""
    for mark, encoding in _WIDE_MARKS:
        if value.startswith(mark):
            return encoding
    for encoding, width in _WIDE:
        if _is_wide(value[: width * _WIDE_CHARACTERS], encoding):
            return encoding.upper()
    return None


def _malformed(value: bytes, problem: str) -> str:
    for encoding, width in _WIDE:
        if _is_wide(value[: width * _WIDE_CHARACTERS], encoding):
            return f"The value is {encoding.upper()} (it begins with {value[: 2 * width].hex(' ')}). Send UTF-8."
    for start, meaning in _FORMATS:
        if value.startswith(start):
            return f"The value begins with {meaning}."
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return (
            f"Not UTF-8: byte {error.start} is {value[error.start]:#04x} ({error.reason}), "
            f"after {_around(value[: error.start][-SHOWN:])}. Send JSON in UTF-8."
        )
    found = _AT_BYTE.fullmatch(problem)
    if (found is None or "surrogate" in problem) and (half := _HALF_PAIR.search(value)) is not None:
        return f"Half of a surrogate pair before byte {half.end()}: {_around(half.group()[-6:])} is no character."
    if found is None:
        return f"The JSON ends too early, after {len(value)} bytes: {_around(value[-SHOWN:])}. Was it cut off?"
    position, what = int(found["byte"]), found["what"]
    if found_text := _NOT_A_NUMBER.match(value, max(0, position - 1)) or _NOT_A_NUMBER.match(value, position):
        return f"{found_text.group().decode()} at byte {position} is not JSON. Send null where there is no number."
    if what == "trailing characters":
        more = _around(value[position - 1 :])
        return f"After the event, which ends before byte {position - 1}, more follows: {more}. Send one in a message."
    return f"Not JSON: {what} at byte {position}, near {_around(value[max(0, position - BYTES_BEFORE) :])}."


def _is_wide(start: bytes, encoding: str) -> bool:
    """Return whether the first bytes of a value are ASCII characters in this encoding."""
    try:
        text = start.decode(encoding)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isascii() and (c.isprintable() or c in " \t\r\n") for c in text)


def _wrong_field(value: bytes, problem: str, fields: Mapping[str, str]) -> str:
    """Return the reason for a value that is JSON, but has a field that is wrong or missing."""
    missing = _MISSING.fullmatch(problem)
    at = missing or _FIELD.fullmatch(problem)
    name, is_wrapped = _field_at(at["path"] or "" if at else "", fields)
    pairs, where = _pairs(value), ""
    if is_wrapped:
        inside = [content for each, content in pairs if each == _ENVELOPE and isinstance(content, _Pairs)]
        pairs, where = inside[-1] if inside else _Pairs(), f" in {_ENVELOPE}"
    if missing is not None:
        return _missing_field(missing["name"], pairs, where, fields)
    if not name:
        found = _JSON_KINDS.get(problem.partition("got `")[2].partition("`")[0], "something else")
        return f"{_ENVELOPE if where else 'The value'} is {found}. An event is a JSON object."
    sent = [content for each, content in pairs if each == name]
    given = f"{len(sent)} times (each has to be right): " if len(sent) > 1 else ""
    shown = ", ".join(_cut(_as_sent(content)) for content in sent[:SHOWN_NAMES])
    return f"{name}{where}: expected {fields.get(name, 'something else')}, got {given}{shown or 'another value'}."


def _field_at(path: str, fields: Mapping[str, str]) -> tuple[str, bool]:
    """Return the name of the field at a path, empty for the whole object, and whether it is in an envelope.

    A name may contain dots.
    """
    if path in fields:
        return path, False
    envelope, _, name = path.partition(".")
    return (name, True) if envelope == _ENVELOPE else (path, False)


def _missing_field(name: str, pairs: "_Pairs", where: str, fields: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(each for each, _ in pairs))
    if not where and _ENVELOPE in names and "timestamp" not in names and not fields.keys() & set(names):
        return 'timestamp is missing beside data. An envelope is {"timestamp": ..., "data": {...}}, an event in data.'
    shown = ", ".join(_cut(each) for each in names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
    return f"{name} is missing{where}. Names are case-sensitive; found: {shown or 'none'}."


class _Pairs(list[tuple[str, object]]):
    """The names and values of a JSON object, including names that occur twice."""


class _Number(str):
    """A JSON number with its digits as they were sent."""

    __slots__ = ()


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_read_value: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, strict=False
).raw_decode


def _pairs(value: bytes) -> _Pairs:
    """Return names and values of the object as sent, up to where it is malformed; none if it is not an object."""
    pairs = _Pairs()
    with suppress(ValueError, RecursionError):  # what comes before the fault is kept
        _gather(value.decode(errors="replace"), 0, pairs)
    return pairs


def _gather(text: str, at: int, into: _Pairs) -> int:
    """Append the names and values of the object that begins at `at` to `into`, one by one; return where it ends.

    Raises:
        ValueError: it is malformed, or not an object.
    """
    at = _after_space(text, _after(text, at, "{"))
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        name, at = _read_value(text, _after_space(text, at))
        at = _after_space(text, _after(text, at, ":"))
        if text[at : at + 1] == "{":
            inner = _Pairs()
            into.append((str(name), inner))  # before it is read: it may be malformed
            at = _gather(text, at, inner)
        else:
            content, at = _read_value(text, at)
            into.append((str(name), content))
        at = _after_space(text, at)
        if text[at : at + 1] != ",":
            return _after(text, at, "}")
        at += 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _after(text: str, at: int, sign: str) -> int:
    """Return the index after a sign, which may have space before it.

    Raises:
        ValueError: something else is at this place.
    """
    at = _after_space(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"{sign} is expected at {at}.")
    return at + 1


def _as_sent(content: object) -> str:
    match content:
        case _Number():
            return str(content)
        case _Pairs():
            return "an object"
        case list():
            return "an array"
        case None:
            return "null"
        case _:
            return json.dumps(content, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _around(content: bytes) -> str:
    """Return the first bytes as text, in quotes."""
    shown = content[:SHOWN].decode(errors="replace")
    return f"'{shown}'"
