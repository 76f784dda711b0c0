"""The other stream processors: Kafka Streams scores as the platform does, and the latency of all is measured."""

import json
import sys

import numpy as np
import pytest
from rich.console import Console

from benchmarks import peers_latency, throughput
from benchmarks.contenders.rows import score
from benchmarks.peers import jars
from benchmarks.servers import own_stack
from churn_platform.kafka.reading import read_all
from churn_platform.model_store import load_bundle
from churn_platform.settings import settings
from churn_platform.stream.config import StreamConfig

EVENTS = 1_000
RATE = 50
SECONDS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not jars.FOLDER.exists(), reason="'make bench-peers' has not installed .venv-peers"),
]


def test_kafka_streams_publishes_the_scores_of_the_platform() -> None:
    with own_stack({"EVENTS_TOPIC": throughput.DAEMON_TOPIC}) as stack:
        contest = throughput.Contest(stack, Console(quiet=True))
        contest.fill("waiting", EVENTS)
        task = contest.task("kafka_streams", "waiting", events=EVENTS, commit_events=EVENTS)

        throughput.run("kafka_streams", task, python=sys.executable)

        kafka = StreamConfig.from_settings(settings()).kafka
        events = [json.loads(message.value() or b"") for message in read_all(kafka, "waiting")]
        published = [json.loads(message.value() or b"") for message in read_all(kafka, task.predictions_topic)]
        bundle = load_bundle(task.bundle)

    expected = {event["event_id"]: scored for event, scored in zip(events, score(bundle, events), strict=True)}
    assert len(published) == len(expected) == EVENTS
    assert {each["event_id"]: each["prediction"] for each in published} == {
        event_id: prediction for event_id, (prediction, _) in expected.items()
    }
    np.testing.assert_allclose(
        [each["risk_score"] for each in published],
        [expected[each["event_id"]][1] for each in published],
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.timeout(600)  # five stream processors start, one after the other
def test_the_latency_of_the_platform_and_of_each_peer_is_measured() -> None:
    # measure() raises an error if a peer publishes more or fewer predictions than there are events.
    found = peers_latency.measure(Console(quiet=True), rate=RATE, seconds=SECONDS, warm_up=2)

    assert set(found) == {peers_latency.PLATFORM, *(peer.title for peer in peers_latency.PEERS.values())}
    for latency in found.values():
        assert latency.events > 0
        assert 0 < latency.topic.p50 <= latency.topic.p99 <= latency.topic.max
