"""All places where the platform keeps things, as the settings and the stack's folder have it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from churn_platform.local.stack import Stack
from churn_platform.operations.cleanup.database import Database
from churn_platform.operations.cleanup.files import Files
from churn_platform.operations.cleanup.local_state import LocalState
from churn_platform.operations.cleanup.plan import Findings, Item, Kept, Place, Report, StillWrittenToError, Writer
from churn_platform.operations.cleanup.topics import Topics
from churn_platform.settings import Settings


class Platform:
    """What a clean is about: first what has its record in the database, then the database, the stack's folder last."""

    def __init__(self, stack: Stack, settings: Settings) -> None:
        """Find out which places there are; nothing is looked at.

        Args:
            stack: of this checkout, up or down.
            settings: name topics and files.
        """
        self._stack = stack
        self._settings = settings
        self._places: list[Place] = []
        if "kafka" in stack.yours:
            self._places.append(Topics(settings, stack.yours["kafka"], self._records))
        root = settings.platform.artifacts_root
        if not (stack.is_ours and Path(root).is_relative_to(stack.local)):
            self._places.append(Files(root))
        if "postgres" in stack.yours:
            self._places.append(Database(stack.owner_dsn, stack.yours["postgres"]))
        self._places.append(LocalState(stack))
        self._found: list[Findings] = []

    @contextmanager
    def _records(self) -> Iterator[str | None]:
        """The database that knows which topics are ours; an embedded one that is down is up meanwhile."""
        if "postgres" in self._stack.yours or self._stack.is_up:
            yield self._stack.owner_dsn
        elif (self._stack.local / "postgres").is_dir():
            with self._stack.alone("postgres") as stack:
                yield stack.owner_dsn
        else:
            yield None

    def look(self, report: Report) -> None:
        """Look at all places; nothing is changed."""
        self._found = [place.look(report) for place in self._places]

    @property
    def items(self) -> list[Item]:
        """What would go."""
        return [item for found in self._found for item in found.items]

    @property
    def kept(self) -> list[Kept]:
        """What stays."""
        kept = [kept for found in self._found for kept in found.kept]
        if "mlflow" in self._stack.yours:
            name = f"experiment {self._settings.mlflow.experiment}, model {self._settings.mlflow.model}"
            kept.append(Kept("MLflow of MLFLOW_TRACKING_URI", name, "runs and models are deleted in MLflow"))
        return kept

    def writers(self) -> list[Writer]:
        """Who still writes, asked now; the stack first, for what stops it may stop the others."""
        return [writer for place in reversed(self._places) for writer in place.writers()]

    @property
    def word(self) -> str:
        """What is typed to confirm: the name of the place that others are most likely to share.

        It differs from one environment to the next, so that a script cannot clean another one than it means.
        Empty when nothing would go.
        """
        order = (Database, Topics, Files, LocalState)
        affected = [place for place, found in zip(self._places, self._found, strict=True) if found.items]
        affected.sort(key=lambda place: [isinstance(place, kind) for kind in order].index(True))
        return affected[0].word if affected else ""

    def rehearse(self) -> None:
        """Make sure that what `look` has found can be deleted, as far as that can be known. Nothing is changed.

        Raises:
            CleanError: something cannot.
        """
        for place, found in zip(self._places, self._found, strict=True):
            if found.items:
                place.rehearse()

    def remove(self, report: Report) -> None:
        """Delete all that `look` has found, while nobody can start the stack.

        Raises:
            StillWrittenToError: somebody writes by now; nothing was deleted.
            CleanError: something cannot be deleted; run again, it goes on with what is left.
        """
        with self._stack.lock() if self._stack.local.is_dir() else nullcontext():
            if writers := self.writers():
                raise StillWrittenToError(f"{writers[0].name} writes by now.")
            self.rehearse()
            for place, found in zip(self._places, self._found, strict=True):
                if found.items:
                    place.remove(report)
