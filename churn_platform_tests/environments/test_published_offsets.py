"""Published offsets are read without waiting for a transaction that a dead run has left open."""

from confluent_kafka import Producer, TopicPartition

from churn_platform.environments.published_offsets import make_offsets_consumer, published_offsets
from churn_platform.kafka import topics
from churn_platform.lanes import transactional_id
from churn_platform_tests.stream.streams import Stream, event


def test_an_open_transaction_of_a_dead_run_does_not_delay_the_published_offsets(stream: Stream) -> None:
    stream.send([event(number) for number in range(9)])
    stream.stream()
    kafka, topic = stream.config.kafka, topics.describe(stream.admin, stream.config.events_topic)
    consumer = make_offsets_consumer(kafka)
    dead = Producer({**kafka.client, "transactional.id": transactional_id(kafka.group, 0)})
    dead.init_transactions(10)
    dead.begin_transaction()
    dead.produce(stream.config.predictions_topic, b"{}")
    moved = [TopicPartition(topic.name, partition, 1_000) for partition in topic.partitions]
    dead.send_offsets_to_transaction(moved, consumer.consumer_group_metadata(), 10)
    dead.flush(10)

    found = published_offsets(consumer, topic, seconds=5)
    consumer.close()

    assert sum(found.values()) == 9
    stream.send([event(number) for number in range(9, 12)])
    assert stream.stream().events == 3
    assert len(stream.published()) == 12
