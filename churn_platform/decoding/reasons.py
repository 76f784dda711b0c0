"""Why bytes are not an event, as text for people who know their data but not this code. Only failures come here."""

import codecs
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

LONGEST_REASON: Final = 500
# Characters of a value, and bytes of a malformed document, that a reason shows.
SHOWN: Final = 40
SHOWN_NAMES: Final = 12
# The decoder's place is that of the fault or one behind it: so many bytes before it are shown, too.
NEAR: Final = 8

_AT_BYTE: Final = re.compile(r"JSON is malformed: (?P<what>.*) \(byte (?P<byte>\d+)\)")
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>\w+)`")
_FIELD: Final = re.compile(r" - at `\$\.(?P<path>[\w.]+)`$")
_NO_NUMBER: Final = re.compile(rb"-?(?:NaN|Infinity|nan|inf)")
# An escaped high surrogate that no low one follows. msgspec takes such a text for one that was cut off.
_HALF_PAIR: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_FORMATS: Final = (
    (b"\xef\xbb\xbf", "a UTF-8 byte order mark (ef bb bf). Send it without"),
    (b"\xff\xfe", "the byte order mark of UTF-16 or UTF-32 (ff fe). Send UTF-8"),
    (b"\xfe\xff", "the byte order mark of UTF-16 (fe ff). Send UTF-8"),
    (b"\0\0\xfe\xff", "the byte order mark of UTF-32 (00 00 fe ff). Send UTF-8"),
    (b"\x1f\x8b", "1f 8b, as gzip does. Compress with the producer's compression.type, not the value itself"),
    (b"\0", "a zero byte, as Avro or Protobuf with a schema registry does. Send plain JSON"),
)
# Without a byte order mark, the zero bytes around the first characters tell: those of JSON are ASCII.
_WIDE: Final = (("utf-32-be", 4), ("utf-32-le", 4), ("utf-16-be", 2), ("utf-16-le", 2))
_WIDE_CHARACTERS: Final = 2
# The mark of UTF-32-LE begins with that of UTF-16-LE.
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
_TIME: Final = "a time as in RFC 3339 with a time zone, such as 2026-11-24T09:15:30Z (no hour 24, no leap second)"


def explain(value: bytes, problem: Exception, fields: Mapping[str, str]) -> str:
    """Why a value could not be decoded: what was expected, and what was found where. Printable, never very long.

    Args:
        value: of the message.
        problem: what the decoder raised.
        fields: what each field of an event may hold, as text.
    """
    return printable(_explain(value, problem, fields))[:LONGEST_REASON]


def printable(text: str) -> str:
    """The text with escapes in place of what cannot be shown, or not be stored: U+0000 and lone surrogates too."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def described(event: type[msgspec.Struct]) -> dict[str, str]:
    """Return what each field of an event may hold, as text, by name."""
    info = msgspec.inspect.type_info(event)
    if not isinstance(info, msgspec.inspect.StructType):
        raise TypeError(f"{event} is no Struct.")
    return {field.name: _in_words(field.type) for field in info.fields}


def _in_words(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_in_words(each) for each in types)
        case msgspec.inspect.IntType(ge=0, le=1):
            return "0 or 1"
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most} (without a decimal point)"
        case msgspec.inspect.FloatType(ge=least, le=most):
            return f"a number from {least:.0f} to {most:.0f}"
        case msgspec.inspect.LiteralType(values=values):
            quoted = [f'"{each}"' for each in values]
            return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        case msgspec.inspect.StrType(min_length=least, max_length=most):
            return f"text of {least} to {most} characters"
        case msgspec.inspect.DateTimeType():
            return _TIME
        case msgspec.inspect.NoneType():
            return "null"
    raise TypeError(f"No words for {kind}.")


def _explain(value: bytes, problem: Exception, fields: Mapping[str, str]) -> str:
    if not value.strip():
        return f"The value is empty ({len(value)} bytes). An event is a JSON object."
    if isinstance(problem, RecursionError):
        return TOO_DEEP
    if isinstance(problem, msgspec.ValidationError):
        return " ".join(filter(None, (_wrong_field(value, str(problem), fields), _malformed_besides(value))))
    if isinstance(problem, (msgspec.DecodeError, UnicodeDecodeError)):
        return _no_json(value, str(problem))
    return str(problem)


def _malformed_besides(value: bytes) -> str:
    """What is malformed behind the field that is wrong: whoever corrects the one meets the other next."""
    try:
        msgspec.json.decode(value, type=msgspec.Raw)  # asks for the form alone: 1e400 is well-formed
        value.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
        return _no_json(value, str(malformed))
    except RecursionError:
        return TOO_DEEP
    return ""


def wide_encoding(value: bytes) -> str | None:
    """Name of the UTF-16 or UTF-32 that a text of ASCII characters is in, by its first bytes; None where it is none."""
    for mark, encoding in _WIDE_MARKS:
        if value.startswith(mark):
            return encoding
    for encoding, width in _WIDE:
        if _is_wide(value[: width * _WIDE_CHARACTERS], encoding):
            return encoding.upper()
    return None


def _no_json(value: bytes, problem: str) -> str:
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
    if not_a_number := _NO_NUMBER.match(value, max(0, position - 1)) or _NO_NUMBER.match(value, position):
        return f"{not_a_number.group().decode()} at byte {position} is not JSON. Send null where there is no number."
    if what == "trailing characters":
        more = _around(value[position - 1 :])
        return f"After the event, which ends before byte {position - 1}, more follows: {more}. Send one in a message."
    return f"Not JSON: {what} at byte {position}, near {_around(value[max(0, position - NEAR) :])}."


def _is_wide(start: bytes, encoding: str) -> bool:
    """Whether the first bytes of a value are ASCII characters in this encoding."""
    try:
        text = start.decode(encoding)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isascii() and (c.isprintable() or c in " \t\r\n") for c in text)


def _wrong_field(value: bytes, problem: str, fields: Mapping[str, str]) -> str:
    at = _FIELD.search(problem)
    path = at["path"].split(".") if at else []
    pairs = _pairs(value)
    if path[:1] == ["data"]:
        inside = [content for name, content in pairs if name == "data" and isinstance(content, _Pairs)]
        pairs, path, where = (inside[-1] if inside else _Pairs()), path[1:], " in data"
    else:
        where = ""
    missing = _MISSING.match(problem)
    if missing is not None:
        names = list(dict.fromkeys(name for name, _ in pairs))
        if not where and "data" in names and "timestamp" not in names and not fields.keys() & set(names):
            return (
                'timestamp is missing beside data. An envelope is {"timestamp": ..., "data": {...}}, an event in data.'
            )
        shown = ", ".join(_cut(name) for name in names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
        return f"{missing['name']} is missing{where}. Names are case-sensitive; found: {shown or 'none'}."
    if not path:
        found = _JSON_KINDS.get(problem.partition("got `")[2].partition("`")[0], "something else")
        return f"{'data' if where else 'The value'} is {found}. An event is a JSON object."
    name = path[0]
    sent = [content for each, content in pairs if each == name]
    given = f"{len(sent)} times (each has to be right): " if len(sent) > 1 else ""
    shown = ", ".join(_cut(_as_sent(content)) for content in sent[:SHOWN_NAMES])
    return f"{name}{where}: expected {fields.get(name, 'something else')}, got {given}{shown or 'another value'}."


class _Pairs(list[tuple[str, object]]):
    """A JSON object with every name that it has, those that come twice too."""


class _Number(str):
    """A JSON number with its digits as they were sent."""

    __slots__ = ()


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_read_value: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, strict=False
).raw_decode


def _pairs(value: bytes) -> _Pairs:
    """Names and values of the object, as sent, up to where it is malformed; empty where it is no object."""
    pairs = _Pairs()
    with suppress(ValueError, RecursionError):  # what stands before the fault is gathered
        _gather(value.decode(errors="replace"), 0, pairs)
    return pairs


def _gather(text: str, at: int, into: _Pairs) -> int:
    """Put the names and values of the object that begins here into `into`, one by one; where it ends.

    Raises:
        ValueError: it is malformed, or no object.
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
    """Where it goes on after a sign.

    Raises:
        ValueError: something else is here.
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
    """A few bytes as text, in quotes."""
    shown = content[:SHOWN].decode(errors="replace")
    return f"'{shown}'"
