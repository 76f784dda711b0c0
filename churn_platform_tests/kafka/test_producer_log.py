"""What Kafka's client logs for a producer: errors, and no retries of a healthy start."""

import logging
import socket

import pytest
from confluent_kafka import Producer

from churn_platform.kafka import clients
from churn_platform.kafka.sending import FLUSH_SECONDS
from churn_platform_tests.kafka.loading import loading_relay
from churn_platform_tests.stream.streams import Stream

IDEMPOTENT: clients.Settings = {"log_level": 4, "enable.idempotence": True}


def produced(producer: Producer, topic: str) -> int:
    """Produce a message, and return how many are not acknowledged in the end."""
    producer.produce(topic, b"{}")
    return producer.flush(FLUSH_SECONDS)


def test_a_broker_that_has_no_producer_ids_yet_is_asked_again_without_a_line(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(str(stream.config.kafka.client["bootstrap.servers"]).rpartition(":")[2])
    with loading_relay(port, answers=2) as relay:
        client = {**stream.config.kafka.client, "bootstrap.servers": f"127.0.0.1:{relay.own_port}", **IDEMPOTENT}

        with caplog.at_level(logging.DEBUG, "churn.kafka"):
            assert produced(clients.producer(client), stream.config.events_topic) == 0

    assert relay.refused == 2
    assert "churn.kafka" not in {record.name for record in caplog.records}


def test_a_connection_that_fails_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody else gets the port, and nothing listens there
        address = f"127.0.0.1:{closed.getsockname()[1]}"

        produced(clients.producer({"bootstrap.servers": address, "message.timeout.ms": 500, **IDEMPOTENT}), "events")

    refused = [each for each in caplog.records if each.name == "churn.kafka" and "Connection refused" in each.message]
    assert {each.levelname for each in refused} == {"ERROR"}
