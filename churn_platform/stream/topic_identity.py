"""The check that the events topic is still the one that a run started to read."""

import math
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka.admin import AdminClient

from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicChangedError, TopicMissingError
from churn_platform.kafka.reading import REFUSED_SECONDS
from churn_platform.kafka.topics import Topic

# A topic that was confirmed less than this long ago is still the same for a consumer that has read without a break.
# Since Kafka 3.1, a consumer asks for the messages of a topic id. When the topic is deleted, it is refused, and waits
# for REFUSED_SECONDS. Only then does it read a topic that was created in the meantime.
CONFIRMED_SECONDS: Final = REFUSED_SECONDS / 2


class TopicIdentity:
    """The topic as it was when reading began.

    A consumer does not report a change: when a topic is recreated and grows past the old offsets, the consumer
    continues from there without an error.
    """

    def __init__(self, admin: AdminClient, topic: Topic, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Confirm nothing yet.

        Args:
            admin: asks the brokers.
            topic: as it was when reading began.
            monotonic: the clock of `undisturbed_since`.
        """
        self._admin = admin
        self.topic = topic
        self._monotonic = monotonic
        self._confirmed_at = -math.inf

    def request(self, *, undisturbed_since: float) -> Callable[[], None]:
        """Request the topic's description, unless it was just confirmed, and return at once.

        The returned function waits for the answer. It raises TopicChangedError if the topic was recreated, deleted, or
        has other partitions, so that messages that were read before the request may be of another topic.

        Args:
            undisturbed_since: see FollowingConsumer.
        """
        now = self._monotonic()
        if self._confirmed_at > undisturbed_since and now - self._confirmed_at < CONFIRMED_SECONDS:
            return _is_confirmed
        return self._request(now)

    def check(self) -> None:
        """Make sure that the topic is the same.

        Raises:
            TopicChangedError: it was recreated, deleted, or has other partitions.
        """
        self._request(self._monotonic())()

    def _request(self, now: float) -> Callable[[], None]:
        answer = topics.describe_async(self._admin, self.topic.name)

        def require_same() -> None:
            self._require_same(answer)
            self._confirmed_at = now

        return require_same

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


def _is_confirmed() -> None:
    """Do nothing: the topic is known to be the same."""
