"""Whether the events topic is still the same is asked as often as it could have changed unnoticed, not more often."""

import math

import pytest

from churn_platform.kafka import topics
from churn_platform.kafka.exceptions import TopicChangedError
from churn_platform.stream.topic_identity import CONFIRMED_SECONDS, TopicIdentity
from churn_platform_tests.stream.streams import Stream


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def identity(stream: Stream, clock: Clock) -> TopicIdentity:
    """The identity of a topic that was confirmed, and then created again."""
    found = TopicIdentity(stream.admin, topics.describe(stream.admin, stream.config.events_topic), monotonic=clock)
    found.check()
    stream.recreate_topic()
    return found


@pytest.mark.slow
def test_a_topic_that_was_just_confirmed_is_not_asked_for_again(identity: TopicIdentity, clock: Clock) -> None:
    clock.now += CONFIRMED_SECONDS * 0.9

    identity.request(undisturbed_since=-math.inf)()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "undisturbed_since"),
    [(CONFIRMED_SECONDS, -math.inf), (0.0, 100.0), (0.0, 160.0)],
    ids=["confirmed too long ago", "assigned after it was confirmed", "a connection was lost"],
)
def test_a_topic_that_may_have_changed_unnoticed_is_asked_for(
    identity: TopicIdentity, clock: Clock, seconds: float, undisturbed_since: float
) -> None:
    clock.now += seconds

    with pytest.raises(TopicChangedError, match="was recreated while it was read"):
        identity.request(undisturbed_since=undisturbed_since)()
