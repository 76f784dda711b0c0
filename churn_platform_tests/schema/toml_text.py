"""TOML texts of Python values, for tests that change a schema. The standard library only reads TOML."""

import json
from collections.abc import Mapping
from datetime import date


def to_toml(document: Mapping[str, object]) -> str:
    """Return the document as TOML: each top-level key in a line, with inline tables."""
    return "".join(f"{_text(key)} = {_value(value)}\n" for key, value in document.items())


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _text(value)
        case date():  # and datetime
            return value.isoformat()
        case Mapping():
            return "{" + ", ".join(f"{_text(key)} = {_value(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return str(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
