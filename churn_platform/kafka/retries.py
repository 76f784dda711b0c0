"""Retries of requests that Kafka cannot answer for a moment, such as those about a partition that elects its leader."""

from typing import Final

from confluent_kafka import KafkaException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

PAUSE_SECONDS: Final = 0.05


def retry_on(codes: frozenset[int], *, seconds: float) -> Retrying:
    """Return what calls a function again while it raises a KafkaException with one of these codes.

    Args:
        codes: of errors that pass by themselves.
        seconds: after this long the error is raised.
    """
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].code() in codes),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(PAUSE_SECONDS),
        reraise=True,
    )
