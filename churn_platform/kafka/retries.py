"""Retries of requests that fail for a moment, for example while a partition has no leader."""

from typing import Final

from confluent_kafka import KafkaException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

PAUSE_SECONDS: Final = 0.05


def retry_on(codes: frozenset[int], *, seconds: float) -> Retrying:
    """Return a retrying caller: it calls a function again while that raises a KafkaException with one of these codes.

    Args:
        codes: error codes that are worth a retry.
        seconds: after this long the error is raised.
    """
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].code() in codes),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(PAUSE_SECONDS),
        reraise=True,
    )
