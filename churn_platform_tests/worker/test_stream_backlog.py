"""What duties learn from Kafka about a backlog."""

from churn_platform.worker.stream_backlog import KafkaBacklog
from churn_platform_tests.stream.streams import Stream, event


def test_the_backlog_is_what_the_stream_has_not_read_yet(stream: Stream) -> None:
    backlog = KafkaBacklog(stream.config.kafka.client, stream.config.events_topic)
    stream.send([event(number) for number in range(30)])
    assert backlog(stream.connection) == 30

    stream.stream()
    assert backlog(stream.connection) == 0


def test_without_an_answer_from_kafka_there_is_no_backlog(stream: Stream) -> None:
    nobody = KafkaBacklog({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, stream.config.events_topic)
    assert nobody(stream.connection) == 0
    assert KafkaBacklog(stream.config.kafka.client, "no-such-topic")(stream.connection) == 0


def test_after_the_topic_was_created_again_the_backlog_is_that_of_the_new_one(stream: Stream) -> None:
    backlog = KafkaBacklog(stream.config.kafka.client, stream.config.events_topic)
    stream.send([event(number) for number in range(30)])
    stream.stream()
    assert backlog(stream.connection) == 0

    stream.recreate_topic()
    stream.send([event(number) for number in range(6)])

    assert backlog(stream.connection) == 6
