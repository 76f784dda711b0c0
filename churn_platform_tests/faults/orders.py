"""Orders to the processes of a platform under test: what happens to the one that next reaches a fault point."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from churn_platform.stream.faults import FaultPoint
from churn_platform_tests.waiting import wait_until

INSIDE: Final = Path(__file__).with_name("inside")


class Order(StrEnum):
    """What the process does to itself."""

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"


@dataclass(frozen=True)
class Hit:
    """A process that carried an order out, and when, in seconds since 1970."""

    pid: int
    at: float


class Orders:
    """The folder that orders lie in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """An environment in which a process looks for orders."""
        path = os.pathsep.join(filter(None, (str(INSIDE), given.get("PYTHONPATH"))))
        return {**given, "PYTHONPATH": path, "TESTS_FAULT_ORDERS": str(self._folder)}

    def give(self, point: FaultPoint, order: Order) -> None:
        """Order something for the next process that reaches the point."""
        (self._folder / f"{point.name}.hit").unlink(missing_ok=True)
        draft = self._folder / f"{point.name}.new"
        draft.write_text(order)
        draft.rename(self._folder / point.name)

    def hit(self, point: FaultPoint) -> Hit | None:
        """Who carried the order for this point out; None while nobody has."""
        file = self._folder / f"{point.name}.hit"
        return Hit(**json.loads(file.read_text())) if file.exists() else None

    def wait_for_hit(self, point: FaultPoint, timeout: float = 300) -> Hit:
        """Wait until a process has carried the order out."""
        wait_until(lambda: self.hit(point) is not None, timeout, f"a run to get {point}")
        hit = self.hit(point)
        assert hit is not None
        return hit

    def withdraw(self) -> None:
        """Take back whatever nobody has carried out yet."""
        for point in FaultPoint:
            (self._folder / point.name).unlink(missing_ok=True)
