"""The check that the events topic is still the one that a run started to read."""

from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicChangedError, TopicMissingError
from churn_platform.kafka.topics import Topic


class TopicIdentity:
    """The topic as it was when reading began.

    A consumer does not notice a change: when a topic is recreated and grows past the old offsets, the consumer
    continues from there without an error.
    """

    def __init__(self, admin: AdminClient, topic: Topic) -> None:
        self._admin = admin
        self.topic = topic

    def request(self) -> Callable[[], None]:
        """Request the topic's description and return at once. The returned function waits for the answer.

        It raises TopicChangedError if the topic was recreated, deleted, or has other partitions.
        """
        answer = topics.describe_async(self._admin, self.topic.name)
        return lambda: self._require_same(answer)

    def check(self) -> None:
        """Make sure that the topic is the same.

        Raises:
            TopicChangedError: it was recreated, deleted, or has other partitions.
        """
        self.request()()

    def _require_same(self, answer: Callable[[], Topic]) -> None:
        began = self.topic
        try:
            now = answer()
        except TopicMissingError as error:
            raise TopicChangedError(
                f"Topic {began.name!r}, id {began.topic_id}, was deleted while it was read."
            ) from error
        if now.topic_id != began.topic_id:
            raise TopicChangedError(
                f"Topic {began.name!r} was recreated while it was read: its id was {began.topic_id} and is "
                f"{now.topic_id}."
            )
        if now.partitions != began.partitions:
            raise TopicChangedError(
                f"Topic {began.name!r} has {len(now.partitions)} partitions now, had {len(began.partitions)} before. "
                f"All of them are read from now on."
            )
