"""Events that Kafka's own Java clients send: its console, and a producer with transactions."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from churn_platform.local import jars
from churn_platform.local.java import find_java
from churn_platform.local.kafka import JVM_OPTIONS
from churn_platform_tests.stream.streams import Stream, event

pytestmark = pytest.mark.timeout(180)


def run_tool(name: str, *arguments: str, lines: list[str] | None = None) -> None:
    """Run one of Kafka's command line tools to its end, with these lines as its input."""
    command = [str(find_java()), *JVM_OPTIONS, "-cp", os.pathsep.join(map(str, jars.class_path()))]
    outcome = subprocess.run(
        [*command, f"org.apache.kafka.tools.{name}", *arguments],
        input="\n".join(lines or []),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[-2000:]


@pytest.mark.slow
def test_events_of_the_console_producer_are_read_with_keys_and_headers(stream: Stream) -> None:
    sent = [event(number) for number in range(40)]
    lines = [
        f"trace:{number},source:teller\t{each['CustomerId']}\t{json.dumps(each)}" for number, each in enumerate(sent)
    ]

    run_tool(
        "ConsoleProducer",
        *("--bootstrap-server", str(stream.config.kafka.client["bootstrap.servers"])),
        *("--topic", stream.config.events_topic),
        *("--reader-property", "parse.key=true", "--reader-property", "parse.headers=true"),
        lines=[*lines, "source:teller\tkey\tno event"],
    )

    batch = stream.stream()
    assert (batch.predictions, batch.dead_letters) == (40, 1)
    assert stream.table_ids() == sorted(str(each["event_id"]) for each in sent)


@pytest.mark.slow
def test_events_of_a_java_producer_with_transactions_are_read_once_committed(stream: Stream, tmp_path: Path) -> None:
    payloads = tmp_path / "payloads"
    payloads.write_text("\n".join(json.dumps(event(number)) for number in range(20)))

    run_tool(
        "ProducerPerformance",
        *("--topic", stream.config.events_topic, "--num-records", "300", "--throughput", "-1"),
        *("--payload-file", str(payloads), "--transactional-id", f"java of {stream.config.events_topic}"),
        *("--transaction-duration-ms", "10"),
        *("--producer-props", f"bootstrap.servers={stream.config.kafka.client['bootstrap.servers']}", "acks=all"),
    )

    batch = stream.stream(idle_seconds=2.5)
    assert batch.events == 300
    assert batch.predictions + batch.duplicates == 300
    assert batch.predictions <= 20
    assert stream.waiting() == 0
