"""Which customers a message that is not a valid event or outcome may be about. Pure; no I/O."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from churn_platform.schema.customer_schema import CustomerSchema

# Whole numbers and words that are not part of longer ones. An id of 64 bits has 19 digits at most.
_NUMBERS: Final = re.compile(r"(?<![0-9A-Za-z.])-?[0-9]{1,19}(?![0-9A-Za-z])")
_WORDS: Final = re.compile(r"[^\s\"'{}\[\]:,;=<>()]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


def named_customers(payload: bytes | None, schema: CustomerSchema) -> set[int | str]:
    """Return the ids of the customers that a message may be about.

    If the message has an id where the schema expects it, that is the only one, also if its type is wrong. Otherwise
    every number or text in it may be one: a message that cannot be read may name a customer anywhere.

    Args:
        payload: bytes of the message, of whatever form.
        schema: of the customers; its ids are whole numbers or texts.
    """
    if payload is None:
        return set()
    known = list(_ids_in_place(payload, schema))
    return set(known) if known else set(_ids_anywhere(payload, schema))


def _ids_in_place(payload: bytes, schema: CustomerSchema) -> Iterator[int | str]:
    try:
        content = msgspec.json.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    for place in (content, content.get("data")):
        if isinstance(place, dict) and place.get(schema.id) is not None:
            yield from _as_ids(place[schema.id], schema)


def _as_ids(value: object, schema: CustomerSchema) -> Iterator[int | str]:
    """Yield what a value is as an id: 42, 42.0 and "42" are the same one."""
    if schema.id_type == "text":
        if isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)
    elif isinstance(value, float) and value.is_integer():
        yield int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, str):
        yield from map(int, _NUMBERS.findall(value))


def _ids_anywhere(payload: bytes, schema: CustomerSchema) -> Iterator[int | str]:
    text = payload.decode("utf-8", "replace")
    if schema.id_type != "text":
        yield from map(int, _NUMBERS.findall(text))
        return
    yield from _WORDS.findall(text)
    for quoted in _QUOTED.findall(text):
        yield quoted
        try:
            yield msgspec.json.decode(f'"{quoted}"', type=str)
        except (msgspec.DecodeError, ValueError):
            continue
