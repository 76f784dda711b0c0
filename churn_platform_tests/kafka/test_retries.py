"""Requests are retried only on errors that pass within a moment."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from churn_platform.kafka.retries import retry_on
from churn_platform.kafka.topics import LEADER_MOVING


def test_a_request_is_retried_until_kafka_answers() -> None:
    codes = iter([KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION])

    def request() -> str:
        if (code := next(codes, None)) is not None:
            raise KafkaException(KafkaError(code))
        return "answer"

    assert retry_on(LEADER_MOVING, seconds=10)(request) == "answer"


@pytest.mark.parametrize(
    ("code", "seconds"), [(KafkaError.TOPIC_AUTHORIZATION_FAILED, 10), (KafkaError.LEADER_NOT_AVAILABLE, 0)]
)
def test_other_errors_are_raised_at_once_and_transient_ones_after_the_timeout(code: int, seconds: float) -> None:
    calls = []

    def request() -> None:
        calls.append(code)
        raise KafkaException(KafkaError(code))

    with pytest.raises(KafkaException):
        retry_on(LEADER_MOVING, seconds=seconds)(request)

    assert len(calls) == 1
