"""Steady background traffic: events at a rate, some invalid, duplicated or late, with a count of each."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from churn_platform.simulation.producer import Mix, Produced, Row, produce
from churn_platform.stream.config import StreamConfig
from churn_platform_tests.waiting import wait_until


@dataclass
class Sent:
    """Messages that Kafka has acknowledged. Each must become a prediction, a dead letter or a duplicate."""

    messages: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def dead_letters(self) -> int:
        """Messages that must become dead letters."""
        return self.kinds["bad"]

    @property
    def duplicates(self) -> int:
        """Messages that repeat another one."""
        return self.kinds["duplicates"]

    @property
    def predictions(self) -> int:
        """Messages that must become rows."""
        return self.messages - self.dead_letters - self.duplicates

    def add(self, produced: Produced) -> None:
        """Count what a producer has sent."""
        self.messages += produced.sent
        self.kinds += produced.kinds


class Traffic:
    """A producer thread that can be started and stopped. `sent` is updated when it stops."""

    def __init__(self, config: StreamConfig, rows: Sequence[Row], *, rate: float, mix: Mix, seed: int) -> None:
        """Create the traffic without starting it.

        Args:
            config: the stream to send to.
            rows: customers to create events of.
            rate: events per second.
            mix: shares of invalid, duplicated and late events.
            seed: seed of the random choice.
        """
        self.sent = Sent()
        self._config = config
        self._rows = rows
        self._rate = rate
        self._mix = mix
        self._seeds = itertools.count(seed)
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._thread is not None

    def start(self) -> None:
        """Start the traffic unless it is running, and wait until events are being sent.

        Raises:
            SendError: Kafka does not accept events.
        """
        if self._thread is None:
            self._stopping.clear()
            self._started.clear()
            self._error = None
            self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
            self._thread.start()
        # The next fault must meet a producer that is sending, not one that is still looking up its topic.
        wait_until(lambda: self._started.is_set() or self._error is not None, what="the traffic to start")
        self.check()

    def stop(self) -> None:
        """Stop the traffic and wait until Kafka has acknowledged all events.

        Raises:
            SendError: Kafka did not.
        """
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        self.check()

    def check(self) -> None:
        """Make sure that the producer has not failed.

        Raises:
            SendError: Kafka did not acknowledge an event.
        """
        if self._error is not None:
            raise self._error

    def send(self, count: int, *, rate: float | None = None) -> None:
        """Send additional events in this thread, as fast as Kafka accepts them unless a rate is given."""
        self.sent.add(self._produce(count=count, rate=rate))

    def _run(self) -> None:
        try:
            self.sent.add(self._produce(count=None, rate=self._rate))
        except Exception as error:
            self._error = error

    def _produce(self, *, count: int | None, rate: float | None) -> Produced:
        return produce(
            self._config,
            self._rows,
            count=count,
            rate=rate,
            duration=None,
            mix=self._mix,
            seed=next(self._seeds),
            until=self._stopping.is_set if count is None else None,
            progress=lambda _: self._started.set(),
        )
