"""All places where the platform keeps things, according to the settings and the stack's folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from churn_platform.local.stack import Stack
from churn_platform.operations.cleanup.database import Database
from churn_platform.operations.cleanup.files import Files
from churn_platform.operations.cleanup.local_state import LocalState
from churn_platform.operations.cleanup.plan import Findings, InUseError, Item, Kept, Place, Report, Writer
from churn_platform.operations.cleanup.topics import Topics
from churn_platform.settings import Settings


class Cleanup:
    """Finds and deletes what the platform has created.

    The order of the places matters: topics and files have records in the database, so the database comes after them.
    The stack's folder is last.
    """

    def __init__(self, stack: Stack, settings: Settings) -> None:
        """Determine the places, without reading them.

        Args:
            stack: of this checkout, up or down.
            settings: name the topics and the artifacts root.
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
        self._places.append(LocalState(stack, accounts=_accounts(settings)))
        self._found: list[Findings] = []

    @contextmanager
    def _records(self) -> Iterator[str | None]:
        """Yield the database with the records of created topics. An embedded one that is down runs during the block."""
        if "postgres" in self._stack.yours or self._stack.is_up:
            yield self._stack.owner_dsn
        elif (self._stack.local / "postgres").is_dir():
            with self._stack.only("postgres") as stack:
                yield stack.owner_dsn
        else:
            yield None

    def collect(self, report: Report) -> None:
        """Find out what is in each place. Nothing is changed."""
        self._found = [place.collect(report) for place in self._places]

    @property
    def items(self) -> list[Item]:
        """What will be deleted."""
        return [item for found in self._found for item in found.items]

    @property
    def kept(self) -> list[Kept]:
        """What will be kept."""
        kept = [kept for found in self._found for kept in found.kept]
        if "mlflow" in self._stack.yours:
            name = f"experiment {self._settings.mlflow.experiment}, model {self._settings.mlflow.model}"
            kept.append(Kept("MLflow of MLFLOW_TRACKING_URI", name, "delete runs and models in MLflow"))
        return kept

    def writers(self) -> list[Writer]:
        """Return what still writes now. The stack is first, because stopping it may stop the others."""
        return [writer for place in reversed(self._places) for writer in place.writers()]

    @property
    def word(self) -> str:
        """What the user types to confirm: the name of the place that is most likely to be shared.

        It differs between environments, so that a script cannot delete the wrong one. Empty if nothing was found.
        """
        order = (Database, Topics, Files, LocalState)
        affected = [place for place, found in zip(self._places, self._found, strict=True) if found.items]
        affected.sort(key=lambda place: [isinstance(place, kind) for kind in order].index(True))
        return affected[0].word if affected else ""

    def check_deletable(self) -> None:
        """Check, as far as the servers allow it, that everything found can be deleted. Nothing is changed.

        Raises:
            CleanError: something cannot be deleted.
        """
        for place, found in zip(self._places, self._found, strict=True):
            if found.items:
                place.check_deletable()

    def delete(self, report: Report) -> None:
        """Delete everything that `collect` has found. The stack cannot be started during this.

        Raises:
            InUseError: something writes again; nothing was deleted.
            CleanError: something cannot be deleted. Another call deletes what is left.
        """
        with self._stack.lock() if self._stack.local.is_dir() else nullcontext():
            if writers := self.writers():
                raise InUseError(f"{writers[0].name} writes again. Nothing was deleted.", remedy=writers[0].remedy)
            self.check_deletable()
            for place, found in zip(self._places, self._found, strict=True):
                if found.items:
                    place.delete(report)


def _accounts(settings: Settings) -> Mapping[Path, str]:
    """Return the files of tokens and users that commands write, and what is in them."""
    files = {settings.api.tokens: "tokens of the prediction API", settings.dashboard.users: "users of the dashboard"}
    return {file: title for file, title in files.items() if file is not None}
