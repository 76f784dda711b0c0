"""Whether the events topic is still the one whose reading began."""

from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicChangedError, TopicMissingError
from churn_platform.kafka.topics import Topic


class TopicIdentity:
    """The topic as it was when its reading began.

    A consumer does not notice a change: when a topic is recreated and grows past the old offsets, the consumer goes on
    delivering from there as if nothing had happened.
    """

    def __init__(self, admin: AdminClient, topic: Topic) -> None:
        self._admin = admin
        self.topic = topic

    def ask(self) -> Callable[[], None]:
        """Ask the brokers for the topic, and return at once with what waits for the answer.

        The returned function raises TopicChangedError: the topic was recreated, deleted, or has other partitions.
        """
        answer = topics.describe_async(self._admin, self.topic.name)
        return lambda: self._require_same(answer)

    def check(self) -> None:
        """Make sure that the topic is the same.

        Raises:
            TopicChangedError: it was recreated, deleted, or has other partitions.
        """
        self.ask()()

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
                f"Topic {began.name!r} has {len(now.partitions)} partitions now, had {len(began.partitions)}: "
                f"all of them are read from here on."
            )
