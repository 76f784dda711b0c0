"""Requests are repeated while Kafka cannot answer for a moment, and only then."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from churn_platform.kafka.retries import retry_on
from churn_platform.kafka.topics import LEADER_MOVING


def test_a_request_is_repeated_until_kafka_answers() -> None:
    codes = iter([KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION])

    def request() -> str:
        if (code := next(codes, None)) is not None:
            raise KafkaException(KafkaError(code))
        return "answer"

    assert retry_on(LEADER_MOVING, seconds=10)(request) == "answer"


@pytest.mark.parametrize(
    ("code", "seconds"), [(KafkaError.TOPIC_AUTHORIZATION_FAILED, 10), (KafkaError.LEADER_NOT_AVAILABLE, 0)]
)
def test_another_error_is_raised_at_once_and_a_passing_one_when_the_time_is_over(code: int, seconds: float) -> None:
    calls = []

    def request() -> None:
        calls.append(code)
        raise KafkaException(KafkaError(code))

    with pytest.raises(KafkaException):
        retry_on(LEADER_MOVING, seconds=seconds)(request)

    assert len(calls) == 1
