"""What the process of a run writes to its console about the run: in colour for people, or as JSON."""

import logging
import sys
from typing import Final

import dagster as dg

from churn_platform import logs
from churn_platform.settings import settings

NAME: Final = "console"
CONFIG: Final[dict[str, dict[str, dict[str, str]]]] = {"loggers": {NAME: {}}}
"""Run configuration of runs that use it. Dagster uses its own logger otherwise."""


@dg.logger(None, description="Writes to the console in the format that LOG_FORMAT names.")
def console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Return the logger of a run."""
    del context
    log_format = settings().platform.log_format
    if log_format == "text":
        text_config = {"name": "dagster", "log_level": "DEBUG"}  # as Dagster does where a job names no logger
        text: logging.Logger = dg.colored_console_logger(dg.build_init_logger_context(text_config))
        return text
    logs.configure(log_format)  # for messages of the run that are not Dagster's
    logger = logging.Logger("dagster", logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.formatter_of(log_format))
    logger.addHandler(handler)
    return logger
