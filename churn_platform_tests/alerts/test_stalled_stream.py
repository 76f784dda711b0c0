"""A stalled stream reaches the operators' webhook within a minute, without Dagster's daemon."""

import os
import subprocess
import sys
import time

import pytest
from psycopg.conninfo import conninfo_to_dict

from churn_platform_tests.alerts.receivers import HttpReceiver
from churn_platform_tests.stream.streams import Stream, event
from churn_platform_tests.waiting import wait_until


@pytest.mark.slow
def test_a_stalled_stream_reaches_the_operators_webhook_within_a_minute(stream: Stream) -> None:
    stream.send([event(1)])
    stream.stream()
    parts = conninfo_to_dict(stream.config.dsn)
    with HttpReceiver() as receiver:
        environment = {
            **os.environ,
            "DATABASE_URL": f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}",
            "EVENTS_TOPIC": stream.config.events_topic,
            "OPERATOR_TARGETS": f"pager={receiver.url}",
        }
        worker = subprocess.Popen([sys.executable, "-m", "churn_platform.cli", "worker"], env=environment)
        try:
            wait_until(
                lambda: stream.value(
                    "select count(*) from pg_stat_activity where application_name = 'churn worker operator conditions'"
                )
            )
            sent = time.monotonic()
            stream.send([event(2), event(3)])  # and nothing reads them
            wait_until(lambda: receiver.requests, timeout=60, what="a message about the stalled stream")
            seconds = time.monotonic() - sent
        finally:
            worker.terminate()
            worker.wait(30)

    ((_, _, body),) = receiver.requests
    assert (body["condition"]["name"], body["condition"]["state"]) == ("stream-stalled", "began")
    assert body["condition"]["subject"] == stream.config.events_topic
    assert 30 <= seconds <= 60
