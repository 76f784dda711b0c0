"""Fault injection at fault points: the next process of the platform that reaches an armed one injects the fault."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from churn_platform.stream.faults import FaultPoint
from churn_platform_tests.waiting import wait_until

INJECTED: Final = Path(__file__).with_name("injected")


class Action(StrEnum):
    """How a process injects the fault into itself."""

    KILL = "kill"
    STOP = "stop"
    RAISE = "raise"


@dataclass(frozen=True)
class Hit:
    """A process that a fault was injected into, and when, in seconds since 1970."""

    pid: int
    at: float


class FaultInjector:
    """Arms fault points through files in a folder, which the platform's processes check."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which processes inject the faults of this folder."""
        path = os.pathsep.join(filter(None, (str(INJECTED), given.get("PYTHONPATH"))))
        return {**given, "PYTHONPATH": path, "TESTS_FAULTS_FOLDER": str(self._folder)}

    def arm(self, point: FaultPoint, action: Action) -> None:
        """Arm a fault point for the next process that reaches it."""
        (self._folder / f"{point.name}.hit").unlink(missing_ok=True)
        draft = self._folder / f"{point.name}.new"
        draft.write_text(action)
        draft.rename(self._folder / point.name)

    def hit(self, point: FaultPoint) -> Hit | None:
        """Return the process that reached this armed point; None if none has yet."""
        file = self._folder / f"{point.name}.hit"
        return Hit(**json.loads(file.read_text())) if file.exists() else None

    def wait_for_hit(self, point: FaultPoint, timeout: float = 300) -> Hit:
        """Wait until a process has reached this armed point."""
        wait_until(lambda: self.hit(point) is not None, timeout, f"a run to reach the point {point}")
        hit = self.hit(point)
        assert hit is not None
        return hit

    def disarm(self) -> None:
        """Disarm all fault points that no process has reached yet."""
        for point in FaultPoint:
            (self._folder / point.name).unlink(missing_ok=True)
