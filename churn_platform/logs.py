"""How processes of the platform write their logs: as text for people, or as JSON for programs that collect logs.

A message never holds data of customers or secrets; that is up to whoever writes it. This module only decides its form.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Of the process, not of a context: the threads of a streaming run write about the same batch.
_fields: dict[str, str] = {}


@contextmanager
def with_fields(**fields: str) -> Iterator[None]:
    """Add fields such as batch and run to every JSON message of this process until the block ends."""
    before = dict(_fields)
    _fields.update(fields)
    try:
        yield
    finally:
        _fields.clear()
        _fields.update(before)


class JsonFormatter(logging.Formatter):
    """One JSON object in a line: time in UTC, level, logger, message, fields of with_fields(), and an error if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a message."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields,
            **_of_dagster(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(log_format: LogFormat) -> None:
    """Write the log of this process to stderr, a line for each message, with the time in UTC."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_of(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def formatter_of(log_format: LogFormat) -> logging.Formatter:
    """Return what turns messages into lines of this format."""
    return JsonFormatter() if log_format == "json" else logging.Formatter(TEXT)


def _of_dagster(record: logging.LogRecord) -> Mapping[str, str]:
    """Return run, job and step of a message that Dagster writes about a run."""
    about = getattr(record, "dagster_meta", None)
    if not isinstance(about, dict):
        return {}
    names = {"run": "run_id", "job": "job_name", "step": "step_key"}
    return {name: str(about[key]) for name, key in names.items() if about.get(key)}
