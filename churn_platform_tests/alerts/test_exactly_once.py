"""Receivers that fail in every way and a sender that is killed: each message arrives once, or is listed as in doubt."""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from churn_platform.database import alert_outbox
from churn_platform.database.alert_outbox import Status
from churn_platform_tests.alerts.receivers import Behaviour, HttpReceiver, SmtpReceiver
from churn_platform_tests.waiting import wait_until

# Of each attempt. A message that hangs takes as long as the sender waits.
SHARES = {Behaviour.REFUSE_NOW: 0.02, Behaviour.HANG: 0.004, Behaviour.DROP: 0.01}


@dataclass
class Killer:
    """Kills the sender with SIGKILL while it sends, so many times, each time with this probability.

    The receivers call it in their threads: before they keep a message, and when they have kept it and not answered yet.
    """

    kills: int
    probability: float
    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311  reproducible, not secret
        self._lock = threading.Lock()

    def __call__(self, moment: str, _key: str) -> None:
        """Kill the sender, or let it live."""
        with self._lock:
            left = self.kills - self.killed.total()
            if left > 0 and self.process is not None and self._chance.random() < self.probability:
                self.process.kill()
                self.process.wait()
                self.process = None
                self.killed[moment] += 1

    @contextmanager
    def sender(self, *arguments: str) -> Iterator[None]:
        """Keep a sender running: start another one whenever it was killed."""
        ended = threading.Event()

        def keep_running() -> None:
            while not ended.is_set():
                with self._lock:
                    if self.process is None:
                        self.process = subprocess.Popen(
                            [sys.executable, "-m", "churn_platform_tests.alerts.sending_process", *arguments],
                            stdin=subprocess.PIPE,
                            stderr=subprocess.DEVNULL,  # the reasons of thousands of failed attempts
                            env=dict(os.environ),
                        )
                ended.wait(0.02)

        thread = threading.Thread(target=keep_running)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if self.process is not None:
                self.process.kill()
                self.process.wait()


def chooser(seed: int, shares: dict[Behaviour, float]) -> "_Chooser":
    """Return a choice that fails this share of the attempts."""
    return _Chooser(random.Random(seed), shares)  # noqa: S311  reproducible, not secret


@dataclass
class _Chooser:
    chance: random.Random
    shares: dict[Behaviour, float]
    made: Counter[Behaviour] = field(default_factory=Counter)

    def __call__(self, _key: str) -> Behaviour:
        drawn = self.chance.random()
        chosen = Behaviour.ACCEPT
        for behaviour, share in self.shares.items():
            if 0 <= drawn < share:
                chosen = behaviour
            drawn -= share
        self.made[chosen] += 1
        return chosen


@pytest.mark.parametrize(
    ("cases", "kills", "probability", "shares"),
    [
        pytest.param(150, 6, 0.04, {behaviour: 5 * share for behaviour, share in SHARES.items()}, id="small"),
        pytest.param(10_000, 200, 0.01, SHARES, id="whole", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_every_message_arrives_once_or_is_in_doubt(
    database: str,
    connection: psycopg.Connection,
    cases: int,
    kills: int,
    probability: float,
    shares: dict[Behaviour, float],
) -> None:
    for number in range(cases):
        payload = {"subject": f"Customer {number}", "text": "Call."}
        alert_outbox.add(connection, kind="case", reference=f"case {number}", payload=payload, targets=["crm", "mail"])
    killer = Killer(kills, probability, seed=cases)
    choices = {"crm": chooser(1, shares), "mail": chooser(2, shares)}
    with (
        HttpReceiver(choices["crm"], moment=killer) as http,
        SmtpReceiver(choices["mail"], moment=killer) as smtp,
        killer.sender(database, f"crm={http.url}", f"mail={smtp.url}"),
    ):

        def is_settled() -> bool:
            counts = alert_outbox.count(connection)
            return counts[Status.PENDING] == counts[Status.SENDING] == 0

        wait_until(is_settled, timeout=60 + cases / 10, what="every message to be sent, failed or in doubt")

    messages = alert_outbox.find(connection, statuses=list(Status))
    kept = {"crm": http.kept, "mail": smtp.kept}
    arrived = {each.id: kept[each.target][str(each.idempotency_key)] for each in messages}
    listed = {each.id for each in alert_outbox.find(connection, statuses=[Status.IN_DOUBT])}
    print({"kills": dict(killer.killed), **{name: dict(each.made) for name, each in choices.items()}})  # noqa: T201
    print(Counter((each.target, str(each.status), arrived[each.id]) for each in messages))  # noqa: T201

    assert len(messages) == 2 * cases
    assert {each.status for each in messages} <= {Status.SENT, Status.IN_DOUBT}
    assert [each for each in messages if each.status is Status.SENT and arrived[each.id] != 1] == []
    assert [each for each in messages if each.status is Status.IN_DOUBT and arrived[each.id] > 1] == []
    assert listed == {each.id for each in messages if each.status is Status.IN_DOUBT}
    assert killer.killed.total() == kills
    assert all(choice.made[behaviour] for choice in choices.values() for behaviour in shares)


def test_a_message_whose_sender_is_killed_while_a_service_of_apprise_takes_it_is_in_doubt(
    database: str, connection: psycopg.Connection
) -> None:
    alert_outbox.add(
        connection,
        kind="case",
        reference="case 1",
        payload={"subject": "Customer 1", "text": "Call."},
        targets=["chat"],
    )
    killer = Killer(kills=1, probability=1.0, seed=1)
    with (
        HttpReceiver(lambda _: Behaviour.ACCEPT, moment=killer) as http,
        killer.sender(database, f"chat={http.url.replace('http://', 'json://')}"),
    ):
        wait_until(lambda: alert_outbox.count(connection)[Status.IN_DOUBT] == 1)

    assert killer.killed == {"before": 1}
    assert http.kept.total() == 1
