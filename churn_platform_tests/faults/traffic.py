"""Steady traffic in the background: events at a rate, some of them bad, sent twice or late, and how many of each."""

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
    """Messages that Kafka has acknowledged. Each is to be found again as a prediction, dead letter or duplicate."""

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
    """A producer thread that starts and stops; `sent` grows when it stops."""

    def __init__(self, config: StreamConfig, rows: Sequence[Row], *, rate: float, mix: Mix, seed: int) -> None:
        """Name what is sent.

        Args:
            config: the stream to send to.
            rows: customers that events are made of.
            rate: events a second.
            mix: shares of what is not as it should be.
            seed: of the choice among them.
        """
        self.sent = Sent()
        self._config = config
        self._rows = rows
        self._rate = rate
        self._mix = mix
        self._seeds = itertools.count(seed)
        self._ending = threading.Event()
        self._flowing = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def flows(self) -> bool:
        """Whether it was started and not stopped."""
        return self._thread is not None

    def start(self) -> None:
        """Let it flow, and wait until it does; nothing happens if it flows already.

        Raises:
            SendError: Kafka takes no events.
        """
        if self._thread is None:
            self._ending.clear()
            self._flowing.clear()
            self._error = None
            self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
            self._thread.start()
        # Whatever breaks next breaks a producer that sends, not one that looks for its topic.
        wait_until(lambda: self._flowing.is_set() or self._error is not None, what="the traffic to flow")
        self.check()

    def stop(self) -> None:
        """End it and wait until Kafka has acknowledged everything.

        Raises:
            SendError: Kafka did not.
        """
        if self._thread is None:
            return
        self._ending.set()
        self._thread.join()
        self._thread = None
        self.check()

    def check(self) -> None:
        """Make sure that it has not ended by itself.

        Raises:
            SendError: Kafka did not acknowledge an event.
        """
        if self._error is not None:
            raise self._error

    def send(self, count: int, *, rate: float | None = None) -> None:
        """Send so many events more, here and now, as fast as Kafka takes them unless a rate is given."""
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
            until=self._ending.is_set if count is None else None,
            progress=lambda _: self._flowing.set(),
        )
