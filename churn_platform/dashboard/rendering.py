"""Renders templates, with the functions for numbers and times that they use."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from churn_platform.dashboard import formats

FOLDER: Final = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Return the environment of the templates. It escapes every value, and a value that is missing is an error."""
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters.update(
        number=formats.number,
        short_number=formats.short_number,
        percent=formats.percent,
        points=formats.points,
        money=formats.money,
        milliseconds=formats.milliseconds,
        duration=formats.duration,
        moment=formats.moment,
        day=formats.day,
        label=formats.label,
    )
    return found
